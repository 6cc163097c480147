"""Products of 8-bit inputs and weights as an integer kernel does them, one token and one output at a time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def int8_codes(token: Floats) -> tuple[list[int], np.float32]:
    """The codes of one token and its scale: its largest magnitude is 127, halves go to the even code."""
    scale = np.float32(max(abs(float(number)) for number in token)) / np.float32(127)
    if scale < np.float32(2.0**-126):
        return [0] * len(token), np.float32(0)
    return [int(np.rint(number * (np.float32(1) / scale))) for number in token], scale


def int8_product(
    x: Floats, codes: npt.NDArray[np.int64], scales: Floats, columns: dict[int, Floats] | None = None
) -> npt.NDArray[np.float64]:
    """Outputs (tokens, rows) for inputs `x` (tokens, cols), weights scale (rows,) * code (rows, cols).

    `columns` are those (place -> (rows,)) that multiply inputs as they are, and are 0 to the integers.
    """
    columns, out = columns or {}, np.zeros((len(x), len(codes)))
    for t, token in enumerate(x):
        rest = np.array([0.0 if c in columns else number for c, number in enumerate(token)], np.float32)
        few, scale = int8_codes(rest)
        for r in range(len(codes)):
            total = sum(int(a) * int(b) for c, (a, b) in enumerate(zip(few, codes[r], strict=True)) if c not in columns)
            out[t, r] = total * float(scale) * float(scales[r])
            out[t, r] += sum(float(token[c]) * float(column[r]) for c, column in columns.items())
    return out
