"""Products of packed matrices: those of the decoded numbers, in every bit the same for any threads and any batch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fewbits import activations, formats
from fewbits.formats.dynamic import at_largest
from fewbits.kernels.module import native_module
from fewbits.layers.matrix import PackedMatrix
from fewbits.layers.ops import product_of
from fewbits.layers.products import EXACT, KERNELS, WIDE, Product, share_threads
from fewbits.layers.stored import form_of
from fewbits.qtensor import QTensor
from references.layer_inputs import INPUTS

ROWS, COLS = 135, 768
PACKED = [name for name in formats.FORMATS if form_of(name, COLS).packed]
MORE = ["int4_g128_sym_f16", "int8_g128_sym_f16", "int4_g32_sym_f16", "int2_g32_sym_f16", "fp4_bnb_g64"]
TABLES = {"nf4": 1.5e-2, "fp4": 1e-2}
"""What a table in steps of 8 bits may cost beside inputs of 8 bits, over a token's largest output."""
WHOLE, IN_TWO = 3e-5, 2e-4
"""What float32 sums may cost, and tables in two parts beside inputs of 16 bits."""


def matrix(name: str, rows: int = ROWS, cols: int = COLS, seed: int = 0) -> PackedMatrix:
    """Random rows of very different sizes, none of them around 0."""
    generator = torch.Generator().manual_seed(seed)
    w = (torch.randn(rows, cols, generator=generator) + 0.2) * torch.randn(rows, 1, generator=generator).exp() * 0.02
    format = formats.get(name)
    params = format.fit(w, like=format.prepare([w]))
    return PackedMatrix(name, (rows, cols), QTensor(format, format.encode(w, params), params).fields())


