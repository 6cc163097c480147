"""Names of families: what they say, what they refuse, and that they are enough to make a format again."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

import references.families as references
from fewbits import formats
from fewbits.errors import FormatError
from fewbits.formats import codebooks, doubled, lattice_bits, offsets
from fewbits.formats.lines import Line
from fewbits.formats.names import Scope
from fewbits.qtensor import QTensor


@pytest.mark.parametrize("name", list(formats.FORMATS))
def test_names_and_representations_make_the_same_format_again(name: str) -> None:
    format = formats.get(name)
    assert format.name == name
    assert formats.get(json.loads(json.dumps(format.name))) == format
    names = {**vars(sys.modules[type(format).__module__]), **vars(lattice_bits), "Scope": Scope}
    assert eval(repr(format), names) == format


@pytest.mark.parametrize("name", formats.members())
def test_a_matrix_is_its_fields_and_its_json(name: str) -> None:
    format = formats.get(name)
    w = torch.randn(3, 4 * (format.span or 8), generator=torch.Generator().manual_seed(1))
    params = format.fit(w)
    q = QTensor(format, format.encode(w, params), params)
    told = json.loads(json.dumps(q.to_json()))
    again = QTensor.from_fields(formats.get(told["format"]), q.fields(), tuple(told["shape"]))
    assert torch.equal(again.dequantize(), q.dequantize())
    assert q.bits == 8 * sum(field.nbytes for field in q.fields().values())


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("uint4_g64_bf16", "uint4_g64_asym_bf16"),
        ("int4_g64", "int4_g64_sym"),
        ("int8_row_sym_f32", "int8_row_sym"),
        ("int3_g96_asym_f16", "int3_g96_asym_f16"),
        ("uint8_tensor_asym", "uint8_tensor_asym"),
        ("uint4_g64_bias_f32", "uint4_g64_bias"),
    ],
)
def test_what_goes_without_saying(name: str, canonical: str) -> None:
    assert formats.get(name).name == canonical
    assert formats.get(name) == formats.get(canonical)
    assert name in formats.FORMATS


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("int9_row_sym", r"codes have 1 to 8 bits; did you mean 'int8_row_sym'\?"),
        ("uint0_row", r"codes have 1 to 8 bits; did you mean 'uint1_row'\?"),
        ("int4_g128_symm", r"'symm'.*did you mean 'int4_g128_sym' or 'int4_g128_asym'\?"),
        ("int4_g128_sym_f61", r"'f61'.*'int4_g128_sym_f16'"),
        ("int4_rwo_sym", r"share a scale.*'int4_row_sym'"),
        ("int4_g1_sym", r"share a scale .*2 to 1048576"),
        ("int4", r"share a scale.*'int4_row'"),
        ("int4_row_asym_restricted", r"no word 'restricted'"),
        ("int1_row_sym_restricted", r"no word 'restricted'"),
        ("int4_g64_bias", r"counted from 0; did you mean 'uint4_g64_bias'\?"),
        ("uint9_g64_bias", r"codes have 1 to 8 bits; did you mean 'uint8_g64_bias'\?"),
        ("uint4_tensor_floatzero", r"share a scale.*'uint4_row_floatzero'"),
        ("uint4_g64_bias_dq", r"'dq'"),
        ("Q4_X", r"unknown format 'Q4_X'; did you mean"),
    ],
)
def test_a_name_that_states_no_format_is_refused_in_one_sentence(name: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        formats.get(name)
    assert name not in formats.FORMATS


def test_a_group_that_does_not_divide_is_refused() -> None:
    format = formats.get("int4_g96_sym")
    for call in (lambda: format.bits(2, 128), lambda: format.fit(torch.zeros(2, 128))):
        with pytest.raises(FormatError, match=r"int4_g96_sym stores spans of 96 columns and a width of 128"):
            call()


def test_several_fields_are_no_bytes_per_row() -> None:
    with pytest.raises(FormatError, match="cannot be stored as one string of bytes per row"):
        formats.row_bytes(formats.get("int4_g32_sym_f16"), 64)


def test_fields_of_another_shape_or_name_are_refused() -> None:
    format = formats.get("uint4_g64_asym_bf16")
    w = torch.ones(2, 128)
    params = format.fit(w)
    fields = format.fields(format.encode(w, params), params)
    for wrong, message in (
        ({**fields, "scale": fields["scale"][:1]}, r"field scale as uint16 \(2, 2\)"),
        ({**fields, "codes": fields["codes"].astype(np.int8)}, "field codes as uint8"),
        ({k: v for k, v in fields.items() if k != "zero"}, "has the fields codes, scale, zero"),
        ({**fields, "extra": fields["zero"]}, "was given codes, scale, zero, extra"),
    ):
        with pytest.raises(FormatError, match=message):
            format.from_fields(wrong, (2, 128))


def test_scopes_are_words() -> None:
    for word in ("tensor", "row", "g2", "g96", "tile128"):
        scope = Scope.of(word)
        assert scope is not None
        assert scope.word == word
    assert [Scope.of(word) for word in ("g1", "g0", "g01", "g", "tile", "rows", "", "g1048577")] == [None] * 8


OURS = [name for name in formats.members() if name.startswith(("int", "uint", "ternary", "nf", "fp4_bnb", "learned"))]


@pytest.mark.parametrize("name", OURS)
def test_fields_mean_what_the_layout_says(name: str) -> None:
    """Ours, and random bytes under random scales, number by number against the slow reference."""
    format = formats.get(name)
    rows, cols = 3, 2 * (format.span or 21)
    w = torch.randn(rows, cols, generator=torch.Generator().manual_seed(2)) ** 3
    params = format.fit(w)
    fields = format.fields(format.encode(w, params), params)
    scrambled = {key: scramble(field, seed) for seed, (key, field) in enumerate(fields.items())}
    if name.startswith("ternary"):
        scrambled["codes"] = fields["codes"][::-1].copy()  # not every byte is five codes
    for stored in (fields, scrambled):
        found = format.decode(*format.from_fields(stored, (rows, cols))).numpy()
        wanted = references.decode(name, stored, (rows, cols), format.span)
        # The reference knows the table of quantized scales in float64, not as it was rounded.
        near = 1e-6 * np.abs(wanted).max() if name.endswith("dq") else 0.0
        assert np.allclose(found, wanted, rtol=0, atol=near)


def scramble(field: np.ndarray, seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    if field.dtype == np.uint8:
        return draw.integers(0, 256, field.shape).astype(np.uint8)
    if field.dtype == np.uint16:  # upper halves of float32, none of them infinite
        return draw.integers(0, 2**16, field.shape).astype(np.uint16) & 0xBFFF
    return (draw.normal(size=field.shape) ** 3).astype(field.dtype)


def test_tables_are_what_their_construction_gives() -> None:
    assert codebooks.TABLES["nf4"][0] == tuple(references.NF4)
    assert np.allclose(references.normal_float(4), references.NF4, rtol=0, atol=2e-7)
    assert np.array_equal(np.float32(references.normal_float(3)), np.float32(codebooks.TABLES["nf3"][0]))
    assert np.array_equal(np.float32(references.FP4), np.float32(codebooks.TABLES["fp4_bnb"][0]))
    assert np.allclose(references.dynamic_map(), doubled.dynamic_map(), rtol=1e-6, atol=0)


def test_quantized_scales_cost_what_the_paper_says() -> None:
    """0.5 bits per weight become 0.127 at groups of 64: 8 / 64 + 32 / (64 * 256)."""
    plain, double = formats.get("nf4_g64"), formats.get("nf4_g64_dq")
    count = 4096 * 4096
    assert plain.bits(4096, 4096) == (4 + 0.5) * count
    assert double.bits(4096, 4096) == (4 + 8 / 64 + 32 / (64 * 256)) * count + 32
    assert formats.get("int4_g64_sym_dq").bits(4096, 4096) == double.bits(4096, 4096)


@pytest.mark.parametrize("name", [n for n in OURS if "_g" in n and not n.startswith(("learned", "int1"))])
def test_the_search_beats_the_usual_choice(name: str) -> None:
    """The scale that takes the largest magnitude, or the range, to the end of the grid."""
    format = formats.get(name)
    cols = 4 * format.span
    for power in (1, 3):
        w = torch.randn(8, cols, generator=torch.Generator().manual_seed(9)) ** power
        params = format.fit(w)
        x = format.grouped(w)
        if "_asym" in name:
            low, high = x.amin(-1).clamp(max=0), x.amax(-1).clamp(min=0)
            scale = (high - low) / (2**format.code_bits - 1)
            usual = format._stored((-low / scale).round(), scale)
        elif isinstance(format, offsets.Offset):
            low, high = x.amin(-1), x.amax(-1)
            zero = torch.zeros_like(low)
            usual = format.shared(**format.through(Line((high - low) / format.top, zero, low)))
        else:
            steps = 1 if format.code_bits == 2 or not hasattr(format, "top") else 2 ** (format.code_bits - 1) - 1
            usual = format.shared(**format.stored_scales(x.abs().amax(-1) / steps))
        errors = [(format.decode(format.encode(w, p), p) - w).square().sum() for p in (params, usual)]
        assert errors[0] < errors[1]


def test_a_learned_table_beats_a_fixed_one() -> None:
    w = torch.randn(64, 512, generator=torch.Generator().manual_seed(4)) ** 3
    errors = {}
    for name in ("nf4_g64", "learned4_g64"):
        format = formats.get(name)
        params = format.fit(w)
        errors[name] = float((format.decode(format.encode(w, params), params) - w).square().sum())
    assert errors["learned4_g64"] < 0.9 * errors["nf4_g64"]
