"""How the inputs of a matrix are rounded while a model runs: mostly token by token, in a format of the registry.

What is computed here in floats is what a kernel of 8-bit products computes in integers: its codes and its scale per
token are those of the format, so only the order of sums differs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fewbits import formats
from fewbits.errors import RecipeError
from fewbits.formats.base import Params
from fewbits.formats.dynamic import at_largest, at_range
from fewbits.registry import Registry

if TYPE_CHECKING:
    import torch


OUTLIER = 6.0
"""The magnitude from which on LLM.int8() takes a column of inputs for one that sticks out (section 3.2)."""


@dataclass(frozen=True)
class Activation:
    """One way to round inputs (tokens, cols): a format whose rows are tokens."""

    name: str
    format: str
    words: str
    """What it is, for tables."""
    parameters: Callable[[Any, torch.Tensor], Params] = at_largest
    """What finds the format's parameters for inputs."""
    splits: bool = False
    """Whether columns that reach `OUTLIER` somewhere in a batch stay as they are."""
    together: bool = False
    """Whether all tokens of a call share parameters."""

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
        if self.splits:
            kept = join(kept, outlying(tokens))
        few = formats.get(self.format)
        rest = tokens if kept is None else tokens.index_fill(1, kept, 0)
        params = self.parameters(few, rest)
        found = few.decode(few.encode(rest, params), params)
        if kept is not None:
            found = found.index_copy(1, kept, tokens[:, kept])
        return found.reshape(x.shape).to(x.dtype)


def outlying(tokens: torch.Tensor) -> torch.Tensor | None:
    """The columns of `tokens` (tokens, cols) that reach `OUTLIER` somewhere, (n,) int64; None for none.

    >>> import torch
    >>> outlying(torch.tensor([[1.0, -6.0, 0.0], [5.9, 1.0, 7.0]]))
    tensor([1, 2])
    """
    if not tokens.numel():
        return None
    found = (tokens.abs().amax(0) >= OUTLIER).nonzero().flatten()
    return found if len(found) else None


def join(some: torch.Tensor | None, others: torch.Tensor | None) -> torch.Tensor | None:
    """Columns that are among one or the other, ascending."""
    if some is None or others is None:
        return some if others is None else others
    return some.new_tensor(sorted({*some.tolist(), *others.tolist()}))


ACTIVATIONS: Registry[Activation] = Registry("rounding of activations", RecipeError)
for _activation in (
    Activation("int8_token", "int8_row_sym_restricted", "INT8 per token, dynamic, symmetric"),
    Activation("int8_token_asym", "int8_row_asym", "INT8 per token, dynamic, with a zero point", at_range),
    Activation(
        "int8_tensor",
        "int8_tensor_sym_restricted",
        "INT8 with one scale for all tokens of a call, dynamic, symmetric",
        together=True,
    ),
    Activation("int8_group", "int8_g32_sym_restricted", "INT8 per 32 inputs, dynamic, symmetric"),
    Activation(
        "int8_token_split",
        "int8_row_sym_restricted",
        "INT8 per token, dynamic, symmetric; columns that reach 6.0 in a batch in 16 bits",
        splits=True,
    ),
    Activation("int4_token", "int4_row_sym_restricted", "INT4 per token, dynamic, symmetric"),
    Activation("int2_token", "int2_row_sym_restricted", "INT2 per token, dynamic, symmetric: -1, 0 and 1"),
    Activation("fp8_token", "fp8_e4m3_row", "FP8 E4M3 per token, dynamic"),
):
    ACTIVATIONS.add(_activation.name, _activation)


def get(name: str) -> Activation:
    """The rounding called `name`; raises RecipeError, naming the nearest known names."""
    return ACTIVATIONS.get(name)
