"""torch modules over codes: every number that they compute with is a buffer, so `state_dict` holds all of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fewbits.static.affine import Affine
from fewbits.static.arithmetic import add_codes, conv_codes, linear_codes, linear_sums, multipliers, rescale_codes
from fewbits.static.weights import RoundedWeight


@dataclass(frozen=True)
class Target:
    """What a layer's results become: codes as `affine` has them, between `low` and `high`."""

    affine: Affine
    low: int
    high: int


class Fixed(torch.nn.Module):
    """A module whose buffers keep their types, whatever the network around it is converted to."""

    def keep(self, **buffers: torch.Tensor | float | Sequence[int]) -> None:
        """Register buffers."""
        for name, given in buffers.items():
            tensor = given if isinstance(given, torch.Tensor) else torch.tensor(given, dtype=torch.int32)
            self.register_buffer(name, tensor.contiguous())

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Fixed:
        before = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in before.items():
            now = self.get_buffer(name)
            if now.dtype != buffer.dtype:
                setattr(self, name, buffer.to(now.device))
        return self

    def part(self, name: str) -> torch.Tensor:
        """A buffer by its name."""
        return self.get_buffer(name)


class Coded(Fixed):
    """What all have whose results are codes: zero point, scale and bounds of these."""

    def keep_target(self, target: Target) -> None:
        """Register what results become."""
        self.target = target
        self.keep(
            out_scale=torch.tensor(target.affine.scale, dtype=torch.float32),
            out_zero=torch.tensor(target.affine.zero, dtype=torch.int32),
            bounds=(target.low, target.high),
        )

    @property
    def signed(self) -> bool:
        """Whether codes are int8."""
        return self.target.affine.dtype == torch.int8

    def rounding(self, bias: torch.Tensor, m: torch.Tensor, shift: torch.Tensor) -> list[torch.Tensor]:
        """What makes codes of sums: see `arithmetic.Scaling`."""
        return [bias, m, shift, self.part("out_zero"), self.part("bounds")]


class Quantize(Coded):
    """Floats become codes, halves to even."""

    def __init__(self, affine: Affine) -> None:
        super().__init__()
        self.keep_target(Target(affine, affine.low, affine.high))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Codes of `x` (...)."""
        numbers = torch.round(x / self.part("out_scale")) + self.part("out_zero")
        low, high = self.part("bounds")
        return numbers.clamp(low, high).to(self.target.affine.dtype)


class Dequantize(Fixed):
    """Codes become floats."""

    def __init__(self, affine: Affine) -> None:
        super().__init__()
        self.source = affine
        self.keep(scale=torch.tensor(affine.scale, dtype=torch.float32), zero=torch.tensor(affine.zero))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Floats of codes `x` (...)."""
        return (x.to(torch.int32) - self.part("zero")).float() * self.part("scale")


class Product(Coded):
    """A product with a constant matrix in whole numbers; results are codes, or floats where there is no `target`."""

    def __init__(self, source: Affine, weight: RoundedWeight, bias: torch.Tensor, target: Target | None) -> None:
        super().__init__()
        self.source = source
        self.keep(
            codes=weight.codes,
            weight_scale=weight.scale,
            bias=bias,
            zero=torch.tensor(source.zero, dtype=torch.int32),
            scale=torch.tensor(source.scale, dtype=torch.float32),
        )
        self.coded = target is not None
        if target is not None:
            self.keep_target(target)
            m, shift = multipliers(weight.scale.double() * source.scale / target.affine.scale)
            self.keep(m=m, shift=shift)

    def rounding_of_sums(self) -> list[torch.Tensor]:
        """What makes codes of the sums of products."""
        return self.rounding(self.part("bias"), self.part("m"), self.part("shift"))


class Linear(Product):
    """A linear layer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Results (..., rows) of codes `x` (..., cols)."""
        zero, codes = self.part("zero"), self.part("codes")
        if self.coded:
            found: torch.Tensor = linear_codes(x, zero, codes, self.rounding_of_sums(), self.signed)
            return found
        sums = linear_sums(x, zero, codes) + self.part("bias")
        floats: torch.Tensor = sums.float() * (self.part("weight_scale") * self.part("scale"))
        return floats


