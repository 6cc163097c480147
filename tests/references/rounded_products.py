"""What a product of packed weights and rounded numbers has to be, slowly and in float64, from the decoded weights."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]


def rounded(x: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int64], Doubles]:
    """Codes (tokens, cols) and scales (tokens, cols / 32) of numbers rounded to 8 bits in groups of 32."""
    tokens, cols = x.shape
    groups = x.reshape(tokens, cols // 32, 32)
    largest = np.abs(groups).max(-1)
    inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 2.0**-100)
    codes = np.rint(groups * inverse[..., None]).astype(np.int64)
    return codes.reshape(tokens, cols), (largest / np.float32(127)).astype(np.float64)


def product(w: npt.NDArray[np.float32], x: npt.NDArray[np.float32]) -> Doubles:
    """x (tokens, cols), rounded, times the transpose of w (rows, cols): (tokens, rows)."""
    codes, scales = rounded(x)
    out: Doubles = (codes * np.repeat(scales, 32, axis=1)) @ w.astype(np.float64).T
    return out


def bfloat(x: npt.NDArray[np.float32]) -> Doubles:
    """Finite numbers as the bfloat16 numbers nearest to them; between two of them, the even one."""
    step = np.exp2(np.maximum(np.frexp(x)[1], -125) - 8.0)  # eight significant bits
    out: Doubles = np.rint(x.astype(np.float64) / step) * step
    return out


def bfloat_product(w: npt.NDArray[np.float32], x: npt.NDArray[np.float32]) -> Doubles:
    """x (tokens, cols) times the transpose of w (rows, cols), both rounded to bfloat16: (tokens, rows)."""
    return bfloat(x) @ bfloat(w).T
