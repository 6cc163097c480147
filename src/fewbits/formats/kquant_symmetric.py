"""GGUF's two-level formats without minimums over spans of 256 columns: Q6_K, and how they are searched.

Fitting goes from groups to span as in Q4_K: the best step per group, then neighbours of its rounded scale, then d again
by least squares. The native kernels do the same steps in the same order, and give the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fewbits.formats.base import Bytes, GridCodec, Params
from fewbits.formats.exact import (
    best_scale,
    best_step,
    divided,
    extreme,
    fitted_scale,
    inverse,
    ordered_sum,
    stored_half,
)
from fewbits.formats.grids import UniformGrid
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

SPAN = 256


@dataclass(frozen=True)
class SymmetricK(GridCodec):
    """w = (d * scale[g]) * (code - top): 16 groups of 16 columns, signed whole scales.

    Squared errors are weighted by w^2 + the mean square of the group unless importance is given.
    """

    name: str = "Q6_K"
    levels: tuple[float, ...] = (29.0, 29.59375, 30.1875, 30.8125, 31.40625, 32.0, 32.59375)
    error_bound: float = 0.06
    layout: str = (
        "128 bytes: low halves; 64 bytes: upper two bits; 16 signed bytes: scales; d: binary16. In each half of the "
        "span, columns e, e + 32, e + 64, e + 96 share bits of byte e"
    )
    source: str = "GGUF specification, quantization type Q6_K"
    equation: str = "w = (d * scale[g]) * (code - 32)"
    span: int = SPAN
    span_bytes: int = 210
    rows: int = 1
    vector: int = 1
    length: int = 16
    top: int = 32
    scale_top: int = 128
    """Scales run from -scale_top to scale_top - 1."""
    weighted_levels: tuple[float, ...] = ()
    """Tried where importance is given; `levels` where there are none."""
    scale_levels: tuple[float, ...] = ()
    """Into how many units the largest scale of a span is divided; none: into scale_top."""

    def __post_init__(self) -> None:
        code_bits, scale_bits = self.top.bit_length(), self.scale_top.bit_length()
        bits = SPAN * code_bits + SPAN // self.length * scale_bits + 16
        assert self.span_bytes * 8 == bits, "codes, scales and d, nothing else"

    @property
    def largest(self) -> float:
        """The largest d times the largest scale and code on both sides."""
        return 65504.0 * (self.scale_top - 1) * (self.top - 1)

    @property
    def error_floor(self) -> float:
        """Half a step of the smallest d times the largest scale and code."""
        return 2.0**-25 * self.scale_top * self.top

    def fit(
        self,
        w: torch.Tensor,
        *,
        importance: torch.Tensor | None = None,
        codes: torch.Tensor | None = None,
        like: Params | None = None,
    ) -> Params:
        """The parameters d (rows, spans) and scale (rows, 16 * spans)."""
        x = w.reshape(len(w), -1, SPAN // self.length, self.length)
        if importance is None:
            # ggml weights by w^2 alone; what the next layer sees is the even error, so half of the weight is even.
            weight = x * x + (ordered_sum(x * x) * (1.0 / self.length))[..., None]
        else:
            weight = importance.expand_as(w).reshape(x.shape)
        fixed = None if codes is None else codes.float().reshape(x.shape) - self.top
        if fixed is None:
            levels = self.levels if importance is None else self.weighted_levels or self.levels
            line, gain = best_step(x, weight, self.top, levels)
            curvature = (gain * inverse(line)) * inverse(line)
        else:
            line, curvature = fitted_scale(x, fixed, weight), ordered_sum((weight * fixed) * fixed)
        d = self._unit(line, curvature)
        scale = (line * inverse(d)[..., None]).round().clamp(-self.scale_top, self.scale_top - 1)
        if importance is not None or fixed is not None or not self.scale_levels:
            scale = self._neighbours(x, weight, fixed, d, scale)
        return self._refitted(x, weight, fixed, d, scale)

    def _unit(self, line: torch.Tensor, curvature: torch.Tensor) -> torch.Tensor:
        """The first d (rows, spans): `curvature` * (what is stored - line)^2 is what rounding a group's scale costs."""
        if not self.scale_levels:
            return stored_half(divided(extreme(line), -float(self.scale_top)))
        return stored_half(best_scale(line, curvature, self.scale_top, self.scale_levels))

    def _refitted(
        self, x: torch.Tensor, weight: torch.Tensor, fixed: torch.Tensor | None, d: torch.Tensor, scale: torch.Tensor
    ) -> Params:
        """The parameters with d by least squares over the span, where the error falls."""
        steps = self._steps(x, d, scale) if fixed is None else fixed
        weighted = weight * steps
        a = ordered_sum((scale * scale) * ordered_sum(weighted * steps))
        p = ordered_sum(scale * ordered_sum(weighted * x))
        new_d = torch.where(a > 0, stored_half(p / a), d)
        before = ordered_sum(self._error(x, weight, d, scale, fixed))
        after = ordered_sum(self._error(x, weight, new_d, scale, fixed))
        return Params({"d": torch.where(after < before, new_d, d), "scale": scale.reshape(len(x), -1)})

    def _steps(self, x: torch.Tensor, d: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return (x * inverse(d[..., None] * scale)[..., None]).round().clamp(-self.top, self.top - 1)

    def _error(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        d: torch.Tensor,
        scale: torch.Tensor,
        fixed: torch.Tensor | None = None,
    ) -> torch.Tensor:
        steps = self._steps(x, d, scale) if fixed is None else fixed
        r = (d[..., None] * scale)[..., None] * steps - x
        return ordered_sum((weight * r) * r)

    def _neighbours(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        fixed: torch.Tensor | None,
        d: torch.Tensor,
        rounded: torch.Tensor,
    ) -> torch.Tensor:
        scale, error = rounded, self._error(x, weight, d, rounded, fixed)
        for step in (-1.0, 1.0):
            near = (rounded + step).clamp(-self.scale_top, self.scale_top - 1)
            candidate = self._error(x, weight, d, near, fixed)
            scale = torch.where(candidate < error, near, scale)
            error = torch.where(candidate < error, candidate, error)
        return scale

    def grid(self, params: Params, cols: slice | torch.Tensor) -> UniformGrid:
        """What columns `cols` can become."""
        scale = params["d"].repeat_interleave(SPAN // self.length, 1) * params["scale"]
        scale = scale.repeat_interleave(self.length, 1)[:, cols]
        return UniformGrid(scale, torch.zeros_like(scale), 2 * self.top - 1, self.top)

    def pack(self, codes: torch.Tensor, params: Params) -> Bytes:
        """Stored bytes (rows, bytes per row)."""
        q = codes.reshape(len(codes), -1, 2, 4, 32).cpu().numpy()
        spans = q.shape[:2]
        low = (q[:, :, :, :2] & 15) | (q[:, :, :, 2:] & 15) << 4
        high = (q >> 4) << np.array([0, 2, 4, 6], np.uint8)[:, None]
        scale = params["scale"].cpu().numpy().astype(np.int8).view(np.uint8).reshape(*spans, -1)
        d = params["d"].half().cpu().numpy()[..., None].view(np.uint8)
        parts = [low.reshape(*spans, -1), np.bitwise_or.reduce(high, axis=3).reshape(*spans, -1), scale, d]
        return np.concatenate(parts, axis=-1).reshape(len(codes), -1)

    def unpack(self, packed: Bytes, cols: int) -> tuple[torch.Tensor, Params]:
        """Codes (rows, cols) uint8 and the parameters of `fit`."""
        rows = len(packed)
        span = np.ascontiguousarray(packed).reshape(rows, -1, self.span_bytes)
        low = span[..., :128].reshape(rows, -1, 2, 2, 32)
        high = span[..., 128:192].reshape(rows, -1, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8)[:, None]
        q = np.concatenate([low & 15, low >> 4], axis=3) | (high & 3) << 4
        scale = span[..., 192:208].view(np.int8).astype(np.float32).reshape(rows, -1)
        d = np.ascontiguousarray(span[..., 208:]).view(np.float16).astype(np.float32)[..., 0]
        params = Params({"d": torch.from_numpy(d), "scale": torch.from_numpy(scale)})
        return torch.from_numpy(q.reshape(rows, cols)), params


Q6_K = SymmetricK()
