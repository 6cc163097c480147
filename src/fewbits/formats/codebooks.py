"""Codes that index a table of unevenly spaced numbers under a scale: NF4, NF3 and bitsandbytes' FP4."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fewbits.formats.base import Params
from fewbits.formats.coding import Coding
from fewbits.formats.grids import TableGrid
from fewbits.formats.histogram import Histogram
from fewbits.formats.names import Words
from fewbits.formats.scaled import LARGEST_SCALE, SMALLEST_SCALE, Scaled, scale_of
from fewbits.formats.steps import Measured, step_at, table_step
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

PATTERN = r"nf\d+(_.*)?|fp4_bnb(_.*)?"
LISTED = (
    "nf4_g64",
    "nf4_g64_dq",
    "nf4_g128_bf16",
    "nf4_row",
    "nf3_g64",
    "nf3_g64_dq",
    "fp4_bnb_g64",
    "fp4_bnb_g64_dq",
)

_NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
_NF3 = (
    *(-1.0, -0.5350227355957031, -0.24693143367767334, 0.0),
    *(0.1833374798297882, 0.38199394941329956, 0.6229857206344604, 1.0),
)
_FP4 = tuple(n / 12 for n in (0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0))

TABLES = {
    "nf4": (_NF4, "Dettmers et al. 2023, arXiv:2305.14314, appendix E; numbers as in bitsandbytes"),
    "nf3": (_NF3, "NF4's construction with 8 numbers (docs/design/0005-families.md)"),
    "fp4_bnb": (
        (*_FP4, 0.0, *(-n for n in _FP4[1:])),
        "bitsandbytes, quant_type fp4: sign, 2 bits of exponent, 1 of mantissa",
    ),
}
_BOUNDS = {"nf4": 0.35, "nf3": 0.5, "fp4_bnb": 0.45}
LEVELS = (1.0, 1.0625, 1.125, 0.9375)


@dataclass(frozen=True, kw_only=True)
class Codebook(Scaled):
    """w = scale * table[code]: a table of 8 or 16 numbers that is the same for all tensors, -1 or 1 the largest.

    The scale is searched for around the largest magnitude and refitted by least squares, where bitsandbytes takes the
    largest magnitude itself; what is stored, and what it means, is the same.
    """

    kind: str

    @property
    def name(self) -> str:
        """Kind, scope, and how scales are stored where not as numbers of 32 bits."""
        return "_".join([self.kind, self.scope.word, *self.scale_words])

    @property
    def guide(self) -> str:
        """The entry of guide.toml."""
        return self.kind

    @property
    def coding(self) -> Coding:
        """How a native kernel codes the format."""
        return Coding("table", self.code_bits, self.span, levels=LEVELS, table=TABLES[self.kind][0])

    @property
    def source(self) -> str:
        """Where the table is defined."""
        return TABLES[self.kind][1]

    @property
    def equation(self) -> str:
        """What a code means."""
        return f"w = scale * {self.kind.split('_')[0].upper()}[code]"

    @property
    def largest(self) -> float:
        """The largest scale."""
        return LARGEST_SCALE[self.scale]

    @property
    def error_bound(self) -> float:
        """What the widest gap of the table, and a scale that was refitted, leave of the largest magnitude."""
        return _BOUNDS.get(self.kind, 1.0)

    @property
    def error_floor(self) -> float:
        """What the resolution of small scales leaves."""
        return SMALLEST_SCALE[self.scale]

    def table(self, params: Params) -> torch.Tensor:
        """The numbers (codes,) float32."""
        return torch.tensor(TABLES[self.kind][0], dtype=torch.float32)

    def prepare(self, slabs: Iterable[torch.Tensor]) -> Params | None:
        """The scale of the whole tensor, where there is one, from its histogram."""
        if self.scope.rows != 0:
            return super().prepare(slabs)
        m = Histogram.of(slabs).measured()
        steps = table_step(m, self.table(Params({})).double().to(m.y.device), LEVELS)
        return self.shared(**self.stored_scales(steps.float()))

    def fit(
        self,
        w: torch.Tensor,
        *,
        importance: torch.Tensor | None = None,
        codes: torch.Tensor | None = None,
        like: Params | None = None,
    ) -> Params:
        """The scale per scope."""
        if self.scope.rows == 0 and codes is None:
            return like or self.shared(**(self.prepare([w]) or Params({})).arrays)
        table = self.table(like or Params({})).to(w.device)
        m = Measured.of(self.grouped(w), self.weights_of(w, importance))
        if codes is not None:
            return self.shared(**self.stored_scales(step_at(m, self.grouped(table[codes.long()])), like))
        return self.shared(**self.stored_scales(table_step(m, table, LEVELS), like))

    def grid(self, params: Params, cols: slice | torch.Tensor) -> TableGrid:
        """What columns `cols` can become."""
        scales = self.scales(params)
        return TableGrid(self.spread(scales, cols), self.table(params).to(scales.device))


def parse(name: str) -> Codebook:
    """The format that `name` states; raises FormatError saying which word is wrong, and what is near.

    >>> nf4 = parse("nf4_g64_dq")
    >>> round(nf4.bits(4096, 4096) / 4096**2, 3)
    4.127
    >>> parse("nf5_g64")
    Traceback (most recent call last):
    fewbits.errors.FormatError: unknown format 'nf5_g64': tables of normal numbers have 3 or 4 bits; did you mean \
'nf4_g64' or 'nf3_g64'?
    """
    words = Words(name)
    kind = words.kind()
    if kind == "fp4":
        kind = words.one_of({"bnb": "fp4_bnb"})
    if kind not in TABLES:
        rest = name[len(kind) :]
        raise words.refuse("tables of normal numbers have 3 or 4 bits", f"nf4{rest}", f"nf3{rest}")
    scope = words.scope()
    double, scale = scale_of(words, scope)
    words.end()
    bits = len(TABLES[kind][0]).bit_length() - 1
    return Codebook(kind=kind, code_bits=bits, scope=scope, scale=scale, double=double)
