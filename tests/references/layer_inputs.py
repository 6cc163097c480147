"""Inputs of layers as whole numbers, slowly, one scope after another, as formats and kernels define them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
LEAST = np.float32(2.0**-126)


def wide(x: Floats) -> Doubles:
    """Groups of 32 in 16 bits: the largest magnitude is 255 * 127 + 127 steps."""
    out = np.zeros(x.shape)
    for token, row in enumerate(x):
        for start in range(0, x.shape[1], 32):
            group = row[start : start + 32]
            largest = np.abs(group).max()
            if largest > 2.0**-100:
                codes = np.rint(group * (np.float32(32512) / largest))
                out[token, start : start + 32] = codes.astype(np.float64) * float(largest / np.float32(32512))
    return out


def even(x: Floats, span: int) -> Doubles:
    """Spans of `span` numbers in 8 bits: the largest magnitude is 127 steps."""
    out = np.zeros(x.shape)
    for token, row in enumerate(x):
        for start in range(0, x.shape[1], span):
            group = row[start : start + span]
            scale = np.abs(group).max() / np.float32(127)
            if scale >= LEAST:
                codes = np.rint(group * (np.float32(1) / scale)).clip(-127, 127)
                out[token, start : start + span] = codes.astype(np.float64) * float(scale)
    return out


def moved(x: Floats) -> Doubles:
    """Tokens in 8 bits with a zero point: from the smallest number to the largest there are 254 steps."""
    out = np.zeros(x.shape)
    for token, row in enumerate(x):
        low, high = min(row.min(), np.float32(0)), max(row.max(), np.float32(0))
        scale = (high - low) / np.float32(254)
        if scale >= LEAST:
            inverse = np.float32(1) / scale
            zero = 1 - np.rint(low * inverse)
            codes = (np.rint(row * inverse) + zero).clip(0, 255)
            out[token] = (codes.astype(np.float64) - float(zero)) * float(scale)
    return out


def split(x: Floats) -> Doubles:
    """As LLM.int8(): columns that reach 6.0 somewhere in 16 bits, the others in 8, one scale per token."""
    apart = np.abs(x).max(0) >= 6.0
    few, rest = x.copy(), x.copy()
    few[:, apart], rest[:, ~apart] = 0, 0
    return even(few, x.shape[1]) + wide(rest)


INPUTS = {
    "exact": lambda x: x.astype(np.float64),
    "int16_group": wide,
    "int8_group": lambda x: even(x, 32),
    "int8_token": lambda x: even(x, x.shape[1]),
    "int8_token_asym": moved,
    "int8_token_split": split,
}
"""How inputs are taken -> the numbers that a matrix gets."""
