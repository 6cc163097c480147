"""Native kernels of integers and tables give the bits of torch on every instruction set; planted faults are seen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fewbits import formats, kernels
from fewbits.errors import FormatError, KernelError
from fewbits.formats.absmax import AbsMax
from fewbits.formats.integers import Integer
from fewbits.formats.offsets import Offset
from fewbits.kernels import grouped
from fewbits.testing import check_grouped

NAMES = [name for name in formats.members() if grouped.has_codec(formats.get(name))]
MORE = ["int8_g33_sym", "uint5_g24_asym_bf16", "int7_g40_sym_f16", "int3_row_sym_dq", "uint1_g16_asym", "nf4_g48"]
MORE += ["ternary_g7", "ternary_g40_bf16", "learned5_g24", "learned7_row_dq", "learned1_g16"]
"""Members whose groups fill no vector, or whose codes fill no byte."""


@pytest.mark.parametrize("name", [*NAMES, *MORE])
def test_kernel(name: str) -> None:
    check_grouped(formats.get(name))


def test_what_has_kernels() -> None:
    without = {name for name in formats.members() if name not in NAMES}
    assert all(
        name.startswith(("fp", "mx", "nvfp4")) or isinstance(formats.get(name), (Offset, AbsMax)) for name in without
    )
    assert len(NAMES) > 20


def encode(name: str, w: torch.Tensor) -> Any:
    return grouped.encode_fields(formats.get(name), w.numpy().view(np.uint8), "F32")


def test_a_format_without_a_kernel_is_refused() -> None:
    with pytest.raises(KernelError, match="no native codec for nvfp4"):
        encode("nvfp4", torch.ones(1, 64))


def test_a_width_that_does_not_fit_is_refused() -> None:
    with pytest.raises(FormatError, match="spans of 64 columns and a width of 96"):
        encode("nf4_g64", torch.ones(1, 96))


def test_fields_of_another_shape_are_refused() -> None:
    fields = encode("nf4_g64", torch.ones(2, 64)).fields
    with pytest.raises(FormatError, match=r"field scale as float32 \(2, 1\)"):
        grouped.decode_fields(formats.get("nf4_g64"), {**fields, "scale": fields["scale"][:1]}, (2, 64))


def test_bytes_that_five_codes_do_not_make_are_refused() -> None:
    fields = encode("ternary_row", torch.ones(2, 64)).fields
    fields["codes"][1, 3] = 243
    with pytest.raises(FormatError, match="up to 242 and was given 243"):
        grouped.decode_fields(formats.get("ternary_row"), fields, (2, 64))


def test_a_table_of_another_tensor_is_kept() -> None:
    """A slab is coded by the table that was learned from the whole tensor."""
    format, w = formats.get("learned3_g16"), torch.randn(4, 64, generator=torch.Generator().manual_seed(3))
    other = format.prepare([w.square()])
    found = grouped.encode_fields(format, w.numpy().view(np.uint8), "F32", like=other).fields
    params = format.fit(w, like=other)
    wanted = format.fields(format.encode(w, params), params)
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_other_candidates_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Integer, "levels", (7.0, 7.5))
    format = formats.get("int4_g32_sym_f16")
    w = torch.randn(4, 64, generator=torch.Generator().manual_seed(1))
    other = grouped.encode_fields(format, w.numpy().view(np.uint8), "F32").fields
    monkeypatch.undo()
    params = format.fit(w)
    assert not np.array_equal(other["scale"], format.fields(format.encode(w, params), params)["scale"])


def test_a_planted_fault_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoilt(*arguments: Any, isa: str = "", **options: Any) -> Any:
        found = original(*arguments, isa=isa, **options)
        if isa != kernels.available()[-1]:
            return found
        codes = found.fields["codes"].copy()
        codes[-1, -1] ^= 1
        return replace(found, fields={**found.fields, "codes": codes})

    original = grouped.encode_fields
    monkeypatch.setattr(grouped, "encode_fields", spoilt)
    with pytest.raises(AssertionError, match="stores 1 of"):
        check_grouped(formats.get("nf4_g64"))
