"""What vectors of columns can become: points of a lattice under a scale, with a sign per column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fewbits.formats.lattice_search import (
    AT_ONCE,
    Lattice,
    flipped_halves_of,
    flipped_place,
    halves_of,
    lattice,
)
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")


@dataclass(frozen=True)
class VectorCode:
    """How a vector is one whole number: `parts` points of the lattice `name`, one after another, a sign per column.

    `width`, `count` and `top` say how many columns and points the lattice has, and its largest number.

    code = point_0 + point_1 * count + (bits of the negative columns) * count^parts. With `even`, a vector has an even
    number of negative columns: where the numbers have an odd one, the best one for it takes the other sign.
    """

    name: str
    parts: int
    even: bool
    width: int
    count: int
    top: float

    @property
    def vector(self) -> int:
        """Columns of a vector."""
        return self.parts * self.width

    def lattice(self, device: torch.device) -> Lattice:
        """The points."""
        return lattice(self.name).to(device)

    def split(self, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Points (..., parts) and bits of the negative columns (...)."""
        indices = [codes // self.count**part % self.count for part in range(self.parts)]
        return torch.stack(indices, -1).long(), codes // self.count**self.parts

    def join(self, indices: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
        """Codes (...) int32 of points (..., parts) and bits of the negative columns (...)."""
        codes: torch.Tensor = signs * self.count**self.parts
        for part in range(self.parts):
            codes = codes + indices[..., part] * self.count**part
        return codes.to(torch.int32)

    def numbers(self, codes: torch.Tensor) -> torch.Tensor:
        """The whole numbers (..., vector) float32 that codes (...) stand for, signs included."""
        indices, signs = self.split(codes)
        magnitudes = self.lattice(codes.device).points[indices].flatten(-2)
        bit = signs[..., None] >> torch.arange(magnitudes.shape[-1], device=codes.device) & 1
        return torch.where(bit == 1, -magnitudes, magnitudes)

    def with_last_sign(self, signs: torch.Tensor) -> torch.Tensor:
        """Bits of the negative columns, the last one from the others, so that their number is even."""
        last = self.vector - 1
        odd = (signs[..., None] >> torch.arange(last, device=signs.device) & 1).sum(-1) & 1
        whole: torch.Tensor = signs | odd << last
        return whole

    def nearest(self, x: torch.Tensor, weight: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """Codes (vectors,) of least error sum weight * (step * number - x)^2, `x` and `weight` (vectors, vector)."""
        parts = zip(*(torch.split(t, AT_ONCE) for t in (x, weight, step)), strict=True)
        return torch.cat([self._nearest(*part) for part in parts])

    def _nearest(self, x: torch.Tensor, weight: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        table = self.lattice(x.device)
        negative = torch.signbit(x)
        errors = torch.split(table.errors(x.abs(), weight, step), table.width)
        if not self.even:
            return self.join(torch.stack([table.nearest(part) for part in errors], -1), bits_of(negative))
        flipped = torch.split(table.errors(-x.abs(), weight, step), table.width)
        odd = negative.sum(1) % 2 == 1
        flips = [odd & here for here in _parts_to_flip(table, errors, flipped)]
        indices = [table.nearest(*part) for part in zip(errors, flipped, flips, strict=True)]
        place = torch.zeros_like(indices[0])
        for part, index in enumerate(indices):
            found = flipped_place(table.at(errors[part], index), table.at(flipped[part], index))
            place = torch.where(flips[part], table.width * part + found, place)
        given_up = odd[:, None] & (torch.arange(x.shape[1], device=x.device) == place[:, None])
        return self.join(torch.stack(indices, -1), bits_of(negative ^ given_up))


def _parts_to_flip(
    table: Lattice, errors: tuple[torch.Tensor, ...], flipped: tuple[torch.Tensor, ...]
) -> list[torch.Tensor]:
    """Per part of a vector, (vectors,): whether a sign is better given up there than in the other part."""
    if len(errors) == 1:
        return [torch.ones_like(errors[0][0, 0], dtype=torch.bool)]
    halves = [halves_of(part) for part in errors]
    others = [flipped_halves_of(*part) for part in zip(errors, flipped, strict=True)]
    plain = [table.totals(part).amin(0) for part in halves]
    flip = [table.flipped_totals(*part).amin(0) for part in zip(halves, others, strict=True)]
    in_first = flip[0] + plain[1] <= plain[0] + flip[1]
    return [in_first, ~in_first]


def bits_of(flags: torch.Tensor) -> torch.Tensor:
    """Whole numbers (...) whose bit e is flag e of (..., n)."""
    return (flags.long() << torch.arange(flags.shape[-1], device=flags.device)).sum(-1)


@dataclass(frozen=True)
class LatticeGrid:
    """step * (signed points): `step` is (rows, vectors), codes are those of `code`, one per vector.

    >>> import torch
    >>> grid = LatticeGrid(VectorCode("IQ2_XXS", 1, even=True, width=8, count=256, top=43.0), torch.tensor([[0.125]]))
    >>> grid.value(grid.nearest(torch.tensor([[5.0, -1, 1, -1, 1, 1, 1, 1]])))
    tensor([[ 5.3750, -1.0000,  1.0000, -1.0000,  1.0000,  1.0000,  1.0000,  1.0000]])
    """

    code: VectorCode
    step: torch.Tensor

    @property
    def vector(self) -> int:
        """Columns rounded together."""
        return self.code.vector

    def nearest(self, x: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
        """Codes (rows, vectors) int32 of the least error, weighed by numbers' `weight` (rows, cols) or evenly."""
        weight = torch.ones_like(x) if weight is None else weight
        numbers, weights = (t.reshape(-1, self.vector) for t in (x, weight))
        return self.code.nearest(numbers, weights, self.step.flatten()).reshape(self.step.shape)

    def value(self, codes: torch.Tensor) -> torch.Tensor:
        """Numbers (rows, cols) float32."""
        return (self.step[..., None] * self.code.numbers(codes)).flatten(1)

    def columns(self, start: int, stop: int) -> LatticeGrid:
        """What columns `start` to `stop` of these, whole vectors, can become."""
        return LatticeGrid(self.code, self.step[:, start // self.vector : stop // self.vector])

    def alternatives(self, found: int) -> torch.Tensor:
        """Every code (codes,) where a vector is one point; of several, all that differ from `found` in one of them.

        >>> import torch
        >>> code = VectorCode("IQ2_XXS", 1, even=True, width=8, count=256, top=43.0)
        >>> len(LatticeGrid(code, torch.ones(1, 1)).alternatives(0))
        32768
        """
        code, device = self.code, self.step.device
        points = code.split(torch.tensor([found], device=device))[0].repeat(code.parts * code.count, 1)
        for part in range(code.parts):
            points[part * code.count : (part + 1) * code.count, part] = torch.arange(code.count, device=device)
        signs = torch.arange(2**code.vector, device=device)
        if code.even:
            signs = code.with_last_sign(signs[: len(signs) // 2])
        return code.join(points[:, None].expand(-1, len(signs), -1), signs.expand(len(points), -1)).flatten()

    def examples(self) -> torch.Tensor:
        """Codes (rows, vectors) that differ from place to place."""
        code = self.code
        place = torch.arange(self.step.numel(), device=self.step.device).reshape(self.step.shape)
        points = torch.stack([(place * (7919 + part) + 13) % code.count for part in range(code.parts)], -1)
        signs = (place * 7907 + 5) % 2 ** (code.vector - code.even)
        return code.join(points, code.with_last_sign(signs) if code.even else signs)
