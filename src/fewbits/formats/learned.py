"""Tables that are learned from the tensor itself: k-means in one dimension, over a histogram of its numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fewbits.formats import doubled
from fewbits.formats.base import Fields, Params, Shapes
from fewbits.formats.codebooks import LEVELS, Codebook
from fewbits.formats.coding import Coding
from fewbits.formats.histogram import Histogram
from fewbits.formats.names import Words
from fewbits.formats.scaled import scale_of
from fewbits.formats.steps import Measured
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

PATTERN = r"learned\d+(_.*)?"
LISTED = ("learned4_g64", "learned3_g128_f16", "learned4_row_dq", "learned8_tensor")
ROUNDS = 200


@dataclass(frozen=True, kw_only=True)
class Learned(Codebook):
    """w = scale * table[code]: one table of 2^bits float32 numbers for the whole tensor, learned from it.

    Numbers are divided by the largest magnitude of their scope and counted; k-means (Lloyd) places the table's numbers
    where they leave the least squared error. It starts from quantiles of the density to the power of 1/3, where the
    best table of many numbers has them (Panter and Dite 1951): nothing is drawn, and every run finds the same. One
    number of the table is 0, so that what is 0 stays 0 and no error exceeds the number itself.
    """

    @property
    def coding(self) -> Coding:
        """How a native kernel codes the format; parameters bring the table."""
        return Coding("table", self.code_bits, self.span, levels=LEVELS)

    @property
    def rows(self) -> int:
        """All rows share the table."""
        return 0

    @property
    def guide(self) -> str:
        """The entry of guide.toml."""
        return "learned"

    @property
    def source(self) -> str:
        """Where the search is defined."""
        return "Lloyd 1982, Least squares quantization in PCM"

    @property
    def equation(self) -> str:
        """What a code means."""
        return "w = scale * table[code]"

    @property
    def layout(self) -> str:
        """The fields."""
        return f"{super().layout}; table: f32, {2**self.code_bits} per tensor"

    def table(self, params: Params) -> torch.Tensor:
        """The numbers (codes,) float32."""
        return params["table"].flatten()

    def prepare(self, slabs: Iterable[torch.Tensor]) -> Params:
        """The table, and what quantized scales share: their largest magnitudes stand for them here."""
        sizes, counted = [], Histogram.of([])
        for slab in slabs:
            x = self.grouped(slab)
            measured = Measured.of(x, x)
            sizes.append(measured.size)
            counted.add(slab if self.scope.rows == 0 else measured.y)
        values, counts = counted.points()
        if self.scope.rows == 0:
            values = values / values.abs().amax().clamp(min=2.0**-126)
        table = best_table(values, counts, 2**self.code_bits).float().to(sizes[0].device)
        shared = doubled.shared_by_all(torch.cat(sizes)) if self.double else {}
        if self.scope.rows == 0:
            shared = self.stored_scales(torch.stack(sizes).amax(0))
        return self.shared(table=table[None], **shared)

    def fit(
        self,
        w: torch.Tensor,
        *,
        importance: torch.Tensor | None = None,
        codes: torch.Tensor | None = None,
        like: Params | None = None,
    ) -> Params:
        """The scale per scope; the table is that of `like`, or learned from `w`."""
        like = like or self.prepare([w])
        if self.scope.rows == 0 and codes is None:
            return like
        fitted = super().fit(w, importance=importance, codes=codes, like=like)
        return self.shared(**fitted.arrays, table=like["table"])

    def shapes(self, rows: int, cols: int) -> Shapes:
        """The fields of a (rows, cols) matrix."""
        return {**super().shapes(rows, cols), "table": ("float32", (2**self.code_bits,))}

    def parameter_fields(self, params: Params) -> Fields:
        """All fields but the codes."""
        return {**super().parameter_fields(params), "table": self.table(params).cpu().numpy()}

    def parameters(self, fields: Fields) -> Params:
        """The parameters that fields hold."""
        params = super().parameters(fields)
        return self.shared(**params.arrays, table=torch.from_numpy(fields["table"].copy())[None])


def best_table(values: torch.Tensor, counts: torch.Tensor, size: int) -> torch.Tensor:
    """`size` numbers (float64, ascending, 0 among them) for ascending `values` that occur `counts` times.

    >>> import torch
    >>> values, counts = torch.tensor([[-1.0, 0.0, 0.5, 0.75, 1.0], [1.0, 5.0, 1.0, 1.0, 1.0]]).double()
    >>> best_table(values, counts, 4)
    tensor([-1.0000,  0.0000,  0.6250,  1.0000], dtype=torch.float64)
    """
    distinct = torch.cat([values[values != 0], torch.zeros(1, dtype=torch.float64)]).sort().values
    if len(distinct) <= size:
        return torch.nn.functional.pad(distinct, (0, size - len(distinct)), value=float(distinct[-1]))
    mass, moment = (torch.nn.functional.pad(part.cumsum(0), (1, 0)) for part in (counts, counts * values))
    table = _start(values, counts, size)
    for _ in range(ROUNDS):
        cuts = torch.searchsorted(values, (table[1:] + table[:-1]) / 2)
        ends = torch.cat([torch.zeros(1, dtype=torch.long), cuts, torch.tensor([len(values)])])
        held = mass[ends[1:]] - mass[ends[:-1]]
        moved = torch.where(held > 0, (moment[ends[1:]] - moment[ends[:-1]]) / held.clamp(min=1), table)
        moved = _with_zero(moved).sort().values
        if torch.equal(moved, table):
            break
        table = moved
    return table


def _with_zero(table: torch.Tensor) -> torch.Tensor:
    """The number nearest to 0 replaced by 0."""
    at = torch.arange(len(table)) == table.abs().argmin()
    return torch.where(at, torch.zeros_like(table), table)


def _start(values: torch.Tensor, counts: torch.Tensor, size: int) -> torch.Tensor:
    """Quantiles of the density to the power of 1/3, measured in 1024 equal steps between the extremes."""
    low, width = values[0], (values[-1] - values[0]) / 1024
    cell = ((values - low) / width).long().clamp(0, 1023)
    density = torch.zeros(1024, dtype=torch.float64).index_add_(0, cell, counts) ** (1 / 3)
    share = torch.nn.functional.pad(density.cumsum(0), (1, 0))
    wanted = (torch.arange(size, dtype=torch.float64) + 0.5) / size * share[-1]
    at = torch.searchsorted(share, wanted).clamp(1, 1024)
    inside = (wanted - share[at - 1]) / (share[at] - share[at - 1])
    return low + (at - 1 + inside) * width


def parse(name: str) -> Learned:
    """The format that `name` states.

    >>> parse("learned4_g64").bits(1, 64) == 4 * 64 + 32 + 32 * 16
    True
    """
    words = Words(name)
    kind = words.kind()
    bits = int(kind.removeprefix("learned"))
    if not 1 <= bits <= 8:
        raise words.refuse("codes have 1 to 8 bits", name.replace(str(bits), "8" if bits > 8 else "1", 1))
    scope = words.scope()
    double, scale = scale_of(words, scope)
    words.end()
    return Learned(kind=f"learned{bits}", code_bits=bits, scope=scope, scale=scale, double=double)
