"""Native codecs of several fields give the bits of torch on every instruction set; the suite sees planted faults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fewbits import formats, kernels
from fewbits.errors import KernelError
from fewbits.kernels import EncodedFields
from fewbits.kernels.fields import decode_fields, has_fields_codec
from fewbits.kernels.grouped import has_codec
from fewbits.testing import check_field_kernel, field_kernel_suite

NATIVE = [
    name for name in formats.members() if has_fields_codec(formats.get(name)) and not has_codec(formats.get(name))
]


@pytest.mark.parametrize("name", NATIVE)
def test_kernel(name: str) -> None:
    check_field_kernel(formats.get(name))


def test_small_floats_have_kernels() -> None:
    small = {name for name in formats.members() if name.startswith(("fp", "mx", "nv"))}
    assert set(NATIVE) >= {name for name in small if not name.startswith("fp4_bnb")}


@pytest.mark.parametrize(
    "name", ["fp8_e4m3_g5", "fp6_e2m3_g20_bf16", "fp4_e2m1_g7_f16", "fp8_e5m2_tile20", "fp6_e3m2_g6"]
)
def test_members_that_are_not_listed_and_fill_no_vector(name: str) -> None:
    check_field_kernel(formats.get(name))


@pytest.mark.parametrize(
    "name", ["uint3_g7_bias", "uint5_g20_floatzero_f16", "uint1_g33_bias_bf16", "uint6_row_floatzero_bf16"]
)
def test_offsets_of_their_own_in_groups_that_fill_no_vector(name: str) -> None:
    check_field_kernel(formats.get(name))


def test_a_format_without_a_codec_is_refused() -> None:
    without = formats.get("Q8_0")
    with pytest.raises(KernelError, match="no native codec for Q8_0"):
        decode_fields(without, {}, (1, 32))


def spoilt(call: Callable[..., Any], spoil: Callable[[Any], Any]) -> Callable[..., Any]:
    """`call` with a spoilt result on the last instruction set that is available."""

    def spoiling(*arguments: Any, isa: str = "", **options: Any) -> Any:
        found = call(*arguments, isa=isa, **options)
        return spoil(found) if isa == kernels.available()[-1] else found

    return spoiling


def one_bit_of(name: str) -> Callable[[EncodedFields], EncodedFields]:
    def spoil(encoded: EncodedFields) -> EncodedFields:
        field = encoded.fields[name].copy()
        field.view(np.uint8)[-1, -1] ^= 1
        return replace(encoded, fields={**encoded.fields, name: field})

    return spoil


def another_sum(encoded: EncodedFields) -> EncodedFields:
    return replace(encoded, squared_error=encoded.squared_error * (1 + 1e-15) + 1e-300)


def next_number(numbers: Any) -> Any:
    return np.nextafter(numbers, np.float32(np.inf))


@pytest.mark.parametrize(
    ("function", "spoil", "message"),
    [
        ("encode_fields", one_bit_of("codes"), "in codes that torch does not"),
        ("encode_fields", one_bit_of("scale"), "in scale that torch does not"),
        ("decode_fields", next_number, "decodes other numbers"),
        ("encode_fields", another_sum, "sums errors otherwise"),
    ],
)
@pytest.mark.parametrize("name", ["fp8_e4m3_row", "nvfp4"])
def test_a_planted_fault_is_seen(
    name: str, function: str, spoil: Callable[[Any], Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(field_kernel_suite, function, spoilt(getattr(field_kernel_suite, function), spoil))
    with pytest.raises(AssertionError, match=message):
        check_field_kernel(formats.get(name))
