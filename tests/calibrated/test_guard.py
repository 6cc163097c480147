"""The guard: codes that make the model worse do not stay, and what is measured is what transformers would say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import fewbits
from fewbits.calibrated import guard
from fewbits.checkpoints.gguf import GGUFReader
from fewbits.errors import VerificationError
from fewbits.formats import Format, Params
from fewbits.methods import METHODS, Nearest
from fewbits.qtensor import QTensor
from fewbits.workers import Workers
from references.calibrated_runs import watched_guard_text


@dataclass(frozen=True)
class Spoiling:
    """Nearest codes of another matrix: whatever a guard is worth, it puts these back."""

    name: str = "spoiling"
    needs: frozenset[str] = frozenset({"hessian"})
    codec_is_enough: bool = False
    products: int = 1
    factor: ClassVar[float] = 0.8

    def prepare(
        self, stats: Mapping[str, Any], workers: Workers | None = None, formats: Iterable[Format] = ()
    ) -> Mapping[str, Any]:
        return stats

    def solve(
        self, w: torch.Tensor, format: Format, stats: Mapping[str, Any], *, like: Params | None = None
    ) -> QTensor:
        return Nearest().solve(self.factor * w, format, {"importance": stats["importance"]}, like=like)


@pytest.fixture
def spoiling(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(METHODS._loads, "spoiling", Spoiling)
    return "spoiling"


def test_what_makes_the_model_worse_is_put_back(spoiling: str, untied: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"to": "Q8_0", "windows": 6, "sequence_length": 32}

    record = fewbits.quantize(untied, tmp_path / "o.gguf", method=spoiling, **options)

    result = record.calibration  # type: ignore[union-attr]
    assert result is not None
    assert (result.kept, result.works) == (0, False)
    assert all(v["kl_solved"] > v["kl_plain"] for v in result.verdicts)
    kept = [t for t in record.tensors if t.output_error is not None]  # type: ignore[union-attr]
    assert all(t.output_error == t.output_error_plain for t in kept)
    assert fewbits.compare(untied, tmp_path / "o.gguf", text=_text(tmp_path), context=32).kl_divergence_mean < 0.01


@pytest.mark.parametrize(("precision", "agreement"), [("float32", 1e-3), ("bfloat16", 2e-2)])
def test_the_verdict_is_the_divergence_of_the_file(
    precision: str, agreement: float, untied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last checkpoint sees the whole quantized model: transformers, given the file, has to agree."""
    monkeypatch.setattr("fewbits.calibrated.parameters.precision_for", lambda _: precision)
    from fewbits.evaluation.model_files import open_model

    held_out = watched_guard_text(monkeypatch)
    record = fewbits.quantize(untied, tmp_path / "o.gguf", to="Q4_0", method="gptq", windows=6, sequence_length=32)

    before, after = open_model(untied).load(), open_model(tmp_path / "o.gguf").load()
    found = []
    with torch.no_grad():
        for window in held_out[0]:
            both = (m.logits(torch.from_numpy(window))[len(window) // 2 :] for m in (before, after))
            p, q = (logits.log_softmax(-1).double() for logits in both)
            found.append(float((p.exp() * (p - q)).sum(-1).mean()))
    last = record.calibration.verdicts[-1]  # type: ignore[union-attr]
    assert last["kl_solved" if last["kept"] else "kl_plain"] == pytest.approx(np.mean(found), rel=agreement)


def test_a_matrix_farther_from_its_source_than_its_negative_is_not_kept(
    spoiling: str, untied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers that make up for each other may be anywhere, so the verifier bounds them all together."""
    monkeypatch.setattr(Spoiling, "factor", -1.5)
    monkeypatch.setattr(guard.Verdict, "kept", True)

    with pytest.raises(VerificationError, match="farther from its source"):
        fewbits.quantize(untied, tmp_path / "o.gguf", to="Q8_0", method=spoiling, windows=6, sequence_length=32)
    assert not (tmp_path / "o.gguf").exists()


def test_a_matrix_farther_from_its_source_than_zeros_is_kept_where_the_guard_keeps_it(
    spoiling: str, untied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two bits may need it, and what answers are worth is for the guard to say."""
    monkeypatch.setattr(Spoiling, "factor", -0.5)
    monkeypatch.setattr(guard.Verdict, "kept", True)

    record = fewbits.quantize(untied, tmp_path / "o.gguf", to="Q8_0", method=spoiling, windows=6, sequence_length=32)

    assert (tmp_path / "o.gguf").exists()
    assert 1 < max(t.relative_rms for t in record.tensors if t.relative_rms is not None) < 2  # type: ignore[union-attr]


@pytest.mark.parametrize("layers", [1, 2, 7, 8, 9, 22, 80])
def test_spans_cover_all_layers(layers: int) -> None:
    spans = guard.spans(layers)

    assert [index for span in spans for index in span] == list(range(layers))
    assert len(spans) == min(layers, guard.CHECKPOINTS)
    assert max(map(len, spans)) - min(map(len, spans)) <= 1


def _text(folder: Path) -> Path:
    path = folder / "text.txt"
    path.write_text("\n".join(f"Line {n} of a text about {n * n}." for n in range(100)), encoding="utf-8")
    return path


def test_codes_in_the_file_are_the_plain_ones(spoiling: str, untied: Path, tmp_path: Path) -> None:
    """What is put back is nearest weighed by what was measured, not the even rounding of a run without text."""
    options: dict[str, Any] = {"to": "Q4_0", "windows": 6, "sequence_length": 32}
    fewbits.quantize(untied, tmp_path / "o.gguf", method=spoiling, **options)
    fewbits.quantize(untied, tmp_path / "even.gguf", to="Q4_0")

    name = "blk.1.ffn_up.weight"
    assert not np.array_equal(*(GGUFReader(tmp_path / f).read(name).buffer for f in ("o.gguf", "even.gguf")))
