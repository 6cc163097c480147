"""`run` and `chat` on the real engine: a trained model, quantized, from the command line's process to its text."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest

import fewbits
from fewbits.engine import load
from fewbits.engine.sampling import Sampling
from fewbits.engine.vocabulary import read_vocabulary

PROMPT = "The with statement is used to"


@pytest.fixture(scope="module")
def model(pocket: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("run") / "pocket.gguf"
    fewbits.quantize(pocket, target, to="Q8_0")
    return target


def test_greedy_text_is_that_of_the_best_logits_one_by_one(model: Path) -> None:
    vocabulary, session = read_vocabulary(model), load(model, threads=1, exact=True).session(context=200)
    tokens = vocabulary.encode(PROMPT)
    expected: list[int] = []
    logits = session.evaluate(tokens)
    while len(expected) < 40:
        expected.append(int(np.argmax(logits)))
        if expected[-1] in vocabulary.ends:
            break
        logits = session.evaluate(expected[-1:])

    shown: list[str] = []
    result = fewbits.run(
        model, PROMPT, tokens=40, sampling=Sampling(temperature=0), exact=True, threads=1, on_text=shown.append
    )

    ids = [token for token in expected if token not in vocabulary.ends]
    assert result.text == b"".join(map(vocabulary.piece, ids)).decode()
    assert list(result.written.tokens) == ids
    assert "".join(shown) == result.text
    assert len(result.text) > 40


def test_a_seed_writes_the_same_text_again_and_another_seed_another(model: Path) -> None:
    texts = [
        fewbits.run(model, PROMPT, tokens=24, sampling=Sampling(seed=seed, temperature=1.2), threads=1).text
        for seed in (1, 1, 2)
    ]

    assert texts[0] == texts[1] != texts[2]


def test_the_settings_reach_the_engine(model: Path) -> None:
    greedy = Sampling(temperature=0)
    whole = fewbits.run(model, PROMPT, tokens=30, sampling=greedy, threads=2)
    stop = whole.text[8:12]

    cut = fewbits.run(model, PROMPT, tokens=30, sampling=greedy, stop=[stop], threads=2)
    punished = fewbits.run(
        model, PROMPT, tokens=30, sampling=Sampling(temperature=0, repetition_penalty=5.0), threads=2
    )

    assert cut.text == whole.text[: whole.text.index(stop)]
    assert (cut.written.ended, cut.written.stop_string) == ("stop string", stop)
    repeated = len(whole.written.tokens) - len(set(whole.written.tokens))
    assert len(punished.written.tokens) - len(set(punished.written.tokens)) < max(repeated, 1)
    cached = fewbits.run(model, PROMPT, tokens=30, sampling=greedy, cache="Q4_0", mmap=True, threads=2)
    assert cached.text[:4] == whole.text[:4]


def test_json_of_a_schema_from_a_model_that_knows_no_json(model: Path) -> None:
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 20},
            "n": {"type": "integer", "maximum": 9, "minimum": 0},
        },
        "required": ["name", "n"],
        "additionalProperties": False,
    }
    for seed in range(3):
        result = fewbits.run(model, PROMPT, tokens=150, sampling=Sampling(seed=seed), json_schema=schema, threads=1)

        assert result.written.complete
        jsonschema.validate(json.loads(result.text), schema)


def test_a_conversation_reads_only_what_is_new(model: Path) -> None:
    talk = fewbits.chat(model, template="plain", sampling=Sampling(temperature=0), tokens=12, threads=1)
    first, second = talk.say("What is a module?"), talk.say("And a class?")
    again = fewbits.chat(model, template="plain", sampling=Sampling(temperature=0), tokens=12, threads=1)
    again.messages = talk.messages[:-2]

    assert second.reused >= first.prompt_tokens
    assert again.say("And a class?").text == second.text  # the same as if all of it had been read at once


def test_ctrl_c_in_the_middle_of_a_text(model: Path) -> None:
    options = ["--tokens", "480", "--temperature", "1.5", "--min-p", "0", "--seed", "1", "--threads", "1", "--exact"]
    process = subprocess.Popen(
        [sys.executable, "-m", "fewbits", "run", str(model), "-p", "The", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A test run in the background may ignore interrupts, and its children with it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    assert process.stdout is not None
    assert process.stderr is not None
    begun = process.stdout.read(10)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)

    assert process.returncode == 130
    assert (begun + out).decode().strip()
    assert out.endswith(b"\n")
    assert b"ended by: interrupted" in err
    assert b"Traceback" not in err


def test_neither_torch_nor_transformers_is_loaded(model: Path) -> None:
    code = f"""
import sys
from fewbits.cli.main import main
code = main(["run", {str(model)!r}, "-p", "The", "--tokens", "3", "-q", "--threads", "1"])
print("loaded", code, sorted({{"torch", "transformers", "onnx", "llguidance", "jinja2"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)

    assert done.stdout.splitlines()[-1] == "loaded 0 []"
