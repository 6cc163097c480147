"""Numbers in several formats: bits that decode to what is said, against independent readings."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest

from fewbits import explain, formats
from fewbits.errors import FewbitsError, FormatError


def in_format(name: str, *numbers: float) -> object:
    return explain(*numbers, formats=[name]).formats[0]


@pytest.mark.parametrize("number", [3.1415, -0.87654321, 0.0, 65504.0, 1e-7])
@pytest.mark.parametrize(("name", "kind", "code"), [("F32", "<f", "<I"), ("F16", "<e", "<H")])
def test_the_bits_of_plain_floats_are_those_of_the_struct_module(
    name: str, kind: str, code: str, number: float
) -> None:
    stored = in_format(name, number).stored[0]  # type: ignore[attr-defined]
    theirs = struct.unpack(code, struct.pack(kind, number))[0]

    assert "".join(digits for _, digits in stored.bits) == f"{theirs:0{len(struct.pack(kind, 0)) * 8}b}"
    assert stored.code == theirs
    assert stored.value == struct.unpack(kind, struct.pack(kind, number))[0]


def test_sign_exponent_and_mantissa_make_the_number() -> None:
    for name, bias in (("F32", 127), ("F16", 15), ("BF16", 127)):
        stored = in_format(name, -0.15625).stored[0]  # type: ignore[attr-defined]
        bits = dict(stored.bits)
        fraction = 1 + int(bits["mantissa"], 2) / 2 ** len(bits["mantissa"])

        assert (-1) ** int(bits["sign"]) * 2.0 ** (int(bits["exponent"], 2) - bias) * fraction == -0.15625


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Q8_0", lambda code, p: p["d"] * code),
        ("Q4_0", lambda code, p: p["d"] * (code - 8)),
        ("Q5_1", lambda code, p: p["d"] * code + p["m"]),
        ("Q4_K", lambda code, p: p["d"] * p["scale"] * code - p["dmin"] * p["min"]),
        ("Q6_K", lambda code, p: p["d"] * p["scale"] * (code - 32)),
        ("int8_row_sym", lambda code, p: p["scale"] * (code - 128)),
        ("uint4_g128_asym_f16", lambda code, p: p["scale"] * (code - p["zero"])),
    ],
)
def test_the_equation_on_the_code_and_scales_gives_what_comes_back(name: str, value: object) -> None:
    for stored in in_format(name, 3.1415, -0.87654321, 0.25).stored:  # type: ignore[attr-defined]
        assert stored.value == pytest.approx(value(stored.code, dict(stored.parameters)), rel=1e-6)  # type: ignore[operator]
        assert stored.error == stored.value - stored.number


def test_signed_bits_are_those_on_disk() -> None:
    stored = in_format("Q8_0", -1.0, 0.5)
    lowest, half = stored.stored  # type: ignore[attr-defined]
    packed = formats.get("Q8_0")
    row = np.resize(np.array([-1.0, 0.5], np.float32), (1, 32))

    import torch

    w = torch.from_numpy(row)
    params = packed.fit(w)
    disk = packed.pack(packed.encode(w, params), params)[0]  # type: ignore[attr-defined]
    assert f"{disk[2]:08b}" == lowest.bits[0][1]
    assert f"{disk[3]:08b}" == half.bits[0][1]
    assert (lowest.code, half.code) == (-127, 64)


@pytest.mark.parametrize("name", formats.FORMATS)
def test_every_format_takes_numbers_and_counts_its_bytes(name: str) -> None:
    explained = in_format(name, 0.5, -1.25, 2.0)

    assert explained.bytes == formats.bits(formats.get(name), 1, explained.columns) // 8  # type: ignore[attr-defined]
    assert [stored.number for stored in explained.stored] == [0.5, -1.25, 2.0]  # type: ignore[attr-defined]
    assert all(math.isfinite(stored.value) for stored in explained.stored)  # type: ignore[attr-defined]


def test_what_was_done_is_said() -> None:
    assert in_format("F16", 1.0).how == "each number stands alone"  # type: ignore[attr-defined]
    assert in_format("Q4_0", 1.0).how == "the number is repeated until a row of 32 columns is full"  # type: ignore[attr-defined]
    assert in_format("Q4_0", *[1.0] * 33).columns == 64  # type: ignore[attr-defined]
    assert in_format("int8_row_sym", 1.0, 2.0).columns == 2  # type: ignore[attr-defined]


def test_zero_has_no_relative_error_and_an_overflow_an_infinite_one() -> None:
    assert in_format("Q4_0", 0.0).stored[0].relative_error == 0.0  # type: ignore[attr-defined]
    assert in_format("F16", 1e6).stored[0].relative_error == math.inf  # type: ignore[attr-defined]


@pytest.mark.parametrize("number", [math.nan, math.inf, 3.5e38])
def test_what_is_no_weight_is_refused(number: float) -> None:
    with pytest.raises(FewbitsError, match="no finite number in float32"):
        explain(number)


def test_nothing_too_much_and_unknown_formats_are_refused() -> None:
    with pytest.raises(FewbitsError, match="no number to explain"):
        explain()
    with pytest.raises(FewbitsError, match="too many"):
        explain(*[1.0] * 1025)
    with pytest.raises(FormatError, match="did you mean 'Q4_K'"):
        explain(1.0, formats=["Q4_KK"])
    with pytest.raises(FormatError, match="no format is named"):
        explain(1.0, formats=[])
