"""Scales and zero points that are learned: what of a format's parameters moves, and how it is stored on the way.

A parameter is start + unit * move. Moves begin at 0 and are of one size for all parameters, so that one rate serves
scales of 0.001 beside whole scales of a K-quant up to 15.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from fewbits.formats.absmax import AbsMax
from fewbits.formats.base import Format, Params
from fewbits.formats.codebooks import Codebook
from fewbits.formats.exact import stored_as, stored_half
from fewbits.formats.grids import TableGrid, UniformGrid
from fewbits.formats.integers import Integer
from fewbits.formats.kquant import Affine
from fewbits.formats.kquant_symmetric import SymmetricK
from fewbits.formats.scaled import Scaled
from fewbits.formats.ternary import Ternary
from fewbits.training.fake.even import even_rounded
from fewbits.training.fake.straight import stepped, through

Arrays = Mapping[str, torch.Tensor]
Grid = UniformGrid | TableGrid
WHOLE_UNIT = 8
"""A move of 1 takes a whole number over an eighth of its range."""
LEAST = 2.0**-40
"""Scales of integers stay above: one that changes sign would turn the codes over."""


@dataclass(frozen=True)
class Lines:
    """A matrix in groups: the numbers that codes may become, as (lines, groups, 1), and what is stored of it."""

    grid: Any
    """Of `formats.grids`, over (lines, groups, length)."""
    scale: torch.Tensor
    """(lines, groups, 1), as offset and zero, with the gradients of what is learned."""
    offset: torch.Tensor | None
    zero: torch.Tensor | None
    params: Params

    def rounded(self, w: torch.Tensor) -> torch.Tensor:
        """What `w` (rows, cols) becomes, with gradients."""
        grouped = w.reshape(len(self.scale), self.scale.shape[1], -1)
        if type(self.grid) is UniformGrid:
            return self._even(self.grid, grouped).reshape(w.shape)
        with torch.no_grad():
            value = self.grid.value(self.grid.nearest(grouped.float()))
            inside = within(self.grid, grouped)
        none = torch.zeros_like(self.scale)
        offset, zero = (none if each is None else each for each in (self.offset, self.zero))
        return stepped(grouped, self.scale, offset, zero, value, inside).reshape(w.shape)

    def _even(self, grid: UniformGrid, grouped: torch.Tensor) -> torch.Tensor:
        middle = float(grid.zero) if isinstance(grid.zero, int) else 0.0
        codes = (grid.bottom, grid.top)
        return even_rounded(grouped, self.scale, self.offset, self.zero, middle=middle, codes=codes)


def within(grid: Grid, x: torch.Tensor) -> torch.Tensor:
    """Which of `x` (lines, groups, length) are no further than half a step beyond the ends of `grid`.

    That is how far numbers may lie from any other code. At the ends themselves, as the paper has it, weights of few
    bits that round to the last code would never move again.

    >>> grid = UniformGrid(torch.ones(1, 1, 1), torch.zeros(1, 1, 1), top=3)
    >>> within(grid, torch.tensor([[[-0.6, -0.4, 3.4, 3.6]]])).tolist()
    [[[False, True, True, False]]]
    """
    if isinstance(grid, TableGrid):
        table = grid.table.sort().values
        low, high = table[0] - (table[1] - table[0]) / 2, table[-1] + (table[-1] - table[-2]) / 2
        ends = grid.scale * low, grid.scale * high
    else:
        first, last = grid.scale.new_tensor([grid.bottom]), grid.scale.new_tensor([grid.top])
        half = (grid.value(first + 1) - grid.value(first)) / 2
        ends = grid.value(first) - half, grid.value(last) + half
    return (x >= torch.minimum(*ends)) & (x <= torch.maximum(*ends))


class Learnable(Protocol):
    """How parameters of one kind of format are learned."""

    def units(self, params: Params) -> dict[str, torch.Tensor]:
        """Parameter -> how far a move of 1 takes it; those that are not named stay."""

    def lines(self, params: Arrays) -> Lines:
        """The grid of parameters that may lie anywhere, as near as they can be stored."""


def learnable(format: Format) -> Learnable | None:
    """How scales of `format` are learned; None where they have to be fitted.

    >>> from fewbits import formats
    >>> [learnable(formats.get(name)) is not None for name in ("int4_row_sym", "Q2_K", "IQ2_XS", "nf4_g64_dq")]
    [True, True, False, False]
    """
    if isinstance(format, Affine):
        return _Minimums(format)
    if isinstance(format, SymmetricK):
        return _WholeScales(format)
    plain = isinstance(format, Integer | Codebook | Ternary | AbsMax) and not format.double
    return _Scales(format) if plain else None  # type: ignore[arg-type]


def scaled_down(x: torch.Tensor, numbers: int, steps: int) -> torch.Tensor:
    """`x` with its gradient over sqrt(numbers * steps), as LSQ has it (section 2.2), for optimizers that see its size.

    >>> x = torch.ones(1, requires_grad=True)
    >>> scaled_down(x, 16, 4).sum().backward()
    >>> x.grad
    tensor([0.1250])
    """
    found: torch.Tensor = _Shrunk.apply(x, (numbers * max(steps, 1)) ** -0.5)  # type: ignore[no-untyped-call]
    return found


class _Shrunk(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, by: float) -> torch.Tensor:
        """`x` itself."""
        ctx.by = by
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Less of it."""
        return grads[0] * ctx.by, None


