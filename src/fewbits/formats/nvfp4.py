"""NVIDIA's NVFP4: a scale of eight bits per 16 columns, and one of 32 bits for the tensor."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fewbits.errors import FormatError
from fewbits.formats.base import Fields, Native, Params, Shape, Shapes
from fewbits.formats.exact import divided, evenly_or, inverse, lane_sum
from fewbits.formats.grids import ElementGrid
from fewbits.formats.microscaled import Microscaled
from fewbits.formats.minifloat import E2M1, E4M3, MiniFloat
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

SCALE_SHIFTS = (0, -1, 1, 4, 5, 6)
"""Codes of E4M3 beside that of the usual scale that are tried; the last ones take the largest magnitude to 4, not 6."""


@dataclass(frozen=True, kw_only=True)
class NV(Microscaled):
    """w = (tensor_scale * E4M3[scale]) * E2M1[code]: 16 columns share a scale, all of a tensor one in 32 bits.

    The scale of the tensor is what readers multiply by: 1 / G in float32, of G = 448 * 6 / the largest magnitude, which
    compressed-tensors stores in its place (1 / (1 / (1 / G)) is 1 / G again, so nothing is lost on the way). A group's
    usual scale takes its largest magnitude to 6; codes near it and near the one that takes it to 4 are tried too
    (`SCALE_SHIFTS`), and the one of least weighted squared error wins, the usual one where they are equal.
    """

    element: MiniFloat = E2M1
    span: int = 16
    rows: int = 0
    equation: str = "w = tensor_scale * E4M3[scale] * E2M1[code]"
    layout: str = (
        "codes: 4 bits each (E2M1), the lowest bit of a row's byte 0 first; scale: E4M3, one byte per 16 columns; "
        "tensor_scale: f32, what the rest is multiplied by"
    )
    largest: float = 2.0**126
    error_floor: float = 2.0**-105
    shared: str = "tensor_scale"
    """The parameter that all of a tensor shares."""

    @property
    def native(self) -> Native:
        """The native codec: rows share nothing in it, the tensor's scale is given."""
        return Native("nvfp4", 1, self.span, "e4m3", given=self.shared)

    def prepare(self, slabs: Iterable[torch.Tensor]) -> Params:
        """The scale of the tensor: its largest magnitude to 6 times E4M3's largest number."""
        reach = self.element.largest * E4M3.largest
        largest = torch.stack([slab.abs().amax() for slab in slabs]).amax().clamp(min=2.0**-105).reshape(1, 1)
        return Params({self.shared: self.of_divisor(torch.full_like(largest, reach) / largest)}, {self.shared: 0})

    def of_divisor(self, divisor: torch.Tensor) -> torch.Tensor:
        """What is stored for the number that takes the tensor to E4M3 times E2M1; and that number of what is stored."""
        return inverse(divisor)

    def scales(self, params: Params) -> torch.Tensor:
        """What codes are multiplied with, (rows, groups)."""
        return params["tensor_scale"] * params["scale"]

    def fit(
        self,
        w: torch.Tensor,
        *,
        importance: torch.Tensor | None = None,
        codes: torch.Tensor | None = None,
        like: Params | None = None,
    ) -> Params:
        """Scales of groups (rows, groups), searched for or nearest to the best at given codes, and the tensor's."""
        shared = (like or self.prepare([w]))[self.shared]
        x = self.grouped(w * self.of_divisor(shared))
        weight = evenly_or(importance, w, x)
        code = self._best(x, weight) if codes is None else self._at_codes(x, weight, self.grouped(codes))
        return Params({"scale": E4M3.decode(code), self.shared: shared}, {self.shared: 0})

    def usual_scale(self, x: torch.Tensor) -> torch.Tensor:
        """E4M3 codes of the scales that take the largest of x (..., n) to E2M1's; never that of 0."""
        return E4M3.encode(divided(x.abs().amax(-1), self.element.largest)).clamp(min=1)

    def _best(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        usual = self.usual_scale(x).int()
        best, code = torch.full_like(x[..., 0], torch.inf), usual
        for shift in SCALE_SHIFTS:
            candidate = (usual + shift).clamp(1, E4M3.top)
            scale = E4M3.decode(candidate)[..., None]
            r = x - self.element.rounded(x * inverse(scale)) * scale
            error = lane_sum((weight * r) * r)
            code = torch.where(error < best, candidate, code)
            best = torch.minimum(error, best)
        return code

    def _at_codes(self, x: torch.Tensor, weight: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        v = self.element.decode(codes)
        xv, vv = lane_sum(torch.stack([(weight * v) * x, (weight * v) * v]))
        return E4M3.encode((xv * inverse(vv)).clamp(min=0.0)).clamp(min=1)

    def grid(self, params: Params, cols: slice | torch.Tensor) -> ElementGrid:
        """What columns `cols` can become."""
        scale = self.scales(params).repeat_interleave(self.span, 1)
        return ElementGrid(self.element, scale[:, cols])

    def shapes(self, rows: int, cols: int) -> Shapes:
        """The fields of a (rows, cols) matrix."""
        return super().shapes(rows, cols) | {self.shared: ("float32", (1, 1))}

    def fields(self, codes: torch.Tensor, params: Params) -> Fields:
        """What is stored, by name."""
        return super().fields(codes, params) | {self.shared: params[self.shared].cpu().numpy()}

    def from_fields(self, fields: Fields, shape: Shape) -> tuple[torch.Tensor, Params]:
        """Codes (rows, cols) uint8 and the parameters of `fit`."""
        codes, params = super().from_fields(fields, shape)
        shared = torch.from_numpy(np.ascontiguousarray(fields[self.shared]))
        return codes, Params({**params.arrays, self.shared: shared}, {self.shared: 0})

    def scale_bytes(self, params: Params) -> torch.Tensor:
        """E4M3 codes."""
        return E4M3.encode(params["scale"])

    def from_scale_bytes(self, stored: torch.Tensor) -> torch.Tensor:
        """Numbers of E4M3."""
        return E4M3.decode(stored)


@dataclass(frozen=True, kw_only=True)
class DividedNV(NV):
    """w = (E4M3[scale] / divisor) * E2M1[code]: what compressed-tensors makes of its files.

    It divides by G where `NV` multiplies by 1 / G. The two round differently, and for no two numbers of float32 are
    they the same for all codes, so this is a format of its own.
    """

    equation: str = "w = (E4M3[scale] / divisor) * E2M1[code]"
    layout: str = (
        "codes: 4 bits each (E2M1), the lowest bit of a row's byte 0 first; scale: E4M3, one byte per 16 columns; "
        "divisor: f32, what scales are divided by"
    )
    shared: str = "divisor"
    fused: bool = True
    """vLLM puts matrices together and takes the largest divisor of them for all."""

    @property
    def native(self) -> Native:
        """The same codec, which divides."""
        return Native("nvfp4", 1, self.span, "e4m3_divided", given=self.shared)

    def of_divisor(self, divisor: torch.Tensor) -> torch.Tensor:
        """It is stored itself."""
        return divisor

    def scales(self, params: Params) -> torch.Tensor:
        """What codes are multiplied with, (rows, groups)."""
        return params["scale"] / params["divisor"]


_SOURCE = "NVIDIA, Pretraining Large Language Models with NVFP4, arXiv:2509.25149, 2"
NVFP4 = NV(name="nvfp4", source=_SOURCE, error_bound=0.251)
NVFP4_DIVIDED = DividedNV(name="nvfp4_divided", source=_SOURCE, error_bound=0.251)
PATTERN = r"nvfp\d.*"
LISTED = ("nvfp4", "nvfp4_divided")
_MEMBERS = {each.name: each for each in (NVFP4, NVFP4_DIVIDED)}


def parse(name: str) -> NV:
    """The format called `name`; raises FormatError: there are two.

    >>> parse("nvfp4").bits(1, 4096) / 4096
    4.5078125
    """
    if name in _MEMBERS:
        return _MEMBERS[name]
    raise FormatError(
        f"unknown format {name!r}: NVIDIA defines no such one; did you mean 'nvfp4', or 'nvfp4_divided', as "
        "compressed-tensors has it?"
    )
