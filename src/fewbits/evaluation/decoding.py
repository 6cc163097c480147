"""Stored tensors as float32 numbers, slab by slab, for whatever format a GGUF file brings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fewbits.checkpoints.base import Bytes, StoredTensor
from fewbits.errors import EvaluationError

if TYPE_CHECKING:
    import torch

_SLAB_NUMBERS = 1 << 22
"""Weights decoded at a time: 16 MB of float32."""


def require_decodable(formats: set[str]) -> None:
    """Raise EvaluationError, naming it, when one of `formats` can be decoded by nothing here."""
    from fewbits import kernels

    if unknown := sorted(formats - kernels.formats() - _known_to_gguf()):
        raise EvaluationError(f"tensors stored as {', '.join(unknown)} cannot be decoded yet.")


def decoded(stored: StoredTensor) -> torch.Tensor:
    """The float32 numbers of a stored tensor in its own shape."""
    import torch

    if not stored.elements:
        return torch.empty(stored.shape)
    out = torch.empty(stored.rows, stored.cols)
    step = max(1, _SLAB_NUMBERS // stored.cols)
    for start in range(0, stored.rows, step):
        stop = min(start + step, stored.rows)
        out[start:stop] = torch.from_numpy(_decode_slab(stored.format, stored.slab(start, stop), stored.cols))
    return out.reshape(stored.shape)


def _decode_slab(name: str, slab: Bytes, cols: int) -> npt.NDArray[np.float32]:
    """Rows of stored bytes as numbers (rows, cols): by our own kernel, or by the gguf package for other formats."""
    from fewbits import kernels

    if name in kernels.formats():
        return kernels.decode_rows(name, slab, cols)
    from gguf import GGMLQuantizationType, quants

    numbers: npt.NDArray[np.float32] = quants.dequantize(np.ascontiguousarray(slab), GGMLQuantizationType[name])
    return numbers


def _known_to_gguf() -> set[str]:
    """Formats that the gguf package decodes; it says so only by trying."""
    from gguf import GGML_QUANT_SIZES, quants

    known = set()
    for kind, (_, size) in GGML_QUANT_SIZES.items():
        try:
            quants.dequantize(np.zeros((1, size), np.uint8), kind)
        except NotImplementedError:
            continue
        known.add(kind.name)
    return known
