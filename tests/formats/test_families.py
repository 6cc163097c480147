"""Names of families: what they say, what they refuse, and that they are enough to make a format again."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

from fewbits import formats
from fewbits.errors import FormatError
from fewbits.formats.names import Scope
from fewbits.qtensor import QTensor


@pytest.mark.parametrize("name", list(formats.FORMATS))
def test_names_and_representations_make_the_same_format_again(name: str) -> None:
    format = formats.get(name)
    assert format.name == name
    assert formats.get(json.loads(json.dumps(format.name))) == format
    names = {**vars(sys.modules[type(format).__module__]), "Scope": Scope}
    assert eval(repr(format), names) == format


@pytest.mark.parametrize("name", formats.MEMBERS)
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
