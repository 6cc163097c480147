"""What every dialect must do: give back, bit by bit, what it says that it can hold, and refuse the rest in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from fewbits import formats
from fewbits.checkpoints.base import StoredTensor
from fewbits.checkpoints.dialects import Dialect, refusal
from fewbits.checkpoints.dialects.base import WIDTHS, Arrays, InHeaders, Slots
from fewbits.checkpoints.fields import Matrix
from fewbits.errors import CheckpointError
from fewbits.formats import Fields
from fewbits.kernels.stored import stored_numbers
from fewbits.lazy import LazyModule
from fewbits.qtensor import ORDER
from fewbits.testing.expect import expect, expect_equal
from fewbits.testing.inputs import normal

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

ROWS, COLS = 64, 256
NAME = "model.layers.3.mlp.up_proj.weight"
MORE = (
    *("int4_g64_sym_f16", "int4_g64_sym_bf16", "int4_row_sym_f16", "int8_g32_sym_f16", "int3_g32_sym_f16"),
    *("int2_g64_sym_f16", "uint4_g64_asym_f16", "uint4_g32_asym_bf16", "uint8_g64_asym_f16", "uint3_g32_asym_f16"),
    *("uint2_g128_asym_f16", "int5_g64_sym_bf16", "int6_g32_sym_f16", "nf4_g128_dq", "fp4_bnb_g128"),
    *("uint8_g64_bias_bf16", "uint6_g128_bias_f16", "uint5_g32_bias", "uint2_g64_bias_f16", "uint8_g64_floatzero_bf16"),
    *("uint3_g64_floatzero_f16", "uint1_g32_floatzero_f16"),
    *("int4_g128_sym_bf16", "int8_g64_sym", "fp8_e4m3_g64"),
)
"""Formats beside the registry's listed members that some dialect is made for."""


class Tensors:
    """Tensors by name, as a file holds them."""

    def __init__(self, slots: Slots, arrays: Arrays, metadata: Mapping[str, str]) -> None:
        self.metadata = metadata
        self._tensors = {
            name: StoredTensor(name, dtype, shape, np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8))
            for name, (dtype, shape) in slots.items()
        }

    def names(self) -> list[str]:
        """All names."""
        return list(self._tensors)

    def read(self, name: str) -> StoredTensor:
        """The tensor of that name; raises CheckpointError when there is none."""
        if name not in self._tensors:
            raise CheckpointError(f"there is no {name}")
        return self._tensors[name]


def held(dialect: Dialect, activation: str | None = None) -> list[Matrix]:
    """A matrix of every format, among those known here, that `dialect` can hold."""
    known = dict.fromkeys([*formats.members(), *MORE])
    asked = (Matrix(NAME, name, (ROWS, COLS), activation) for name in known if formats.fits(formats.get(name), COLS))
    return [matrix for matrix in asked if refusal(dialect, matrix) is None]


def check_dialect(dialect: Dialect, matrix: Matrix, *, order: bool = False) -> None:
    """Pack numbers of every size in the format of `matrix`, and read them again; raises AssertionError."""
    fields = coded(matrix, order=order)
    slots, packed = dialect.slots(matrix), dialect.pack(matrix, fields)
    expect_equal(set(packed), set(slots), f"{dialect.name} packs other tensors than it announces")
    for name, (dtype, shape) in slots.items():
        expect_equal(packed[name].dtype, np.dtype(WIDTHS[dtype]), f"the type of {name} in {dialect.name}")
        expect_equal(packed[name].shape, shape, f"the shape of {name} in {dialect.name}")
    said = dialect.header([matrix], [], "float32") if isinstance(dialect, InHeaders) else {}
    files, configuration = Tensors(slots, packed, said), dialect.configuration([matrix], ["lm_head.weight"])
    expect(dialect.recognizes(configuration), f"{dialect.name} does not know its own configuration")
    found = dialect.matrices(configuration, files)
    expect_equal(set(found), {matrix.name}, f"matrices that {dialect.name} finds")
    read = found[matrix.name]
    back = dialect.unpack(read, files, configuration)
    facts = (read.shape, read.activation, read.ordered)
    expect_equal(facts, (matrix.shape, matrix.activation, matrix.ordered), f"what {dialect.name} says of a matrix")
    numbers = [stored_numbers(formats.get(m.format), f, m.shape) for m, f in ((matrix, fields), (read, back))]  # type: ignore[arg-type]
    expect(bool((numbers[0] == numbers[1]).all()), f"{matrix.format} comes back as other numbers from {dialect.name}")
    if read.format == matrix.format:
        for key, field in fields.items():
            same = np.ascontiguousarray(back[key]).tobytes() == np.ascontiguousarray(field).tobytes()
            expect(same, f"the field {key} of {matrix.format} comes back changed from {dialect.name}")


def coded(matrix: Matrix, *, order: bool = False, seed: int = 7) -> Fields:
    """The fields of a matrix whose rows are of very different sizes, so that no two scales are alike."""
    rows, cols = matrix.shape
    sizes = np.exp(np.random.default_rng(seed).normal(size=(rows, 1))).astype(np.float32)
    w = normal(rows, cols, seed) * torch.from_numpy(sizes) + 0.1
    format = formats.get(matrix.format)
    params = format.fit(w)
    fields = dict(format.fields(format.encode(w, params), params))
    if order:
        places = np.random.default_rng(seed).permutation(np.arange(cols) // format.span)
        fields[ORDER] = np.argsort(places, kind="stable").astype(np.int32)
    return fields


def check_refusal(dialect: Dialect, name: str) -> Mapping[str, str]:
    """Why a matrix of the format called `name` is refused; a phrase with a remedy. Empty where it is held."""
    why = refusal(dialect, Matrix(NAME, name, (ROWS, COLS)))
    expect(why is None or len(why) > 20, f"{dialect.name} refuses {name} without saying why")
    return {name: why} if why else {}
