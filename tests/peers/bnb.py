"""bitsandbytes as a peer: what it stores for a matrix, in the fields of our formats, and the numbers that it reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

FORMATS = {
    "nf4_g64": ("nf4", 64, False),
    "nf4_g64_dq": ("nf4", 64, True),
    "nf4_g128": ("nf4", 128, False),
    "fp4_bnb_g64": ("fp4", 64, False),
    "fp4_bnb_g64_dq": ("fp4", 64, True),
    "fp4_bnb_g128_dq": ("fp4", 128, True),
}
"""Our name -> its type, numbers per scale, and whether scales are quantized."""


def encode(name: str, w: torch.Tensor) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What bitsandbytes stores for `w` (rows, cols), as our fields, and its own reading of it."""
    import bitsandbytes.functional as bnb

    kind, group, double = FORMATS[name]
    packed, state = bnb.quantize_4bit(w, blocksize=group, compress_statistics=double, quant_type=kind)
    numbers = bnb.dequantize_4bit(packed, state).numpy()
    both = packed.numpy().reshape(len(w), -1)
    codes = (both >> 4) | (both << 4)  # its first code is the high half
    lines = state.absmax.numpy().reshape(len(w), -1)
    if not double:
        return {"codes": codes, "scale": lines}, numbers
    offset = state.offset.numpy().reshape(1)
    return {"codes": codes, "scale": lines, "nested": state.state2.absmax.numpy(), "offset": offset}, numbers


def read(name: str, fields: dict[str, np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """bitsandbytes' reading of fields, whoever made them."""
    import bitsandbytes.functional as bnb

    kind, group, double = FORMATS[name]
    codes = fields["codes"]
    packed = torch.from_numpy((codes >> 4) | (codes << 4)).reshape(-1, 1)
    facts: dict[str, Any] = {
        "shape": torch.Size(shape),
        "dtype": torch.float32,
        "blocksize": group,
        "quant_type": kind,
        "code": bnb.get_4bit_type(kind, device="cpu"),
        "absmax": torch.from_numpy(fields["scale"].copy()).flatten(),
    }
    if double:
        nested = torch.from_numpy(fields["nested"].copy())
        inner = bnb.QuantState(absmax=nested, code=bnb.create_dynamic_map(), blocksize=256, dtype=torch.float32)
        facts |= {"offset": torch.tensor(float(fields["offset"][0])), "state2": inner}
    numbers: np.ndarray = bnb.dequantize_4bit(packed, bnb.QuantState(**facts)).numpy()
    return numbers
