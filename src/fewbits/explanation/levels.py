"""The numbers that one group of a tensor can become: what a picture marks on its axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fewbits.explanation.bits import code_width
from fewbits.explanation.matrix import Floats
from fewbits.formats import Format, Params
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

MOST = 64
"""More levels than this are a surface, not marks."""


def levels(format: Format, w: Floats, like: Params | None) -> tuple[float, ...]:
    """Every level of the first column of `w`, (rows that share parameters, columns); none where they are too many.

    A format that rounds several columns together has no levels of a single column.
    """
    if format.vector > 1:
        return ()
    matrix = torch.from_numpy(w)
    params = format.fit(matrix, like=like)
    codes = format.encode(matrix, params)
    if codes.dtype != torch.uint8:
        return ()
    count = 1 << code_width(format, codes)
    if count > MOST:
        return ()
    every = torch.arange(count, dtype=torch.uint8).reshape(1, -1).expand(len(w), -1)
    values = format.grid(params, slice(0, 1)).value(every)[0]
    return tuple(np.unique(values.numpy()).tolist())
