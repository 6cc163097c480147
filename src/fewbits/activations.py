"""How the inputs of a matrix are rounded while a model runs: each token by itself, in a format of the registry.

What is computed here in floats is what a kernel of 8-bit products computes in integers: its codes and its scale per
token are those of the format, so only the order of sums differs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from fewbits import formats
from fewbits.errors import RecipeError
from fewbits.formats.dynamic import Dynamic, at_largest
from fewbits.registry import Registry

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Activation:
    """One way to round inputs (tokens, cols): a format whose rows are tokens."""

    name: str
    format: str
    words: str
    """What it is, for tables."""

    def rounded(self, x: torch.Tensor, kept: torch.Tensor | None = None) -> torch.Tensor:
        """`x` (..., cols) as a matrix gets it; the columns `kept` (n,) int64 stay, and no scale is theirs.

        A column that stays is left out of the 8-bit product, as in LLM.int8() (Dettmers et al. 2022, arXiv:2208.07339,
        section 3.2), and multiplies numbers of 16 bits instead.

        >>> import torch
        >>> x = torch.tensor([[127.0, 0.6, -3.0]])
        >>> get("int8_token").rounded(x), get("int8_token").rounded(x, torch.tensor([0]))[0, [0, 2]]
        (tensor([[127.,   1.,  -3.]]), tensor([127.,  -3.]))
        """
        tokens = x.reshape(-1, x.shape[-1]).float()
        few = cast(Dynamic, formats.get(self.format))
        rest = tokens if kept is None else tokens.index_fill(1, kept, 0)
        params = at_largest(few, rest)
        found = few.decode(few.encode(rest, params), params)
        if kept is not None:
            found = found.index_copy(1, kept, tokens[:, kept])
        return found.reshape(x.shape).to(x.dtype)


ACTIVATIONS: Registry[Activation] = Registry("rounding of activations", RecipeError)
for _activation in (
    Activation("int8_token", "int8_row_sym_restricted", "INT8 per token, dynamic, symmetric"),
    Activation("fp8_token", "fp8_e4m3_row", "FP8 E4M3 per token, dynamic"),
):
    ACTIVATIONS.add(_activation.name, _activation)


def get(name: str) -> Activation:
    """The rounding called `name`; raises RecipeError, naming the nearest known names."""
    return ACTIVATIONS.get(name)
