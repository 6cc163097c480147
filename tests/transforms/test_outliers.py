"""Outlier columns: kept in 16 bits, stored and read again, refused where bytes per row cannot hold them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewbits import formats, methods
from fewbits.errors import FormatError
from fewbits.qtensor import QTensor
from fewbits.transforms import split
from references.hessians import hessian_of, weights


def matrix() -> tuple[torch.Tensor, torch.Tensor]:
    """Weights (5, 64), and the largest inputs of their columns, three of them large."""
    absmax = torch.linspace(0.5, 5.9, 64)
    absmax[[3, 17, 63]] = torch.tensor([6.0, 60.0, 9.0])
    return weights(5, 64), absmax


@pytest.mark.parametrize("name", ["int8_row_sym", "nf4_g64", "uint4_g64_asym_f16", "int1_g64_sym_f16", "Q8_0"])
@pytest.mark.parametrize("method", ["nearest", "search"])
def test_columns_with_large_inputs_stay(name: str, method: str) -> None:
    w, absmax = matrix()
    parts = split(w, absmax)
    solved = methods.get(method).solve(parts.rest, formats.get(name), {"hessian": hessian_of(64)})
    q = solved.with_outliers(parts.index, parts.kept)

    assert parts.index.tolist() == [3, 17, 63]
    assert torch.equal(q.dequantize()[:, parts.index], w[:, parts.index].half().float())
    others = [c for c in range(64) if c not in (3, 17, 63)]
    assert torch.equal(q.dequantize()[:, others], solved.dequantize()[:, others])
    assert q.bits == solved.bits + 3 * (5 * 16 + 32)
    assert torch.equal(q.to("cpu").dequantize(), q.dequantize())


def test_outputs_of_8_bits_lose_less() -> None:
    w, absmax = matrix()
    x = torch.randn(200, 64, generator=torch.Generator().manual_seed(1)) * absmax / 4
    parts, format = split(w, absmax), formats.get("int8_row_sym")

    def rounded(x: torch.Tensor) -> torch.Tensor:
        step = x.abs().amax(1, keepdim=True) / 127
        return (x / step).round() * step

    plain = rounded(x) @ methods.get("nearest").solve(w, format, {}).dequantize().T
    rest = x.clone()
    rest[:, parts.index] = 0
    q = methods.get("nearest").solve(parts.rest, format, {})
    kept = rounded(rest) @ q.dequantize().T + x[:, parts.index] @ parts.kept.float().T

    assert float((kept - x @ w.T).square().mean()) < 0.2 * float((plain - x @ w.T).square().mean())


def test_they_survive_storage() -> None:
    w, absmax = matrix()
    parts, format = split(w, absmax), formats.get("nf4_g64")
    q = methods.get("nearest").solve(parts.rest, format, {}).with_outliers(parts.index, parts.kept)

    back = QTensor.from_fields(format, q.fields(), q.shape)

    assert torch.equal(back.dequantize(), q.dequantize())
    assert {"outlier_index", "outlier_values"} <= set(q.fields())


def test_none_is_none() -> None:
    w, absmax = matrix()
    parts = split(w, absmax, threshold=100.0)
    q = methods.get("nearest").solve(parts.rest, formats.get("Q8_0"), {})

    assert torch.equal(parts.rest, w)
    assert q.with_outliers(parts.index, parts.kept) is q


@pytest.mark.parametrize("index", [[3, 3], [17, 3], [-1, 3], [3, 64]])
def test_damaged_places_are_refused(index: list[int]) -> None:
    w, _ = matrix()
    q = (
        methods.get("nearest")
        .solve(w, formats.get("nf4_g64"), {})
        .with_outliers(torch.tensor([1, 2]), w[:, 1:3].half())
    )
    fields = {**q.fields(), "outlier_index": np.array(index, np.int32)}
    with pytest.raises(FormatError, match="do not belong to a matrix of 5 x 64"):
        QTensor.from_fields(q.format, fields, q.shape)


def test_bytes_per_row_cannot_hold_them() -> None:
    w, absmax = matrix()
    parts = split(w, absmax)
    q = methods.get("nearest").solve(parts.rest, formats.get("Q8_0"), {}).with_outliers(parts.index, parts.kept)
    with pytest.raises(FormatError, match=r"3 columns are kept in 16 bits beside Q8_0, .* leave the outlier split out"):
        q.packed()
