"""`bench` on a session that counts what it is asked: which work is timed, and what the figures say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fewbits import engine
from fewbits.errors import EngineError, EvaluationError
from fewbits.memory import peak_resident_memory
from fewbits.speed import bench as speed
from fewbits.speed import rates
from fewbits.speed.bandwidth import Memory
from fewbits.speed.energy import Counter, Counters
from fewbits.speed.rates import Rate
from fewbits.speed.traffic import weights_read
from references.gguf_files import write_gguf

WATTS = 20


@dataclass
class Clock:
    """Seconds that pass only by what is evaluated: 1 for a call and 1/100 for a token, and twice that at first."""

    now: float = 0.0
    calls: list[tuple[int, int]] = field(default_factory=list)
    """(tokens before, tokens given) of each call."""

    def session(self, *, context: int, cache: str) -> SimpleNamespace:
        held: list[int] = []

        def evaluate(tokens: Sequence[int], *, sequence: int = 0) -> object:
            self.calls.append((len(held), len(tokens)))
            held.extend(tokens)
            assert len(held) <= context
            assert all(0 <= token < 32 for token in tokens)
            self.now += (1 + len(tokens) / 100) * (2 if len(self.calls) == 1 else 1)
            return None

        def keep(length: int, *, sequence: int = 0) -> None:
            assert length <= len(held)
            del held[length:]

        return SimpleNamespace(context=context, evaluate=evaluate, keep=keep, cache=cache)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock, and an engine that moves it."""
    clock = Clock()

    def load(path: Path, **options: Any) -> SimpleNamespace:
        clock.now += 5
        cached = lambda context, cache: 1000 * context * len(cache)
        facts = {
            "architecture": "llama",
            "vocabulary": 32,
            "cached_as": lambda cache: cache or "F16",
            "cache_bytes": cached,
            "pack": lambda progress: None,
        }
        return SimpleNamespace(session=clock.session, **facts)

    monkeypatch.setattr(speed, "engine", SimpleNamespace(load=load))
    for module in (speed, rates):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def test_the_work_is_what_was_asked_for(clock: Clock, pocket: Path) -> None:
    result = speed.bench(pocket, prompt=20, generate=3, depth=10, repeats=2, limit=False)

    prompts, tokens = [(10, 20)], [(10, 1), (11, 1), (12, 1)]
    assert clock.calls == [(0, 1), (0, 10), *prompts * 3, *tokens * 3]
    assert result.prompt == Rate(20, 10, pytest.approx((1.2, 1.2)), None)
    assert result.generation == Rate(3, 10, pytest.approx((3.03, 3.03)), None)
    assert (result.load_seconds, result.first_token_seconds) == pytest.approx((5, 7.02))
    assert (result.context, result.cache_bytes) == (30, 90_000)


def test_without_warm_up_depth_and_one_of_both(clock: Clock, pocket: Path) -> None:
    result = speed.bench(pocket, prompt=0, generate=2, repeats=1, warm_up=False, limit=False)

    assert clock.calls == [(0, 1), (0, 1), (1, 1)]
    assert result.prompt is None
    assert result.generation is not None
    assert result.generation.tokens_per_second == pytest.approx(2 / 2.02)


def test_a_bench_of_nothing_is_refused_before_anything_is_loaded(clock: Clock, pocket: Path) -> None:
    with pytest.raises(EvaluationError, match="nothing to measure"):
        speed.bench(pocket, prompt=0, generate=0)

    assert clock.now == 0


