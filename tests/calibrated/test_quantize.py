"""`quantize` with a method that looks at text: broken off and resumed, judged, and the same whatever helps."""

from __future__ import annotations

import json
import os
import pydoc_data.topics
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fewbits
from fewbits.checkpoints.imatrix import read_importance
from fewbits.errors import CalibrationError, CheckpointError
from references.calibrated_runs import BrokenError, breaking_after
from references.stored_files import stored_bytes

WINDOWS = {"windows": 6, "sequence_length": 32}


def calibrated(source: Path, output: Path, **options: Any) -> Any:
    return fewbits.quantize(source, output, **{"to": "Q4_0", "method": "gptq", **WINDOWS, **options})


@pytest.fixture(scope="module")
def whole(untied: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a run that nothing disturbed."""
    output = tmp_path_factory.mktemp("whole") / "o.gguf"
    calibrated(untied, output, threads=1)
    return output


@pytest.mark.parametrize("other", ["Q4_0", "Q8_0"])
def test_a_second_run_is_refused_and_removes_nothing(other: str, untied: Path, tmp_path: Path) -> None:
    output, reached = tmp_path / "o.gguf", []

    def second(stage: str, done: int, total: int) -> None:
        left = sorted((tmp_path / ".o.gguf.calibrated").glob("*"))
        if not left or reached:
            return
        with pytest.raises(CheckpointError, match="being calibrated by another run"):
            calibrated(untied, output, to=other)
        reached.append(stage)
        assert sorted((tmp_path / ".o.gguf.calibrated").glob("*")) == left

    calibrated(untied, output, progress=second)

    assert reached
    assert output.exists()


@pytest.mark.parametrize("calls", [1, 4, 9, 13, 17, 22, 27])
def test_a_broken_run_goes_on_and_gives_the_same_bytes(calls: int, untied: Path, whole: Path, tmp_path: Path) -> None:
    output = tmp_path / "o.gguf"
    with pytest.raises(BrokenError):
        calibrated(untied, output, progress=breaking_after(calls))
    assert [entry.name for entry in tmp_path.iterdir()] == [".o.gguf.calibrated"]

    record = calibrated(untied, output, threads=2)

    assert record.calibration.resumed
    assert output.read_bytes() == whole.read_bytes()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["o.card.json", "o.gguf"]


ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_goes_on(by: signal.Signals, untied: Path, whole: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fewbits", "quantize", untied, "-o", tmp_path / "o.gguf", "--to", "Q4_0"]
    command += ["--method", "gptq", "--windows", "6", "--sequence-length", "32", "-q"]
    process = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    finished = tmp_path / ".o.gguf.calibrated" / "layer-0000"
    while not finished.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(by)
    said = process.communicate()[1]
    assert not (tmp_path / "o.gguf").exists()
    assert "Traceback" not in said
    assert ("the same command goes on from there" in said) == (by == signal.SIGINT)

    record = calibrated(untied, tmp_path / "o.gguf")  # the same command, without another Python that starts

    assert record.calibration.resumed
    assert (tmp_path / "o.gguf").read_bytes() == whole.read_bytes()


def test_another_command_begins_anew(untied: Path, tmp_path: Path) -> None:
    with pytest.raises(BrokenError):
        calibrated(untied, tmp_path / "o.gguf", progress=breaking_after(17))

    record = calibrated(untied, tmp_path / "o.gguf", to="Q5_0")

    assert not record.calibration.resumed


def test_a_gguf_source_gives_the_same_codes(untied: Path, whole: Path, tmp_path: Path) -> None:
    fewbits.quantize(untied, tmp_path / "lossless.gguf", to="BF16")

    calibrated(tmp_path / "lossless.gguf", tmp_path / "o.gguf")

    assert stored_bytes(tmp_path / "o.gguf") == stored_bytes(whole)


def test_outputs_are_nearer_and_the_card_says_so(untied: Path, tmp_path: Path) -> None:
    record = calibrated(untied, tmp_path / "o.gguf")

    card = json.loads((tmp_path / "o.card.json").read_text(encoding="utf-8"))
    solved = [t for t in card["tensors"] if t["output_error"] is not None]
    assert len(solved) == 3 * 7 + 1
    assert all(t["method"] == "gptq" for t in solved)
    assert np.mean([t["output_error"] / t["output_error_plain"] for t in solved]) < 0.9
    assert [t["method"] for t in card["tensors"] if t["name"] == "token_embd.weight"] == ["nearest"]
    assert card["preview"]["calibration"]["tokens"] == 6 * 32
    assert len(card["calibration"]["verdicts"]) == record.preview.calibration.checkpoints == 3


def test_a_tied_head_is_left_to_the_embedding(small: Path, tmp_path: Path) -> None:
    record = calibrated(small, tmp_path / "o.gguf")

    assert record.calibration.tensors == 3 * 7


def test_a_directory_of_any_format(untied: Path, tmp_path: Path) -> None:
    record = calibrated(untied, tmp_path / "o", to="nf4_g32_dq")

    assert record.verified
    formats = {t.planned.name: t.planned.format for t in record.tensors if t.output_error is not None}
    assert formats.pop("output.weight") == "int8_row_sym"
    assert set(formats.values()) == {"nf4_g32_dq"}


def test_recipes_choose_as_with_an_importance_matrix(pocket: Path, tmp_path: Path) -> None:
    """And nobody is told to make one, as who quantizes without either is."""
    matrix = Path(__file__).parents[1] / "golden" / "pocket.imatrix.gguf"
    options: dict[str, Any] = {"to": "IQ2_XS", "dry_run": True}
    measured = fewbits.quantize(pocket, tmp_path / "o.gguf", method="gptq", windows=2, **options)
    weighed = fewbits.quantize(pocket, tmp_path / "o.gguf", importance=matrix, **options)
    even = fewbits.quantize(pocket, tmp_path / "o.gguf", **options)

    assert [t.format for t in measured.tensors] == [t.format for t in weighed.tensors]
    wanting = [any("importance matrix" in note for note in made.notes) for made in (measured, even)]  # type: ignore[union-attr]
    assert wanting == [False, True]


def test_text_of_ones_own(untied: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"Line {n} of a text about {n * n}." for n in range(400)), encoding="utf-8")

    record = fewbits.quantize(untied, tmp_path / "o.gguf", to="Q4_0", calibration=text, **WINDOWS)

    assert {t.planned.method for t in record.tensors} == {"gptq_search", "nearest", "kept"}  # type: ignore[union-attr]
    assert str(text) in json.dumps(record.preview.calibration.text)  # type: ignore[union-attr]


def test_a_target_is_compared_with(untied: Path, whole: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"{n} {n * n} {n**3}" for n in range(900)), encoding="utf-8")

    record = calibrated(untied, tmp_path / "o.gguf", target_text=text)

    report = record.calibration.unlikeness
    assert report["far"]
    assert set(report["sites"]) == {t.planned.name for t in record.tensors if t.output_error is not None}
    assert "unlike the target" in record.calibration.notes[0]
    assert (tmp_path / "o.gguf").read_bytes() == whole.read_bytes()


def test_groups_of_a_target_are_told_apart(untied: Path, whole: Path, tmp_path: Path) -> None:
    numbers, prose = tmp_path / "numbers.txt", tmp_path / "prose.txt"
    numbers.write_text("\n".join(f"{n} {n * n} {n**3}" for n in range(900)), encoding="utf-8")
    prose.write_text(pydoc_data.topics.topics["assignment"] * 3, encoding="utf-8")

    record = calibrated(untied, tmp_path / "o.gguf", target_text=[numbers, prose])

    report = record.calibration.unlikeness
    one, other = (report["groups"][name] for name in ("numbers.txt", "prose.txt"))
    assert one["tokens"]["tokens"] + other["tokens"]["tokens"] == report["tokens"]["tokens"]
    assert one["tokens"]["unseen"] > other["tokens"]["unseen"]
    assert one["sites"].keys() == other["sites"].keys() == report["sites"].keys()
    assert any("unlike group numbers.txt" in note for note in record.calibration.notes)
    assert set(record.preview.calibration.target_text) == {"numbers.txt", "prose.txt"}
    assert (tmp_path / "o.gguf").read_bytes() == whole.read_bytes()


def test_what_was_measured_is_kept_as_an_importance_matrix(untied: Path, tmp_path: Path) -> None:
    path = tmp_path / "importance.gguf"
    calibrated(untied, tmp_path / "o.gguf", write_importance=path)

    found = read_importance(path)

    assert len(found.entries) == 3 * 7 + 1
    assert found.chunks == 6
    assert set(found.entries["blk.0.ffn_up.weight"].counts.tolist()) == {6.0 * 32}
    assert fewbits.quantize(untied, tmp_path / "p.gguf", to="Q4_0", importance=path).verified  # type: ignore[union-attr]


def test_a_model_that_answers_nan_is_named_by_its_layer(untied: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    broken = tmp_path / "model"
    shutil.copytree(untied, broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = float("inf")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(CalibrationError, match=r"model\.layers\.1 .*NaN"):
        calibrated(broken, tmp_path / "o.gguf")
    assert not (tmp_path / "o.gguf").exists()


def test_a_disk_that_is_full_loses_nothing(untied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil as module

    output = tmp_path / "o.gguf"
    with pytest.raises(BrokenError):
        calibrated(untied, output, progress=breaking_after(17))
    usage = module.disk_usage(tmp_path)
    real = module.disk_usage
    monkeypatch.setattr("fewbits.calibrated.workspace.shutil.disk_usage", lambda _: usage._replace(free=100))
    with pytest.raises(fewbits.FewbitsError, match="free some space"):
        calibrated(untied, output)
    monkeypatch.setattr("fewbits.calibrated.workspace.shutil.disk_usage", real)

    assert calibrated(untied, output).calibration.resumed