class Convolution(Product):
    """A convolution over one or two dimensions; padding stands for 0, which a zero point is the code of."""

    def __init__(
        self,
        source: Affine,
        weight: RoundedWeight,
        bias: torch.Tensor,
        target: Target,
        geometry: Sequence[Any],
    ) -> None:
        super().__init__(source, weight, bias, target)
        stride, padding, dilation, groups = geometry
        self.stride, self.padding, self.dilation = list(stride), list(padding), list(dilation)
        self.groups = int(groups)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Codes (samples, rows, ...) of codes `x` (samples, channels, ...)."""
        geometry = self.stride, self.padding, self.dilation, self.groups
        zero, codes = self.part("zero"), self.part("codes")
        found: torch.Tensor = conv_codes(x, zero, codes, self.rounding_of_sums(), self.signed, *geometry)
        return found


class Rescaled(Coded):
    """What brings codes of one scale to another."""

    def keep_scales(self, sources: Sequence[Affine], target: Target, factor: float = 1.0, carry: int = 1) -> None:
        """Register zero points and multipliers of `sources`, all over one power of two, and what results become.

        `carry` is how many of them are added up before they are rounded: their sum has to fit 32 bits.
        """
        self.sources = tuple(sources)
        self.keep_target(target)
        real = torch.tensor([each.scale * factor / target.affine.scale for each in sources], dtype=torch.float64)
        _, shift = multipliers(real.max().reshape(1) * carry)
        m = torch.round(torch.ldexp(real, shift)).to(torch.int32)
        self.keep(zeros=[each.zero for each in sources], m=m, shift=shift, none=[0])

    def finished(self, sums: torch.Tensor, place: int = 0) -> torch.Tensor:
        """Codes of whole numbers (...) that count in the scale of source `place`."""
        m = self.part("m")[place : place + 1]
        found: torch.Tensor = rescale_codes(sums, self.rounding(self.part("none"), m, self.part("shift")), self.signed)
        return found


class Add(Rescaled):
    """The sum of two activations of one scale each: one rounding for both."""

    def __init__(self, sources: Sequence[Affine], target: Target) -> None:
        super().__init__()
        self.keep_scales(sources, target, carry=2)

    def forward(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Codes of the sum of two, codes that spread over each other."""
        m = self.part("m")
        rounding = self.rounding(self.part("none"), torch.ones_like(m[:1]), self.part("shift"))
        found: torch.Tensor = add_codes(one, other, self.part("zeros"), m, rounding, self.signed)
        return found


class Concatenate(Rescaled):
    """Activations side by side, each brought to one scale; those that have it already stay as they are."""

    def __init__(self, sources: Sequence[Affine], target: Target, dim: int) -> None:
        super().__init__()
        self.keep_scales(sources, target)
        self.dim = dim

    def forward(self, *parts: torch.Tensor) -> torch.Tensor:
        """Codes of `parts`, codes of one size but in the dimension in which they are put together."""
        zeros = self.part("zeros")
        done = [
            part if self.sources[i] == self.target.affine else self.finished(part.to(torch.int32) - zeros[i], i)
            for i, part in enumerate(parts)
        ]
        return torch.cat(done, self.dim)


class Average(Rescaled):
    """The mean over whole dimensions, which hold `count` numbers."""

    def __init__(self, source: Affine, target: Target, dims: Sequence[int], keep: bool, count: int) -> None:
        super().__init__()
        self.keep_scales([source], target, 1.0 / count)
        self.dims, self.kept, self.count = tuple(dims), keep, count

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Codes of the means of `x` (...)."""
        sums = (x.to(torch.int32) - self.part("zeros")).sum(self.dims, self.kept, dtype=torch.int32)
        return self.finished(sums)


class AveragePool(Rescaled):
    """The mean over windows of two dimensions."""

    def __init__(self, source: Affine, target: Target, size: Sequence[int], stride: Sequence[int]) -> None:
        super().__init__()
        self.keep_scales([source], target, 1.0 / (size[0] * size[1]))
        self.size, self.stride = list(size), list(stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Codes of the means of the windows of `x` (samples, channels, height, width)."""
        numbers = (x.to(torch.int32) - self.part("zeros")).double()
        sums = torch.nn.functional.avg_pool2d(numbers, self.size, self.stride, divisor_override=1)
        return self.finished(sums.to(torch.int32))


class Limit(Coded):
    """Bounds on codes: ReLU where nothing before it could take its bounds."""

    def __init__(self, target: Target) -> None:
        super().__init__()
        self.keep_target(target)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Codes `x` (...) within bounds."""
        low, high = self.part("bounds")
        return x.to(torch.int32).clamp(low, high).to(x.dtype)


class Embedding(Fixed):
    """A table of which only the weight is rounded, one scale per row."""

    def __init__(self, weight: RoundedWeight) -> None:
        super().__init__()
        self.keep(codes=weight.codes, weight_scale=weight.scale)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows (..., cols) float32 for `ids` (...)."""
        scale = self.part("weight_scale")
        return self.part("codes")[ids].float() * (scale[ids] if len(scale) > 1 else scale).unsqueeze(-1)