def test_energy_is_that_of_the_measured_turns(clock: Clock, pocket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Timed(Counter):
        def read(self) -> int:
            return round(WATTS * 10**6 * clock.now)

    counters = Counters((Timed("package-0", Path("energy_uj"), 1 << 40),), None)
    monkeypatch.setattr(speed, "find_counters", lambda: counters)

    result = speed.bench(pocket, prompt=20, generate=3, repeats=2, limit=False)

    assert result.prompt is not None
    assert result.prompt.joules_per_token == pytest.approx(WATTS * 1.2 / 20)
    assert result.generation is not None
    assert result.generation.joules_per_token == pytest.approx(WATTS * 1.01)
    assert result.energy_counters == ("package-0",)
    assert result.energy_unmeasured is None


def test_generation_is_held_against_what_memory_allows(
    clock: Clock, pocket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "read_bandwidth", lambda threads: 1e9 * threads)

    result = speed.bench(pocket, generate=4, depth=10, repeats=1, threads=3)

    read = weights_read(pocket).bytes_per_token + 12 * 1000 * len("F16")
    assert result.bytes_per_token == read
    assert result.most_tokens_per_second == pytest.approx(3e9 / read)
    assert result.share_of_most == pytest.approx(1 / 1.01 / (3e9 / read))
    assert replace(result, bandwidth=None).share_of_most is None
    assert replace(result, generation=None).share_of_most is None


def test_the_json_spells_out_what_is_derived(clock: Clock, pocket: Path) -> None:
    data = speed.bench(pocket, prompt=0, generate=2, repeats=2, limit=False).to_json()

    assert data["prompt"] is None
    assert data["generation"]["seconds"] == pytest.approx([2.02, 2.02])
    assert data["generation"]["tokens_per_second"] == pytest.approx(2 / 2.02)
    assert data["generation"]["joules_per_token"] is None
    assert data["most_tokens_per_second"] is None
    assert data["energy_unmeasured"].startswith("energy cannot be measured: ") or data["energy_counters"]


def test_a_token_reads_every_weight_but_one_row_of_the_embedding(pocket: Path, tmp_path: Path) -> None:
    from fewbits.inspection import inspect

    plain = weights_read(write_gguf(pocket, tmp_path / "m.gguf", kind="F16"))
    sizes = {tensor.name: (tensor.bytes, tensor.shape) for tensor in inspect(tmp_path / "m.gguf").tensors}
    size, (rows, _) = sizes.pop("token_embd.weight")

    rest = sum(size for size, _ in sizes.values())
    tied = "output.weight" not in sizes
    assert plain.bytes_per_token == rest + (size if tied else size // rows)
    assert plain.file_bytes == (tmp_path / "m.gguf").stat().st_size


def test_a_table_that_is_the_output_too_is_read_whole_and_of_experts_those_chosen(pocket: Path, tmp_path: Path) -> None:
    def edit(tensors: dict[str, Any]) -> None:
        tensors.pop("output.weight", None)
        tensors["blk.0.ffn_up_exps.weight"] = tensors["blk.0.ffn_up.weight"][None].repeat(8, 0)

    counts = {"llama.expert_count": 8, "llama.expert_used_count": 2}
    path = write_gguf(pocket, tmp_path / "m.gguf", kind="F16", edit=edit, metadata=counts)

    from fewbits.inspection import inspect

    tensors = inspect(path).tensors
    experts = next(tensor.bytes for tensor in tensors if "_exps" in tensor.name)
    assert weights_read(path).bytes_per_token == sum(tensor.bytes for tensor in tensors) - experts * 6 // 8


def test_the_engine_itself_is_measured(pocket: Path, tmp_path: Path) -> None:
    path = write_gguf(pocket, tmp_path / "m.gguf", kind="F16")
    result = speed.bench(path, prompt=8, generate=2, depth=5, repeats=1, threads=1, cache="Q8_0", limit=False)

    model = engine.load(path)
    assert (result.context, result.cache, result.architecture) == (13, "Q8_0", "llama")
    assert result.cache_bytes == model.cache_bytes(13, "Q8_0")
    assert result.bytes_per_token == weights_read(path).bytes_per_token + model.cache_bytes(6, "Q8_0")
    assert result.peak_memory > result.file_bytes
    assert 0 < result.load_seconds < result.first_token_seconds
    assert result.prompt is not None
    assert result.generation is not None
    assert min(result.prompt.tokens_per_second, result.generation.tokens_per_second) > 0


def test_more_context_than_the_model_has_is_refused(pocket: Path, tmp_path: Path) -> None:
    path = write_gguf(pocket, tmp_path / "m.gguf", kind="F16")

    with pytest.raises(EngineError, match=f"{10**6 + 32} tokens"):
        speed.bench(path, depth=10**6, prompt=0)


def test_bandwidth_counts_every_byte_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 1.0, 10.0, 14.0, 20.0, 22.0])
    monkeypatch.setattr("fewbits.speed.bandwidth.time", SimpleNamespace(perf_counter=lambda: next(ticks)))

    assert Memory(2, 1000).bandwidth(3) == 1000.0


def test_the_largest_memory_counts_what_was_given_back() -> None:
    before = peak_resident_memory()
    wanted = 64 << 20
    filled = bytearray(before + wanted)
    del filled

    assert peak_resident_memory() >= before + wanted
