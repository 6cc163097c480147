"""Products of floats, tile by tile: those of the decoded numbers, forward and backward, for every format."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import fewbits
from fewbits import activations, formats
from fewbits.layers import ops
from fewbits.layers.matrix import PackedMatrix
from fewbits.layers.modules import Linear
from fewbits.layers.products import Product
from fewbits.layers.tiles import Tiles, _reused
from fewbits.qtensor import QTensor

ROWS, COLS = 135, 768
NAMES = [*formats.FORMATS, "int4_g32_sym_f16", "uint4_g128_asym_f16", "nf4_g64_dq", "fp8_e4m3_row"]


def stored(name: str, *, kept: bool = False, ordered: bool = False) -> PackedMatrix:
    """Random rows of very different sizes; with columns kept in 16 bits, and in an order of their own, where asked."""
    generator = torch.Generator().manual_seed(0)
    w = (torch.randn(ROWS, COLS, generator=generator) + 0.2) * torch.randn(ROWS, 1, generator=generator).exp() * 0.02
    format = formats.get(name)
    params = format.fit(w, like=format.prepare([w]))
    order = torch.randperm(COLS, generator=generator) if ordered else None
    whole = QTensor(format, format.encode(w, params), params, order=order)
    if kept:
        index = torch.tensor([3, 400, 401])
        whole = whole.with_outliers(index, torch.randn(ROWS, 3, generator=generator).half())
    return PackedMatrix(name, (ROWS, COLS), whole.fields())


def tiles(matrix: PackedMatrix) -> Tiles:
    return ops.tiles_of(matrix.tensors(), matrix.format, ",".join(matrix.fields), *matrix.shape)


def far(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest distance over the largest number."""
    return float((found.double() - expected).abs().max() / expected.abs().max())


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fewbits.layers.tiles.TILE", 64 * COLS)
    monkeypatch.setattr("fewbits.layers.stored.SLAB", 64 * COLS)


def check(matrix: PackedMatrix) -> None:
    """Both products in both types, against float64."""
    numbers = matrix.numbers().double()
    x, grad, bias = torch.randn(9, COLS), torch.randn(9, ROWS), torch.randn(ROWS)
    for dtype, worst in ((torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
        few, back, own = x.to(dtype), grad.to(dtype), bias.to(dtype)
        near = numbers.float().to(dtype).double()
        assert far(tiles(matrix).multiply(few, None), few.double() @ near.T) < worst
        assert far(tiles(matrix).multiply(few, own), few.double() @ near.T + own.double()) < worst
        assert far(tiles(matrix).multiply_back(back), back.double() @ near) < worst


@pytest.mark.parametrize("name", NAMES)
def test_products_are_those_of_the_numbers(name: str) -> None:
    check(stored(name))


@pytest.mark.parametrize("name", ["Q4_K", "nf4_g64_dq", "fp8_e4m3_row"])
@pytest.mark.parametrize("parts", [{"kept": True}, {"ordered": True}, {"kept": True, "ordered": True}], ids=str)
def test_columns_of_their_own_take_part(name: str, parts: dict[str, bool]) -> None:
    check(stored(name, **parts))


def test_no_tile_is_larger_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        "fewbits.layers.tiles._reused", lambda dtype, count: seen.append(count) or _reused(dtype, count)
    )
    matrix = stored("nf4_g64_dq")
    monkeypatch.setattr(PackedMatrix, "numbers", lambda _: pytest.fail("the whole matrix was decoded"))
    tiles(matrix).multiply(torch.randn(9, COLS), None)
    forward = len(seen)
    tiles(matrix).multiply_back(torch.randn(9, ROWS))

    assert forward == 3
    assert len(seen) - forward == 768 // 320 + 1
    assert max(seen) <= 64 * COLS


def test_a_module_that_multiplies_floats_makes_no_panels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Product, "of", lambda *_: pytest.fail("panels were made"))
    module: Any = torch.nn.Linear(COLS, ROWS)
    fewbits.quantize(module, "nf4_g64")
    assert isinstance(module, Linear)
    module.floats = True
    x = torch.randn(2, 5, COLS, requires_grad=True)
    out = module(x)
    out.square().sum().backward()
    with torch.no_grad():
        module(x)

    assert x.grad is not None
    assert far(out.detach(), (x @ module.weight.T + module.bias).detach().double()) < 1e-5
    assert far(x.grad, (2 * out @ module.weight).detach().double()) < 1e-5


def test_inputs_that_a_recipe_rounds_stay_rounded() -> None:
    module: Any = torch.nn.Linear(COLS, ROWS, bias=False)
    fewbits.quantize(module, "w8a8")
    module.floats = True
    x = torch.randn(5, COLS, requires_grad=True)
    out = module(x)
    out.sum().backward()

    assert (
        far(out.detach(), activations.get(module.inputs).rounded(x).detach().double() @ module.weight.double().T) < 1e-5
    )
    assert x.grad is not None
    assert far(x.grad, module.weight.sum(0).double().expand(5, -1)) < 1e-5


@pytest.mark.parametrize("name", ["Q4_K", "nf4_g64_dq", "fp8_e4m3_row", "BF16"])
def test_torch_finds_nothing_wrong(name: str) -> None:
    matrix = stored(name)
    for dtype, wants in ((torch.float32, True), (torch.bfloat16, False)):
        x, bias = torch.randn(2, 3, COLS, dtype=dtype, requires_grad=wants), torch.randn(ROWS, requires_grad=wants)
        named = (matrix.tensors(), matrix.format, ",".join(matrix.fields), *matrix.shape)
        torch.library.opcheck(ops.linear_floats, (x, bias, *named))