def inputs(tokens: int, cols: int = COLS, seed: int = 1) -> torch.Tensor:
    """Tokens of very different sizes, some columns that stick out, and a token of zeros."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, cols, generator=generator) * torch.logspace(-2, 1, tokens)[:, None]
    x[:, 5], x[0, 40] = x[:, 5] * 30, 6.0
    x[tokens // 2] = 0
    return x


def expected(packed: PackedMatrix, x: torch.Tensor, how: str) -> Any:
    """The outputs in float64, from the decoded numbers."""
    return INPUTS[how](x.numpy()) @ packed.numbers().double().numpy().T


def product(packed: PackedMatrix) -> Product:
    """The matrix, ready to be multiplied."""
    return product_of(packed.tensors(), packed.format, ",".join(packed.fields), *packed.shape)


@pytest.mark.parametrize("name", [*PACKED, *MORE])
def test_outputs_are_those_of_the_decoded_numbers(name: str) -> None:
    """With inputs of 16 bits: inputs and weights in bfloat16 would be off by more than ten times as much."""
    packed, x = matrix(name), inputs(9)
    wanted = expected(packed, x, EXACT)
    size = np.abs(wanted).max(1, keepdims=True)
    sixteen = (x.bfloat16().double() @ packed.numbers().bfloat16().double().T).numpy()
    assert np.all(np.abs(packed.multiply(x, EXACT).numpy() - wanted) <= WHOLE * size)
    error = np.abs(packed.multiply(x, WIDE).numpy() - expected(packed, x, WIDE))
    assert np.all(error <= (IN_TWO if product(packed).type in TABLES else WHOLE) * size)
    assert np.abs(packed.multiply(x, WIDE).numpy() - wanted).max() <= 0.1 * np.abs(sixteen - wanted).max()


@pytest.mark.parametrize("how", [how for how in INPUTS if how not in (WIDE, EXACT)])
@pytest.mark.parametrize("name", ["int8_row_sym", "Q4_K", "nf4_g64", "fp4_bnb_g64", "Q6_K", "uint4_g128_asym_f16"])
def test_inputs_are_rounded_as_the_reference_says(name: str, how: str) -> None:
    packed, x = matrix(name), inputs(9)
    wanted = expected(packed, x, how)
    size = np.abs(wanted).max(1, keepdims=True)
    found = packed.multiply(x, how).numpy()
    assert np.all(np.abs(found - wanted) <= TABLES.get(product(packed).type, WHOLE) * size)
    floats = activations.get(how).rounded(x).double() @ packed.numbers().double().T
    assert np.allclose(floats.numpy(), wanted, rtol=0, atol=2e-4 * size), "in floats it is the same"


@pytest.mark.parametrize("how", [*INPUTS, "fp8_token"])
@pytest.mark.parametrize("name", ["int8_row_sym", "Q4_K", "nf4_g64", "BF16", "fp8_e4m3_row"])
def test_neither_threads_nor_other_tokens_change_a_bit(name: str, how: str) -> None:
    packed, x, bias = matrix(name), inputs(70), torch.randn(ROWS)
    x[:, 5] = x[:, 5].clamp(-5, 5) if how.endswith("split") else x[:, 5]  # whose split is the batch's
    x = x.clamp(-5.5, 5.5) if how.endswith("split") else x
    multiply = product(packed)
    together = multiply(x, how, bias, 2)
    for threads in (1, 3):
        assert torch.equal(multiply(x, how, bias, threads), together)
    pieces = torch.cat([multiply(part, how, bias, 2) for part in x.split([1, 2, 3, 64])])
    assert torch.equal(pieces, together)
    assert torch.allclose(together - bias, multiply(x, how, None, 2), atol=1e-3 * float(together.abs().max()))


@pytest.mark.parametrize("name", [*PACKED, *MORE])
def test_instruction_sets_agree_in_every_bit(name: str) -> None:
    rows, x = matrix(name).weight().packed_rows(), inputs(5).numpy()
    assert rows is not None
    native = native_module()
    for kernel in set(KERNELS.values()):
        found = []
        for isa in native.available():
            out = np.full((5, ROWS), np.nan, np.float32)
            native.PackedLayer(rows.type, rows.data, COLS, 2, isa).multiply(kernel, x, None, out, 2)
            found.append(out)
        assert all(np.array_equal(out, found[0]) for out in found), kernel


def test_codes_are_those_of_the_format() -> None:
    """A matrix that gives back what it gets shows each code of a token."""
    eye = torch.eye(64)
    format = formats.get("int8_row_sym")
    q = QTensor(format, format.encode(eye, format.fit(eye)), format.fit(eye))
    packed, x = PackedMatrix(format.name, (64, 64), q.fields()), inputs(9, 64)
    rounding = activations.get("int8_token")
    few = formats.get(rounding.format)
    params = at_largest(few, x)  # type: ignore[arg-type]
    codes = (packed.multiply(x, "int8_token") / params["scale"] / q.dequantize().diagonal()).nan_to_num().round()
    assert torch.equal(codes.int(), few.encode(x, params).int() - 128)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("how", [*KERNELS, EXACT])
def test_what_is_not_finite_stays_seen(how: str, bad: float) -> None:
    x = inputs(3)
    x[1, 100] = bad
    out = matrix("Q4_K").multiply(x, how)
    assert not bool(out[1].isfinite().any())
    if not how.endswith("split"):  # where the column that sticks out is the batch's
        assert bool(out[[0, 2]].isfinite().all())


@pytest.mark.parametrize("how", [WIDE, "int8_token", EXACT])
def test_columns_in_16_bits_and_in_an_order_of_their_own(how: str) -> None:
    format, w = formats.get("int4_g32_sym_f16"), torch.randn(40, 128) * 0.05
    order, kept = torch.randperm(128, generator=torch.Generator().manual_seed(3)), torch.tensor([3, 77])
    coded = w[:, order]
    q = QTensor(format, format.encode(coded, format.fit(coded)), format.fit(coded), order=order)
    packed = PackedMatrix(format.name, (40, 128), q.with_outliers(kept, w[:, kept].half()).fields())
    x = inputs(6, 128)
    few = x.index_fill(1, kept, 0)
    taken = np.empty((6, 128))
    taken[:, order] = INPUTS[how](few[:, order].numpy())  # groups are those of coded columns
    taken[:, kept] = x[:, kept].numpy()
    wanted = taken @ packed.numbers().double().numpy().T
    assert np.allclose(packed.multiply(x, how).numpy(), wanted, rtol=0, atol=3e-5 * np.abs(wanted).max())


def test_products_run_in_the_threads_that_torch_has() -> None:
    brought = list((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    assert share_threads() == bool(brought)


def test_a_library_that_is_not_loaded_is_not_taken() -> None:
    code = "from fewbits.kernels.module import native_module; print(native_module().use_openmp_of('/no/libgomp.so.1'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
