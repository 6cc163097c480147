"""A rotated model walked through text: solved, resumed, with transforms behind the rotation, and out of any source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fewbits
from references.stored_files import stored_bytes

OPTIONS: dict[str, Any] = {"to": "Q4_0", "windows": 6, "sequence_length": 32}


def calibrated(source: Path, output: Path, method: str = "hadamard+gptq", **options: Any) -> Any:
    return fewbits.quantize(source, output, method=method, **{**OPTIONS, **options})


@pytest.fixture(scope="module")
def whole(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a run that nothing disturbed."""
    output = tmp_path_factory.mktemp("whole") / "o.gguf"
    calibrated(small, output, threads=1)
    return output


def test_a_head_that_was_tied_is_solved(small: Path, whole: Path, tmp_path: Path) -> None:
    """And on text, rotating costs nothing but what rounding costs."""
    record = calibrated(small, tmp_path / "o.gguf", to="Q8_0", threads=3)

    assert record.calibration.tensors == 3 * 7 + 1
    assert {t.planned.method for t in record.tensors} == {"hadamard+gptq", "nearest", "kept"}
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"Line {n} of a text about {n * n}." for n in range(300)), encoding="utf-8")
    assert fewbits.compare(small, tmp_path / "o.gguf", text=text, context=32).kl_divergence_mean < 0.01
    last = record.calibration.verdicts[-1]
    assert max(last["kl_solved"], last["kl_plain"]) < 0.01


def test_the_same_for_any_threads_and_any_source(small: Path, whole: Path, tmp_path: Path) -> None:
    fewbits.quantize(small, tmp_path / "lossless.gguf", to="BF16")

    calibrated(tmp_path / "lossless.gguf", tmp_path / "o.gguf", threads=3)

    assert stored_bytes(tmp_path / "o.gguf") == stored_bytes(whole)


def test_a_broken_run_goes_on_and_another_rotation_begins_anew(small: Path, whole: Path, tmp_path: Path) -> None:
    output, seen = tmp_path / "o.gguf", []

    def breaking(stage: str, done: int, total: int) -> None:
        seen.append(stage)
        if seen.count("calibrate") == 17:
            raise KeyboardInterrupt

    for method, resumed in (("gptq", False), ("hadamard+gptq", True)):
        seen.clear()
        with pytest.raises(KeyboardInterrupt):
            calibrated(small, output, method, progress=breaking)
        assert [entry.name for entry in tmp_path.iterdir()] == [".o.gguf.calibrated"]
        assert "rotate" in seen or method == "gptq"
        record = calibrated(small, output, force=True)
        assert record.calibration.resumed == resumed
        assert output.read_bytes() == whole.read_bytes()
        output.unlink()
        output.with_name("o.card.json").unlink()


@pytest.mark.parametrize("output", ["o.gguf", "o"])
def test_transforms_behind_a_rotation(output: str, untied: Path, tmp_path: Path) -> None:
    record = calibrated(untied, tmp_path / output, "hadamard+awq+search", to="Q4_1")

    assert record.verified
    assert any("scaled" in remark for t in record.tensors for remark in t.remarks)
    assert record.preview.rotation.name == "hadamard"
