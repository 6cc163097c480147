"""Whole numbers of 1 to 8 bits with a scale, and a zero point where they are asymmetric: one family, many members."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fewbits.formats.base import Fields, Params, Shapes, spans_per_row
from fewbits.formats.coding import Coding
from fewbits.formats.fields import pack_bits, packed_bytes, unpack_bits
from fewbits.formats.grids import UniformGrid
from fewbits.formats.histogram import Histogram
from fewbits.formats.names import Words
from fewbits.formats.scaled import LARGEST_SCALE, SMALLEST_SCALE, Scaled, scale_of
from fewbits.formats.steps import Measured, levels, sign_step, step_at, symmetric_step, zero_and_step, zero_and_step_at
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

PATTERN = r"u?int\d+(?!_row_absmax|_[a-z0-9]+_(bias|floatzero))(_.*)?"
LISTED = (
    "int7_row_sym",
    "int8_tensor_sym",
    "int8_row_sym",
    "int8_row_sym_restricted_bf16",
    "uint8_row_asym",
    "int8_g128_sym_f16",
    "uint6_g64_asym_f16",
    "int5_g32_sym_f16",
    "int4_g32_sym_f16",
    "int4_g64_sym_dq",
    "int4_g128_sym_f16",
    "uint4_g128_asym_f16",
    "uint4_g64_asym_bf16",
    "int3_g96_asym_f16",
    "uint3_row_asym_dq",
    "uint4_tensor_asym",
    "uint2_g64_asym_f16",
    "int2_g32_sym_restricted_f16",
    "int1_g128_sym_f16",
)

_SYMMETRIC = {2: (1.7, 4.2), 3: (1.15, 2.5), 4: (0.95, 1.6), 5: (0.93, 1.2), 6: (0.92, 1.08), 7: (0.92, 1.04)}
ASYMMETRIC = {1: (1.0, 2.5), 2: (1.0, 2.2), 3: (1.0, 1.8), 4: (0.95, 1.4), 5: (0.93, 1.15), 6: (0.93, 1.06)}
EIGHT = (0.92, 1.02)
"""Windows of `levels` per number of bits: they hold the best one for nine in ten spans, normal or heavy-tailed."""


@dataclass(frozen=True, kw_only=True)
class Integer(Scaled):
    """w = scale * (code - zero): codes of 1 to 8 bits; where asymmetric, one whole zero point beside each scale.

    Codes count from 0 here. On disk a signed format stores code - 2^(bits - 1) in two's complement, and its zero points
    so too. Symmetric formats have the zero point 2^(bits - 1); restricted ones leave out the lowest code, so that both
    sides reach equally far. One symmetric bit is the sign alone: w = scale or -scale.

    >>> parse("uint4_g64_bf16").name
    'uint4_g64_asym_bf16'
    """

    symmetric: bool
    signed: bool = True
    restricted: bool = False
    source: str = "Jacob et al. 2018, arXiv:1712.05877, equation 1"

    @property
    def name(self) -> str:
        """Kind, scope, symmetry, and what differs from the full range with scales of 32 bits."""
        words = [f"{'' if self.signed else 'u'}int{self.code_bits}", self.scope.word]
        words += ["sym" if self.symmetric else "asym"]
        words += ["restricted"] if self.restricted else []
        return "_".join(words + self.scale_words)

    @property
    def guide(self) -> str:
        """The entry of guide.toml."""
        return f"int{self.code_bits}"

    @property
    def equation(self) -> str:
        """What a code means."""
        if self.code_bits == 1 and self.symmetric:
            return "w = scale * (2 * code - 1)"
        return f"w = scale * (code - {self.middle})" if self.symmetric else "w = scale * (code - zero)"

    @property
    def layout(self) -> str:
        """The fields."""
        kind = "two's complement" if self.signed else "unsigned"
        zero = "" if self.symmetric else f"; zero: {self.code_bits} bits per scale, packed as codes are"
        return f"{super().layout}{zero}; codes are {kind}"

    @property
    def middle(self) -> int:
        """The code of 0 in symmetric formats."""
        return int(2 ** (self.code_bits - 1))

    @property
    def top(self) -> int:
        """The largest code."""
        return int(2**self.code_bits) - 1

    @property
    def furthest(self) -> float:
        """What the largest magnitude of a scope falls on, in scales, where a scale is found while a model runs."""
        return float(min(self.top - self.middle, self.middle - int(self.restricted)))

    @property
    def coding(self) -> Coding:
        """How a native kernel codes the format."""
        steps = "zero" if not self.symmetric else "sign" if self.top == 1 else "symmetric"
        middle, flip = self.middle if steps == "symmetric" else 0, self.middle if self.signed else 0
        levels, bottom = (0.0,) if steps == "sign" else self.levels, int(self.restricted)
        return Coding(steps, self.code_bits, self.span, bottom, self.top, middle, flip, levels)

    @property
    def largest(self) -> float:
        """What the largest scale takes without a product that overflows."""
        return LARGEST_SCALE[self.scale]

    @property
    def error_bound(self) -> float:
        """What the search may cut off of the largest magnitude where many smaller numbers gain by it, and steps."""
        steps = self.top - self.middle if self.symmetric else self.top / 2
        if self.code_bits < 4:
            return 1.0
        if self.span == 0:
            return min(1.0, 1.0 - self.levels[0] / self.levels[-1] + 2.0 / steps)
        return (3.2 if self.code_bits == 4 else 2.4) / steps

    @property
    def error_floor(self) -> float:
        """What the resolution of small scales leaves, times the largest code."""
        return SMALLEST_SCALE[self.scale] * (self.top + 1)

    def prepare(self, slabs: Iterable[torch.Tensor]) -> Params | None:
        """The scale of the whole tensor, where there is one: from the smallest and the largest number."""
        if self.scope.rows != 0:
            return super().prepare(slabs)
        return self._of_tensor(slabs)

    def _of_tensor(self, slabs: Iterable[torch.Tensor]) -> Params:
        zero, step = self._search(Histogram.of(slabs).measured(), None)
        return self._stored(zero.float(), step.float())

    def fit(
        self,
        w: torch.Tensor,
        *,
        importance: torch.Tensor | None = None,
        codes: torch.Tensor | None = None,
        like: Params | None = None,
    ) -> Params:
        """The scale, and the zero point, per scope."""
        if self.scope.rows == 0 and codes is None:
            return like or self._of_tensor([w])
        m = Measured.of(self.grouped(w), self.weights_of(w, importance))
        return self._stored(*self._search(m, None if codes is None else self.grouped(codes.float())), like)

    def _stored(self, zero: torch.Tensor, step: torch.Tensor, like: Params | None = None) -> Params:
        zeros = {} if self.symmetric else {"zero": zero}
        return self.shared(**self.stored_scales(step, like), **zeros)

    def _search(self, m: Measured, codes: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """The zero point and the step."""
        none = torch.zeros_like(m.size)
        if not self.symmetric:
            at_codes = None if codes is None else zero_and_step_at(m, codes, self.top)
            return at_codes or zero_and_step(m, self.top, self.levels)
        if codes is not None:
            return none, step_at(m, codes * 2 - 1 if self.top == 1 else codes - self.middle)
        if self.top == 1:
            return none, sign_step(m)
        return none, symmetric_step(m, int(self.restricted) - self.middle, self.top - self.middle, self.levels)

    @property
    def levels(self) -> tuple[float, ...]:
        """Into how many steps the search divides the largest magnitude, or the range."""
        window = (_SYMMETRIC if self.symmetric else ASYMMETRIC).get(self.code_bits, EIGHT)
        steps = self.top - self.middle if self.symmetric else self.top
        return levels(steps, window, 7 if self.code_bits < 6 else 4, self.span)

    def grid(self, params: Params, cols: slice | torch.Tensor) -> UniformGrid:
        """What columns `cols` can become."""
        scale = self.spread(self.scales(params), cols)
        if self.code_bits == 1 and self.symmetric:
            return UniformGrid(scale + scale, scale, top=1)
        zero = self.middle if self.symmetric else self.spread(params["zero"], cols)
        return UniformGrid(scale, torch.zeros_like(scale), self.top, zero, bottom=int(self.restricted))

    def shapes(self, rows: int, cols: int) -> Shapes:
        """The fields of a (rows, cols) matrix."""
        shapes = super().shapes(rows, cols)
        if not self.symmetric:
            lines, count = self.lines(rows), spans_per_row(self.name, self.span, cols)
            shapes["zero"] = ("uint8", (lines, packed_bytes(count, self.code_bits)))
        return shapes

    def parameter_fields(self, params: Params) -> Fields:
        """All fields but the codes."""
        fields = super().parameter_fields(params)
        if not self.symmetric:
            zero = self.stored_codes(params["zero"].to(torch.uint8)).cpu().numpy()
            fields["zero"] = pack_bits(zero, self.code_bits)
        return fields

    def parameters(self, fields: Fields) -> Params:
        """The parameters that fields hold."""
        params = super().parameters(fields)
        if self.symmetric:
            return params
        zero = torch.from_numpy(unpack_bits(fields["zero"], self.code_bits, fields["scale"].shape[1]))
        return self.shared(**params.arrays, zero=self.stored_codes(zero).float())

    def stored_codes(self, codes: torch.Tensor) -> torch.Tensor:
        """The upper bit of a signed code is that of a counted one, turned over."""
        return codes ^ self.middle if self.signed else codes


def parse(name: str) -> Integer:
    """The format that `name` states; raises FormatError saying which word is wrong, and what is near.

    >>> parse("int4_g128_sym_f16").bits(1, 128) / 128
    4.125
    >>> parse("int9_row_sym")
    Traceback (most recent call last):
    fewbits.errors.FormatError: unknown format 'int9_row_sym': codes have 1 to 8 bits; did you mean 'int8_row_sym'?
    """
    words = Words(name)
    kind, _, bits = words.kind().partition("int")
    if not 1 <= int(bits) <= 8 or bits.startswith("0"):
        near = name.replace(bits, "8" if int(bits) > 8 else "1", 1)
        raise words.refuse("codes have 1 to 8 bits", near)
    scope = words.scope()
    symmetric = words.one_of({"sym": True, "asym": False}, kind == "")
    restricted = symmetric and int(bits) > 1 and words.has("restricted")
    double, scale = scale_of(words, scope)
    words.end()
    return Integer(
        code_bits=int(bits),
        scope=scope,
        symmetric=symmetric,
        signed=kind == "",
        restricted=restricted,
        scale=scale,
        double=double,
    )
