"""Codes and parameters that were chosen on a device, held against those that are chosen on the CPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fewbits.lazy import LazyModule
from fewbits.qtensor import QTensor
from fewbits.testing.expect import expect
from fewbits.testing.format_suite import same_fields

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

TOGETHER = 1e-3
"""Relative RMS between what two devices store, where some codes may differ."""


@dataclass
class Choices:
    """Counts codes that differ; where `differing`, the share that may, is 0, none may, and no bit of a parameter."""

    where: str
    device: torch.device
    differing: float
    different: int = 0
    all: int = 0

    def compare(self, found: QTensor, wanted: QTensor, what: str) -> None:
        """Raise AssertionError unless `found` lies on the device and is, or nearly is, `wanted`."""
        where = f"{self.where}: {what}"
        for name, array in {"codes": found.codes, **found.params.arrays}.items():
            expect(array.device == self.device, f"{where}: {name} on {array.device}, not on the device")
        back = found.to("cpu")
        expect(set(back.params.arrays) == set(wanted.params.arrays), f"{where}: other parameters than on the CPU")
        expect(back.params.rows == wanted.params.rows, f"{where}: parameters serve other rows than on the CPU")
        expect(back.codes.dtype == wanted.codes.dtype, f"{where}: codes of the type {back.codes.dtype}")
        self.different += int((~equal(back.codes, wanted.codes)).sum())
        self.all += wanted.codes.numel()
        if self.differing == 0:
            _expect_same(back, wanted, where)
            expect(same_fields(found.fields(), wanted.fields()), f"{where}: other bytes than on the CPU")
        else:
            _expect_near(back, wanted, where)

    def expect_few(self) -> None:
        """Raise AssertionError where more codes differ than may."""
        share = self.different / max(self.all, 1)
        expect(share <= self.differing, f"{self.where}: {share:.3%} of all codes differ from the CPU's")


def equal(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Where codes are the same; those of float types may be NaN."""
    return (one == other) | (torch.isnan(one) & torch.isnan(other))


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether all numbers are the same, zeros of both signs told apart; all NaN are one."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    kept = ~other.isnan()
    bits = [x[kept].contiguous().view(torch.uint8) for x in (one, other)]
    return torch.equal(~one.isnan(), kept) and torch.equal(*bits)


def _expect_same(found: QTensor, wanted: QTensor, where: str) -> None:
    different = int((~equal(found.codes, wanted.codes)).sum())
    expect(different == 0, f"{where}: {different} codes differ from the CPU's")
    for name, array in wanted.params.arrays.items():
        expect(same_bits(found.params[name], array), f"{where}: the parameter {name} differs from the CPU's")


def _expect_near(found: QTensor, wanted: QTensor, where: str) -> None:
    """Codes may be right under wrong parameters: the numbers that they stand for are held together."""
    one, other = (q.dequantize().double() for q in (found, wanted))
    apart = float((one - other).square().nan_to_num(0.0).sum())
    expect(apart <= TOGETHER**2 * float(other.square().sum()), f"{where}: other numbers are stored than on the CPU")
