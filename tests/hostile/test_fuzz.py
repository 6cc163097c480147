"""Every reader over inputs that are spoiled at random, always the same ones: only a FewbitsError leaves any of them.

The long form is `python -m fuzz`; what it found is in test_found.py.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz.run import fuzz
from fuzz.targets import TARGETS, Target

from fewbits.errors import CheckpointError

ROOT = Path(__file__).parents[2]
SLOW = {
    "tokenizer": 60,
    "tokenizer-config": 60,
    "sentencepiece": 60,
    "config": 150,
    "recipe": 100,
    "architecture": 100,
    "schema": 100,
}
"""Inputs of targets that read more than the file itself."""


@pytest.mark.parametrize("name", TARGETS)
def test_only_sentences_leave_a_reader(name: str, tmp_path: Path) -> None:
    outcome = fuzz(TARGETS[name], tmp_path, seed=7, inputs=SLOW.get(name, 400))

    # Time and memory are looked at in the long runs: other tests run beside this one.
    crashes = {fault: data for fault, data in outcome.crashes.items() if not fault.startswith("took")}
    assert crashes == {}
    assert outcome.accepted
    assert len(outcome.said) > 3  # what is spoiled is refused for several reasons


def test_a_seed_repeats_itself(tmp_path: Path) -> None:
    seen: list[list[bytes]] = [[], []]
    for inputs in seen:

        def note(path: Path, inputs: list[bytes] = inputs) -> None:
            inputs.append(path.read_bytes())

        fuzz(Target(TARGETS["gguf"].seeds, note), tmp_path, seed=3, inputs=200)

    assert seen[0] == seen[1]
    assert len(set(seen[0])) > 100


def test_the_loop_sees_what_goes_wrong(tmp_path: Path) -> None:
    said = iter(["fine", "of two\nlines", "x" * 5000])

    def read(path: Path) -> None:
        if path.read_bytes() == b"good":
            return
        sentence = next(said, None)
        if sentence is None:
            raise ZeroDivisionError(path.read_bytes()[:1])
        raise CheckpointError(sentence)

    outcome = fuzz(Target(lambda: [b"good"], read), tmp_path, seed=0, inputs=60)

    assert {"a sentence of several lines", "a sentence of 2000 characters or more"} < set(outcome.crashes)
    assert any(fault.startswith("ZeroDivisionError") for fault in outcome.crashes)


def test_one_command_prints_executions_and_crashes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fuzz", "imatrix-dat", "--minutes", "0.02", "--seed", "1", "--out", str(tmp_path)]

    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=ROOT)

    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(
        r"imatrix-dat: \d+ inputs in \d+ s \(\d+ per s\), \d+% accepted, \d+ different sentences, 0 crashes, seed 1\n",
        done.stdout,
    )
