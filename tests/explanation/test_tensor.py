"""A tensor in several formats: figures against slow ones, samples that say so, refusals."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fewbits import explain, formats
from fewbits.errors import CheckpointError, FewbitsError, FormatError
from fewbits.explanation import matrix as matrices
from fewbits.explanation.matrix import open_matrix
from fewbits.reporting import plots
from references.gguf_files import write_gguf

NAME = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def original(pocket: Path) -> torch.Tensor:
    return torch.from_numpy(open_matrix(f"{pocket}:{NAME}").floats(0, 256))


@pytest.mark.parametrize("name", ["Q8_0", "Q4_K", "int8_tensor_sym", "int4_g128_sym_f16"])
def test_errors_are_those_of_the_format_itself(name: str, pocket: Path, original: torch.Tensor) -> None:
    result = explain(tensor=f"{pocket}:{NAME}", formats=[name]).formats[0]
    format = formats.get(name)
    params = format.fit(original, like=format.prepare([original]))
    error = (original - format.decode(format.encode(original, params), params)).double()

    assert result.relative_rms == pytest.approx(float(error.norm() / original.double().norm()), rel=1e-9)
    assert result.largest_error == pytest.approx(float(error.abs().max()), rel=1e-6)
    assert result.bytes == format.bits(*original.shape) // 8


def test_histograms_count_every_number_once(pocket: Path, original: torch.Tensor) -> None:
    result = explain(tensor=f"{pocket}:{NAME}")

    assert sum(result.histogram) + result.beyond == result.numbers == original.numel()
    assert result.sampled is None
    edges = np.linspace(result.low, result.high, len(result.histogram) + 1)
    theirs = np.histogram(original.numpy().astype(np.float64), edges)[0]
    assert np.abs(theirs - result.histogram).sum() <= 4  # numbers on an edge may fall on either side of it
    assert json.loads(json.dumps(result.to_json(), allow_nan=False))["numbers"] == original.numel()


def test_quantized_tensors_and_vectors_are_read(pocket: Path, tmp_path: Path) -> None:
    file = write_gguf(pocket, tmp_path / "q.gguf", kind="Q8_0")

    assert explain(tensor=f"{file}:blk.0.ffn_down.weight", formats=["Q8_0"]).formats[0].relative_rms < 1e-6
    assert explain(tensor=f"{file}:output_norm.weight", formats=["Q8_0"]).shape == (256,)


@pytest.mark.parametrize("name", ["Q4_0", "int8_tensor_sym", "int4_g32_sym_f16"])
def test_a_huge_tensor_is_sampled_evenly_and_says_so(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matrices, "SLAB", 1 << 13)
    w = torch.randn(3000, 64, generator=torch.Generator().manual_seed(7)) * (1 + torch.arange(3000)[:, None] / 1000)
    save_file({"w": w}, tmp_path / "w.safetensors")
    place = f"{tmp_path / 'w.safetensors'}:w"

    part, whole = explain(tensor=place, formats=[name], sample=40_000), explain(tensor=place, formats=[name])

    assert part.numbers_seen == 4 * 128 * 64
    assert part.sampled == "32,768 of 192,000 numbers were looked at: 4 slabs of rows, spread evenly"
    assert part.formats[0].bytes == whole.formats[0].bytes
    assert part.formats[0].relative_rms == pytest.approx(whole.formats[0].relative_rms, rel=0.1)
    assert part.rms == pytest.approx(whole.rms, rel=0.1)


@pytest.mark.parametrize("value", [0.0, 2.5, -1e-30])
def test_constant_tensors_have_a_histogram_too(value: float, tmp_path: Path) -> None:
    save_file({"w": torch.full((4, 256), value)}, tmp_path / "w.safetensors")

    result = explain(tensor=f"{tmp_path / 'w.safetensors'}:w", formats=["Q8_0", "Q4_K"])

    assert sum(result.histogram) == result.numbers == 1024
    assert result.low < value < result.high


def test_formats_that_do_not_fit_are_left_out_with_the_reason_or_refused(tmp_path: Path) -> None:
    save_file({"w": torch.randn(4, 96)}, tmp_path / "w.safetensors")
    place = f"{tmp_path / 'w.safetensors'}:w"

    result = explain(tensor=place, formats=["Q8_0", "Q4_K"])

    assert [each.format for each in result.formats] == ["Q8_0"]
    assert result.left_out[0][0] == "Q4_K"
    assert "256" in result.left_out[0][1]
    with pytest.raises(FormatError, match="none of Q4_K can hold tensor 'w' of 96 columns"):
        explain(tensor=place, formats=["Q4_K"])


def test_what_cannot_be_read_is_refused(pocket: Path, tmp_path: Path) -> None:
    tensors = {"nan": torch.tensor([[1.0, float("nan")]]), "none": torch.zeros(0, 4), "ids": torch.arange(4)}
    save_file(tensors, tmp_path / "w.safetensors")
    (tmp_path / "notes.txt").write_text("hello")
    refusals = {
        f"{pocket}:model.layers.1.mlp.down_prj.weight": "down_proj",
        f"{pocket}": "say FILE:NAME",
        "no/such/file:w": "no/such/file does not exist",
        f"{tmp_path / 'notes.txt'}:w": "neither a GGUF nor a safetensors file",
        f"{tmp_path / 'w.safetensors'}:nan": "NaN or infinite",
        f"{tmp_path / 'w.safetensors'}:none": "holds no number",
        f"{tmp_path / 'w.safetensors'}:ids": "I64, which holds no weights",
    }
    for place, words in refusals.items():
        with pytest.raises(CheckpointError, match=words):
            explain(tensor=place, formats=["F32"])
    with pytest.raises(FewbitsError, match="not both"):
        explain(1.0, tensor=f"{pocket}:{NAME}")  # type: ignore[call-overload]


def test_a_picture_without_matplotlib_is_refused_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "find_spec", lambda _name: None)

    with pytest.raises(FewbitsError, match=r"pip install 'fewbits\[plots\]'"):
        plots.require_drawable(tmp_path / "x.png")


def test_a_picture_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "find_spec", lambda _name: object())
    (tmp_path / "there.png").write_bytes(b"")

    for path, words in {"x.jpg": "png", "no/x.png": "does not exist", "there.png": "--force"}.items():
        with pytest.raises(FewbitsError, match=words):
            plots.require_drawable(tmp_path / path)
    plots.require_drawable(tmp_path / "there.png", force=True)


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib comes with the extra `plots`")
def test_a_picture_is_drawn_with_the_levels_of_a_group(pocket: Path, tmp_path: Path) -> None:
    result = explain(tensor=f"{pocket}:{NAME}", formats=["Q4_0", "Q8_0", "Q4_K"], levels=True)
    plots.draw_tensor(result, tmp_path / "x.png")

    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["x.png"]
    assert "matplotlib.pyplot" not in sys.modules


def test_levels_are_those_that_come_back(pocket: Path) -> None:
    four, eight = explain(tensor=f"{pocket}:{NAME}", formats=["Q4_0", "Q8_0"], levels=True).formats

    assert len(four.levels) == 16
    assert len({round(b - a, 6) for a, b in zip(four.levels, four.levels[1:], strict=False)}) == 1
    assert eight.levels == ()
