"""Native codec of LLM.int8()'s rows (formats/absmax.py): search and codes of whole numbers, numbers of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fewbits.formats.absmax import UNIT, AbsMax
from fewbits.formats.base import Fields, Format, Params, Shape, check_fields
from fewbits.kernels import Bytes, EncodedFields, Floats, deviation
from fewbits.kernels.grouped import encode_codes, steps_and_zeros
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")


def has_codec(format: Format) -> bool:
    """Whether a native kernel codes `format`."""
    return isinstance(format, AbsMax)


def encode_fields(
    format: Format,
    source: Bytes,
    numbers: str,
    *,
    like: Params | None = None,
    importance: Floats | None = None,
    isa: str = "",
) -> EncodedFields:
    """Fit, choose and pack codes for `source`, (rows, bytes of `numbers`); rows share nothing, so `like` is unused.

    `importance` (cols,) weighs squared errors. The same numbers give the same fields on every instruction set.
    """
    assert isinstance(format, AbsMax), "has_codec said so"
    source = np.ascontiguousarray(source)
    steps, _, seen = steps_and_zeros(format.steps, source, numbers, importance, isa)
    scale = format.of_steps(torch.from_numpy(steps)).numpy()
    # The step of a code, rounded as the grid rounds it, gives the grid's codes.
    codes = encode_codes(format.steps, source, numbers, scale * np.float32(UNIT), isa)
    fields = {"codes": codes, "scale": scale}
    back = decode_fields(format, fields, (len(codes), codes.shape[1]))
    return EncodedFields(fields, *deviation(source, numbers, back), *seen)


def decode_fields(format: Format, fields: Fields, shape: Shape, *, into: Floats | None = None, isa: str = "") -> Floats:
    """The numbers (rows, cols) float32 of stored fields, written `into` an array or a new one."""
    check_fields(format.name, fields, format.shapes(*shape))
    w = np.empty(shape, np.float32) if into is None else into
    with np.errstate(over="ignore", invalid="ignore"):  # a file may bring any scale
        np.multiply(fields["codes"].view(np.int8), fields["scale"], out=w)
        w *= np.float32(UNIT)
    return w
