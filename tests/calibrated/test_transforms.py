"""Transforms in `quantize`: the file holds scaled matrices, and the model is the same but for rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fewbits
from fewbits import kernels
from fewbits.calibrated import scaling as scalings
from fewbits.checkpoints.gguf import GGUFReader
from fewbits.errors import FewbitsError, VerificationError
from fewbits.way import way

OPTIONS: dict[str, Any] = {"windows": 6, "sequence_length": 32}


def text(folder: Path) -> Path:
    path = folder / "text.txt"
    path.write_text("\n".join(f"Line {n} of a text about {n * n}." for n in range(300)), encoding="utf-8")
    return path


def numbers(path: Path, name: str) -> np.ndarray[Any, Any]:
    tensor = GGUFReader(path).read(name)
    return kernels.decode_rows(tensor.format, tensor.slab(0, tensor.rows), tensor.cols)


@pytest.mark.parametrize("source", ["directory", "gguf"])
def test_scaled_matrices_compute_the_same(source: str, untied: Path, tmp_path: Path) -> None:
    """In a format that hardly rounds, scaling must not be seen, though gains and matrices are others."""
    model = untied
    if source == "gguf":
        model = tmp_path / "lossless.gguf"
        fewbits.quantize(untied, model, to="BF16")

    record = fewbits.quantize(model, tmp_path / "o.gguf", to="Q8_0", method="awq+nearest", **OPTIONS)

    assert not np.allclose(numbers(tmp_path / "o.gguf", "blk.1.ffn_norm.weight"), 1.0)
    cost = fewbits.compare(untied, tmp_path / "o.gguf", text=text(tmp_path), context=32)
    assert cost.kl_divergence_mean < 0.01
    assert any("scaled" in remark for t in record.tensors for remark in t.remarks)  # type: ignore[union-attr]


def test_awq_with_gptq_is_the_same_for_any_threads(untied: Path, tmp_path: Path) -> None:
    made = []
    for threads in (1, 3):
        output = tmp_path / f"{threads}.gguf"
        record = fewbits.quantize(untied, output, to="Q4_0", method="awq+gptq", threads=threads, **OPTIONS)
        assert {t.planned.method for t in record.tensors} == {"awq+gptq", "nearest", "kept"}  # type: ignore[union-attr]
        made.append(output.read_bytes())

    assert made[0] == made[1]


def test_a_directory_too(untied: Path, tmp_path: Path) -> None:
    record = fewbits.quantize(untied, tmp_path / "o", to="int8_row_sym", method="awq", **OPTIONS)

    assert record.verified  # type: ignore[union-attr]
    assert fewbits.compare(untied, tmp_path / "o", text=text(tmp_path), context=32).kl_divergence_mean < 0.01


def test_a_gain_that_was_not_divided_is_found(untied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verifier multiplies by itself: a file with other numbers than the transform meant is not kept."""
    honest = scalings.Scaling.applied

    def faulty(self: scalings.Scaling, w: Any, start: int = 0) -> Any:
        return honest(self, w, start) * np.float32(1.01 if w.shape[1] == 1 else 1.0)

    monkeypatch.setattr(scalings.Scaling, "applied", faulty)
    with pytest.raises(VerificationError, match="norm"):
        fewbits.quantize(untied, tmp_path / "o.gguf", to="Q4_0", method="awq+gptq", **OPTIONS)
    assert not (tmp_path / "o.gguf").exists()


def test_names_of_ways() -> None:
    assert way("awq").name == "awq+nearest"
    assert way("awq+gptq").reads_text
    assert not way("hqq").reads_text
    with pytest.raises(FewbitsError, match="awqq"):
        way("awqq+gptq")
    assert way("smooth").name == "smooth+nearest"
    assert way("awq+outliers+gptq+learned").name == "awq+outliers+gptq+learned"
    assert [way(name).reads_text for name in ("outliers", "learned", "hadamard", "hqq")] == [True, True, False, False]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gptq+awq", r"transform awq comes before the method gptq; write awq\+gptq"),
        ("learned+gptq", r"method gptq comes before the learning learned"),
        ("gptq+outliers", "split outliers comes before the method gptq"),
        ("gptq+search", "gptq and search are both a method"),
        ("awq+hadamard+gptq", "comes first, and once"),
        ("gptq+learnd", "unknown method 'learnd'"),
    ],
)
def test_parts_have_their_places(name: str, message: str) -> None:
    with pytest.raises(FewbitsError, match=message):
        way(name)
