"""Decoding equals the gguf package's and ggml's C to the last bit; encoding is at least as close as ggml's."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fewbits import formats, kernels
from fewbits.testing.inputs import normal
from references.searches import weights

pytest.importorskip("llama_cpp")

from peers import ggml

POCKET = Path(__file__).parents[2] / "examples" / "models" / "pocket-llama" / "model.safetensors"
COLS = 512


def encode(name: str, w: np.ndarray, importance: np.ndarray | None = None) -> np.ndarray:
    size = formats.row_bytes(formats.get(name), w.shape[1])
    source = np.ascontiguousarray(w).view(np.uint8)
    return kernels.encode_rows(name, source, "F32", size, importance=importance).stored


def test_ggml_has_every_format() -> None:
    assert set(ggml.FORMATS) == set(formats.ROWS) - {"F64", "F32"}


def random_bytes(name: str) -> np.ndarray:
    shape = (16, formats.row_bytes(formats.get(name), 16 * COLS))
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(3), dtype=torch.uint8).numpy()


@pytest.mark.parametrize("name", ggml.FORMATS)
def test_random_bytes_decode_to_the_same_bits(name: str) -> None:
    """NaN stays NaN, but its payload is nobody's business."""
    stored = random_bytes(name)
    ours, theirs = kernels.decode_rows(name, stored, 16 * COLS), ggml.decode(name, stored)
    real = ~np.isnan(theirs)
    assert real.mean() > 0.5
    assert np.array_equal(real, ~np.isnan(ours))
    assert np.array_equal(ours.view(np.uint32)[real], theirs.view(np.uint32)[real])
    if name in ggml.UNKNOWN_TO_THE_PACKAGE:
        return
    with np.errstate(all="ignore"):
        package = gguf.quants.dequantize(stored, gguf.GGMLQuantizationType[name])
    assert np.array_equal(ours.view(np.uint32)[real], package.view(np.uint32)[real])


@pytest.mark.parametrize("name", ggml.FORMATS)
def test_our_bytes_decode_to_the_same_bits(name: str) -> None:
    stored = encode(name, normal(16, COLS, 21).numpy() ** 3)
    ours = kernels.decode_rows(name, stored, COLS).view(np.uint32)
    assert np.array_equal(ours, ggml.decode(name, stored).view(np.uint32))
    if name not in ggml.UNKNOWN_TO_THE_PACKAGE:
        assert np.array_equal(ours, gguf.quants.dequantize(stored, gguf.GGMLQuantizationType[name]).view(np.uint32))


def student_t(rows: int, cols: int, freedom: int) -> torch.Tensor:
    chi = sum(normal(rows, cols, 31 + i).square() for i in range(freedom))
    return normal(rows, cols, 30) * (freedom / chi).sqrt()


RANDOM = {"gaussian": normal(256, COLS, 22), "student t of 3": student_t(256, COLS, 3)}


def importance(cols: int, kind: str = "uneven") -> np.ndarray:
    """What columns matter, (cols,): as uneven as the mean squares of a model's activations, or all the same."""
    return {"uneven": normal(1, cols, 41)[0].square().numpy() + np.float32(0.01), "even": np.ones(cols, np.float32)}[
        kind
    ]


def ratio(name: str, w: np.ndarray, importance: np.ndarray | None = None) -> float:
    """Our squared error over ggml's, in the weights that ggml minimises for this format."""
    exact = w.astype(np.float64)
    w = np.ascontiguousarray(w)
    stored = encode(name, w, importance), ggml.encode(name, w, importance)
    ours, theirs = (ggml.decode(name, each) for each in stored)
    by = weights(name, exact, None if importance is None else importance.astype(np.float64))
    return float((by * (ours - exact) ** 2).sum() / (by * (theirs - exact) ** 2).sum())


QUANTIZED = [name for name in ggml.FORMATS if name not in ("F16", "BF16")]
WEIGHTED = [name for name in QUANTIZED if name in kernels.weighted_formats()]


@pytest.mark.parametrize("kind", RANDOM)
@pytest.mark.parametrize("name", QUANTIZED)
def test_random_matrices_are_at_least_as_close(name: str, kind: str) -> None:
    assert ratio(name, RANDOM[kind].numpy()) <= 1.0


@pytest.mark.parametrize("weight", ["uneven", "even"])
@pytest.mark.parametrize("kind", RANDOM)
@pytest.mark.parametrize("name", WEIGHTED)
def test_random_matrices_are_at_least_as_close_by_importance(name: str, kind: str, weight: str) -> None:
    assert ratio(name, RANDOM[kind].numpy(), importance(COLS, weight)) <= 1.0


def pocket(name: str) -> dict[str, np.ndarray]:
    """Every matrix of the model whose width the format can hold."""
    span = formats.get(name).span
    matrices = {k: w.float().numpy() for k, w in load_file(POCKET).items() if w.ndim == 2 and w.shape[1] % span == 0}
    assert len(matrices) > 10
    return matrices


@pytest.mark.parametrize("name", QUANTIZED)
def test_the_pocket_model_is_at_least_as_close(name: str) -> None:
    ratios = {key: ratio(name, w) for key, w in pocket(name).items()}
    assert {key: found for key, found in ratios.items() if found > 1.0} == {}


@pytest.mark.parametrize("weight", ["uneven", "even"])
@pytest.mark.parametrize("name", WEIGHTED)
def test_the_pocket_model_is_at_least_as_close_by_importance(name: str, weight: str) -> None:
    ratios = {key: ratio(name, w, importance(w.shape[1], weight)) for key, w in pocket(name).items()}
    assert {key: found for key, found in ratios.items() if found > 1.0} == {}


IGNORING = ("TQ1_0", "TQ2_0", "Q1_0", "Q2_0", "MXFP4", "NVFP4")
"""Types whose quantizers in ggml take an importance vector and do not look at it."""


@pytest.mark.parametrize("kind", RANDOM)
@pytest.mark.parametrize("name", IGNORING)
def test_importance_that_ggml_ignores_makes_us_closer(name: str, kind: str) -> None:
    """In the importance itself: closer than without it, and closer than ggml."""
    w = np.ascontiguousarray(RANDOM[kind].numpy())
    importance = normal(1, COLS, 40)[0].square().numpy()
    theirs = ggml.encode(name, w, importance)
    assert np.array_equal(theirs, ggml.encode(name, w)), "it does look at it"
    size = formats.row_bytes(formats.get(name), COLS)
    ours = kernels.encode_rows(name, w.view(np.uint8), "F32", size, importance=importance).stored
    errors = [
        float((importance * (ggml.decode(name, stored) - w.astype(np.float64)) ** 2).sum())
        for stored in (ours, encode(name, w), theirs)
    ]
    assert errors[0] < errors[1] <= errors[2] * (1 + 1e-9)
