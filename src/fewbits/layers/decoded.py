"""The product of a stored matrix in torch alone, on any device: decoded slab by slab, in the type of the inputs."""

from __future__ import annotations

import torch

from fewbits.layers.products import rounding_of
from fewbits.layers.stored import StoredWeight
from fewbits.qtensor import kept_columns


def decoded_product(
    weight: StoredWeight, x: torch.Tensor, inputs: str, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Outputs (tokens, rows) for `x` (tokens, cols), on its device.

    Inputs of 16 bits are as they are here: a device multiplies floats of 16 bits by itself.

    >>> from fewbits import formats
    >>> w, q8 = torch.eye(32), formats.get("Q8_0")
    >>> data = torch.from_numpy(q8.pack(q8.encode(w, q8.fit(w)), q8.fit(w)))
    >>> stored = StoredWeight.of("Q8_0", (32, 32), {"data": data})
    >>> decoded_product(stored, torch.ones(1, 32), "exact")[0, :2].round(decimals=2)
    tensor([1., 1.])
    """
    rounding, kept = rounding_of(inputs), kept_columns(weight.fields, weight.shape)
    few = rounding.rounded(x, kept.index.to(x.device) if kept else None) if rounding else x
    out = x.new_empty(len(x), weight.shape[0])
    for start, stop, numbers in weight.slabs():
        own = None if bias is None else bias[start:stop].to(x)
        out[:, start:stop] = torch.nn.functional.linear(few, numbers.to(x), own)
    return out
