"""Sessions: what was read stays read, in every kind of cache, and texts are written without Python in between."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import fewbits
from fewbits import memory
from fewbits.engine import Model, load
from fewbits.engine.sampling import Sampling
from fewbits.errors import EngineError

POCKET = Path(__file__).parents[2] / "examples" / "models" / "pocket-llama"
TOKENS = [int(token) for token in np.random.default_rng(3).integers(5, 4000, 120)]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("session") / "pocket-Q4_K_M.gguf"
    fewbits.quantize(str(POCKET), str(made), to="Q4_K_M")
    return made


@pytest.fixture(scope="module")
def model(path: Path) -> Model:
    return load(path, threads=2)


def greedy(model: Model, prompt: list[int], count: int) -> list[int]:
    session, out = model.session(), []
    logits = session.evaluate(prompt)
    for _ in range(count):
        out.append(int(logits.argmax()))
        logits = session.evaluate(out[-1:])
    return out


def divergence(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    """Mean KL divergence of what follows each token, in nats."""
    p, q = (x.astype(np.float64) - np.logaddexp.reduce(x.astype(np.float64), -1, keepdims=True) for x in (a, b))
    return float((np.exp(p) * (p - q)).sum(-1).mean())


def test_native_writing_is_the_best_token_again_and_again(model: Model) -> None:
    session = model.session()
    pieces = list(session.generate(TOKENS[:9], 40, sampler=Sampling(temperature=0).sampler(), stop=frozenset()))
    expected = greedy(model, TOKENS[:9], 40)
    assert [token for piece in pieces for token in piece] == expected
    assert session.length() == 9 + 39  # the last one was chosen and not read


def test_weights_that_are_repacked_at_once_say_the_same_and_how_far_it_is(model: Model, path: Path) -> None:
    eager, told = load(path, threads=2), []
    eager.pack(lambda stage, done, total: told.append((stage, done, total)))
    stages, done, totals = zip(*told, strict=True)
    np.testing.assert_array_equal(eager.session().evaluate(TOKENS), model.session().evaluate(TOKENS))
    assert set(stages) == {"prepare"}
    assert list(done) == sorted(done)
    assert done[-1] == totals[0] == eager.panels_bytes > 0
    assert len(told) == len(eager.multiplied) == 7 * 4 + 1  # the head is the embedding


def test_a_stop_ends_it_and_is_not_written(model: Model) -> None:
    expected = greedy(model, TOKENS[:9], 30)
    stop = expected[20]
    session = model.session()
    pieces = session.generate(TOKENS[:9], 30, sampler=Sampling(temperature=0).sampler(), stop=frozenset({stop}))
    assert [token for piece in pieces for token in piece] == expected[: expected.index(stop)]


def test_a_closed_generator_leaves_a_session_that_goes_on(model: Model) -> None:
    session = model.session()
    going = session.generate(TOKENS[:9], 300, sampler=Sampling(temperature=0).sampler(), stop=frozenset())
    first = next(going)
    going.close()
    assert "fewbits-generation" not in [thread.name for thread in threading.enumerate()]
    assert session.length() >= 9
    session.keep(9)
    again = session.generate(first[:1], 5, sampler=Sampling(temperature=0).sampler(), stop=frozenset())
    assert [first[0], *(token for piece in again for token in piece)] == greedy(model, TOKENS[:9], 6)


def test_a_session_does_one_thing_at_a_time(model: Model) -> None:
    session = model.session()
    going = session.generate(TOKENS[:9], 100, sampler=Sampling(temperature=0).sampler(), stop=frozenset())
    next(going)
    for other in (lambda: session.evaluate(TOKENS[:1]), lambda: session.keep(0)):
        with pytest.raises(EngineError, match="this session is writing a text"):
            other()
    going.close()
    session.keep(0)


def test_threads_with_sessions_of_their_own_take_turns(model: Model) -> None:
    expected = model.session().evaluate(TOKENS[:60])
    found: list[npt.NDArray[np.float32]] = []
    threads = [threading.Thread(target=lambda: found.append(model.session().evaluate(TOKENS[:60]))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert all(np.array_equal(each, expected) for each in found)


def test_what_was_read_is_kept_for_the_next_prompt(model: Model) -> None:
    session = model.session()
    session.evaluate(TOKENS)
    session.keep(50)
    assert np.array_equal(session.evaluate(TOKENS[50:]), model.session().evaluate(TOKENS))


@pytest.mark.parametrize(("cache", "limit"), [("F16", 1e-6), ("Q8_0", 1e-4), ("Q4_0", 3e-2)])
def test_caches_hold_what_their_bits_allow(path: Path, cache: str, limit: float) -> None:
    model = load(path, threads=2, exact=True)
    assert model.cached_as(None) == "F32"
    exact, own = (model.session(cache=kind).evaluate_all(TOKENS) for kind in ("F32", cache))
    assert 0 < divergence(exact, own) < limit
    one_by_one = model.session(cache=cache)
    assert np.array_equal(own[:40], np.stack([one_by_one.evaluate([token]) for token in TOKENS[:40]]))


def test_weights_that_stay_in_the_file_give_the_same_numbers(path: Path, model: Model) -> None:
    mapped = load(path, threads=1, mapped=True)
    assert np.array_equal(mapped.session().evaluate_all(TOKENS), model.session().evaluate_all(TOKENS))


def test_no_memory_for_the_cache_is_said_with_what_fits(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    each = model.cache_bytes(1, "F16")
    room = model.panels_bytes + (1 << 27) + 100 * each
    monkeypatch.setattr("fewbits.engine.model.available_memory", lambda: room)
    with pytest.raises(EngineError, match=r"a context of 512 tokens takes .* ask for a context of at most 100\.$"):
        model.session()
    assert model.session(context=100).context == 100
    monkeypatch.setattr("fewbits.engine.model.available_memory", lambda: 1 << 20)
    with pytest.raises(EngineError, match="use a smaller model, or --mmap"):
        model.session()


def test_available_memory_minds_the_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:  900 kB\nMemAvailable:    800 kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_GROUP", tmp_path)
    assert memory.available_memory() == 800 * 1024
    for name, text in (("memory.max", "5000\n"), ("memory.current", "4000\n"), ("memory.stat", "anon 7\nfile 300\n")):
        (tmp_path / name).write_text(text)
    assert memory.available_memory() == 1300
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available_memory() == 800 * 1024


def test_a_file_that_changes_while_it_is_mapped_is_noticed(path: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.gguf"
    own.write_bytes(path.read_bytes())
    session = load(own, threads=1, mapped=True).session()
    session.evaluate(TOKENS[:3])
    own.rename(tmp_path / "moved.gguf")
    session.evaluate(TOKENS[3:5])  # what was mapped is still there
    (tmp_path / "moved.gguf").rename(own)
    os.utime(own, ns=(0, 0))
    with pytest.raises(EngineError, match=r"own\.gguf: the file was changed while the model was in use"):
        session.evaluate(TOKENS[5:6])


def test_a_file_that_gets_shorter_ends_with_a_sentence(path: Path, tmp_path: Path) -> None:
    """The signal that a missing page sends comes between any two looks at the file."""
    own = tmp_path / "own.gguf"
    own.write_bytes(path.read_bytes())
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom fewbits.engine import load\n"
        "from fewbits.engine.stamp import Stamp\n"
        "Stamp.require_same = lambda self: None\n"
        "session = load(Path(sys.argv[1]), threads=2, mapped=True).session()\n"
        "os.truncate(sys.argv[1], 65536)\nsession.evaluate(list(range(40)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(own)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("fewbits: the model's file got shorter while it was in use;")


def test_what_does_not_fit_is_refused(model: Model) -> None:
    session = model.session(context=16)
    with pytest.raises(EngineError, match="17 tokens do not fit into the context of 16"):
        session.evaluate(TOKENS[:17])
    with pytest.raises(EngineError, match="no tokens"):
        session.evaluate([])
    with pytest.raises(EngineError, match="a context of 513 tokens was asked for"):
        model.session(context=513)
    with pytest.raises(EngineError, match="a cache holds F32, F16, Q8_0, Q4_0, not 'Q5'"):
        model.session(cache="Q5")