def _whole(x: torch.Tensor, low: float, high: float) -> torch.Tensor:
    return through(x, x.detach().round().clamp(low, high))


def _detached(params: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: array.detach() for name, array in params.items()}


@dataclass(frozen=True)
class _Scales:
    """One scale per group, and a whole zero point in asymmetric integers."""

    format: Scaled

    def units(self, params: Params) -> dict[str, torch.Tensor]:
        """Parameter -> how far a move of 1 takes it."""
        found = {"scale": _sizes(params["scale"])}
        if "zero" in params.arrays:
            found["zero"] = torch.full_like(params["zero"], (self.format.top + 1) / WHOLE_UNIT)  # type: ignore[attr-defined]
        return found

    def lines(self, params: Arrays) -> Lines:
        """The grid of parameters, as near as they can be stored."""
        given = params["scale"]
        scale = through(given, stored_as(given.detach().clamp(min=LEAST), self.format.scale))
        arrays = {"scale": scale}
        if "zero" in params:
            arrays["zero"] = _whole(params["zero"], 0, self.format.top)  # type: ignore[attr-defined]
        kept = {name: array for name, array in params.items() if name not in arrays}  # a table
        stored = self.format.shared(**_detached(arrays), **kept)
        return self._lines(arrays, stored)

    def _lines(self, arrays: Arrays, stored: Params) -> Lines:
        """The grid is the format's own, made for one column per group."""
        span = self.format.span
        grid = self.format.grid(stored, torch.arange(arrays["scale"].shape[1]) * span if span else slice(None))
        scale = arrays["scale"][..., None]
        zero = arrays["zero"][..., None] if "zero" in arrays else None
        signs = isinstance(self.format, Integer) and self.format.code_bits == 1 and self.format.symmetric
        over = _over_groups(grid)
        return Lines(over, scale + scale if signs else scale, scale if signs else None, zero, stored)


def _over_groups(grid: Any) -> Any:
    """A grid of one column per group, (lines, groups), over (lines, groups, length)."""
    changed: dict[str, Any] = {"scale": grid.scale[..., None]}
    if isinstance(grid, UniformGrid):
        changed["offset"] = grid.offset[..., None]
        changed["zero"] = grid.zero if isinstance(grid.zero, int) else grid.zero[..., None]
    return replace(grid, **changed)


@dataclass(frozen=True)
class _Minimums:
    """Q2_K, Q4_K, Q5_K: (d * scale) * code - dmin * min, with whole scales and minimums under d and dmin."""

    format: Affine

    def units(self, params: Params) -> dict[str, torch.Tensor]:
        """Parameter -> how far a move of 1 takes it."""
        whole = torch.full_like(params["scale"], (self.format.ceiling + 1) / WHOLE_UNIT)
        return {"d": _sizes(params["d"]), "dmin": _sizes(params["dmin"]), "scale": whole, "min": whole.clone()}

    def lines(self, params: Arrays) -> Lines:
        """The grid of parameters, as near as they can be stored."""
        d, dmin = (_half(params[name]) for name in ("d", "dmin"))
        scale, low = (_whole(params[name], 0, self.format.ceiling) for name in ("scale", "min"))
        stored = Params(_detached({"d": d, "dmin": dmin, "scale": scale, "min": low}))
        groups = scale.shape[1] // d.shape[1]
        step = (d.repeat_interleave(groups, 1) * scale)[..., None]
        offset = (dmin.repeat_interleave(groups, 1) * low)[..., None]
        grid = UniformGrid(step.detach(), offset.detach(), self.format.top)
        return Lines(grid, step, offset, None, stored)


@dataclass(frozen=True)
class _WholeScales:
    """Q3_K and Q6_K: (d * scale) * (code - top), with whole scales of either sign."""

    format: SymmetricK

    def units(self, params: Params) -> dict[str, torch.Tensor]:
        """Parameter -> how far a move of 1 takes it."""
        whole = torch.full_like(params["scale"], 2 * self.format.scale_top / WHOLE_UNIT)
        return {"d": _sizes(params["d"]), "scale": whole}

    def lines(self, params: Arrays) -> Lines:
        """The grid of parameters, as near as they can be stored."""
        d = _half(params["d"])
        scale = _whole(params["scale"], -self.format.scale_top, self.format.scale_top - 1)
        stored = Params(_detached({"d": d, "scale": scale}))
        step = (d.repeat_interleave(scale.shape[1] // d.shape[1], 1) * scale)[..., None]
        first = self.format.grid(stored, torch.arange(0, scale.shape[1] * self.format.length, self.format.length))
        return Lines(_over_groups(first), step, None, None, stored)


def _half(x: torch.Tensor) -> torch.Tensor:
    return through(x, stored_half(x.detach()))


def _sizes(scale: torch.Tensor) -> torch.Tensor:
    """Magnitudes, and the mean one where there is none."""
    size = scale.abs()
    return torch.where(size > 0, size, size.mean())
