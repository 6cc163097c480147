"""Matrices of other containers as spans: the numbers that they were, and products equal on every instruction set."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from fewbits import formats
from fewbits.engine.spans import Given, Spans, spans_of
from fewbits.errors import EngineError
from fewbits.formats.base import Fields
from fewbits.kernels.module import native_module
from fewbits.kernels.stored import stored_numbers
from references.rounded_products import product

ROWS, COLS = 37, 768
TYPES = {
    "int4_g128_sym_f16": "Q4_0",
    "int4_g32_sym_bf16": "Q4_0",
    "int8_row_sym_f16": "Q8_0",
    "int8_row_sym": "even8",
    "int8_tensor_sym": "even8",
    "int7_row_sym": "even8",
    "int8_row_absmax": "even8",
    "int4_g64_sym_dq": "even4",
    "uint4_g128_asym_f16": "zero4",
    "uint4_tensor_asym": "line4",
    "uint8_row_asym": "line8",
    "int6_g96_asym_f16": "line8",
    "uint3_row_asym_dq": "line3",
    "int3_g64_sym": "line3",
    "uint2_g64_asym_f16": "line2",
    "int2_g32_sym_restricted_f16": "line2",
    "uint1_g32_asym": "line2",
    "int1_g128_sym_f16": "line2",
    "ternary_g128_f16": "line2",
    "uint4_g64_floatzero_f16": "line4",
    "uint5_g32_bias_bf16": "line8",
    "nvfp4": "e2m1",
    "nvfp4_divided": "e2m1",
    "nf4_g64_dq": "nf4",
    "fp4_bnb_g64": "fp4",
}
"""Format -> the type of its spans."""
TABLES = {"nf4": 8e-3, "fp4": 5e-3}
"""What rounding a table to 8 bits may cost, over the largest product; all other spans hold the numbers themselves."""


def fields_of(name: str) -> Fields:
    """Random rows of very different sizes, none of them around 0, in the fields of a format."""
    rng = np.random.default_rng(3)
    w = (rng.normal(size=(ROWS, COLS)) + 0.3) * np.exp(rng.normal(size=(ROWS, 1))) * 0.02
    format, numbers = formats.get(name), torch.from_numpy(w.astype(np.float32))
    params = format.fit(numbers, like=format.prepare([numbers]))
    return format.fields(format.encode(numbers, params), params)


def multiply(spans: Spans, x: npt.NDArray[np.float32], isa: str) -> npt.NDArray[np.float32]:
    """x (tokens, cols) times the rows of `spans`, packed for `isa`."""
    native = native_module()
    panels = np.empty(native.panels_size(spans.type, ROWS, COLS, isa), np.uint8)
    native.pack_panels(spans.type, spans.data, COLS, panels, isa)
    out = np.full((len(x), ROWS), np.nan, np.float32)
    native.multiply_panels(spans.type, panels, x, out, isa)
    return out


@pytest.mark.parametrize("name", TYPES)
def test_products_are_those_of_the_stored_numbers(name: str) -> None:
    fields = fields_of(name)
    spans = spans_of(formats.get(name), Given(fields, (ROWS, COLS), alone=True))
    assert spans is not None
    assert spans.type == TYPES[name]
    x = np.random.default_rng(4).normal(size=(9, COLS)).astype(np.float32)
    expected = product(stored_numbers(formats.get(name), fields, (ROWS, COLS)).numpy(), x)
    found = {isa: multiply(spans, x, isa) for isa in native_module().available()}
    allowed = TABLES.get(spans.type, 2e-5) * np.abs(expected).max()
    np.testing.assert_allclose(found["scalar"], expected, rtol=0, atol=allowed)
    assert all(np.array_equal(each, found["scalar"]) for each in found.values())
    for isa, together in found.items():
        assert np.array_equal(multiply(spans, x[4:5], isa)[0], together[4])


def test_all_types_are_tested() -> None:
    assert set(native_module().group_types()) <= set(TYPES.values())


def test_matrices_of_experts_are_of_one_type() -> None:
    """Scales in binary32 may all be numbers of binary16 in one expert and not in the next one."""
    fields = fields_of("int4_g32_sym_bf16")
    made = spans_of(formats.get("int4_g32_sym_bf16"), Given(fields, (ROWS, COLS), alone=False))
    assert made is not None
    assert made.type == "even4"


@pytest.mark.parametrize(("name", "cols"), [("int4_g16_sym_f16", 64), ("int8_row_sym", 48)])
def test_what_fills_no_spans_is_refused(name: str, cols: int) -> None:
    format, w = formats.get(name), torch.randn(4, cols)
    fields = format.fields(format.encode(w, format.fit(w)), format.fit(w))
    with pytest.raises(EngineError, match=f"of {cols} columns .{name}. do not fill spans of 32 columns"):
        spans_of(format, Given(fields, (4, cols), alone=True))
