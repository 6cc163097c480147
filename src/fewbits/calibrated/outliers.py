"""Matrices some of whose columns stay in 16 bits: which, and the codes of the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from fewbits.calibrated.scaling import Scaling
from fewbits.calibrated.solving import KINDS, Solved
from fewbits.calibration.walk import Measured, tensor_of
from fewbits.qtensor import Outliers
from fewbits.transforms import OutlierSplit, taken_out

if TYPE_CHECKING:
    import torch


def columns_of(
    chosen: OutlierSplit | None, measured: Measured, leader: str, scaling: Scaling | None
) -> torch.Tensor | None:
    """The columns (n,) int64 that the sites of `leader` keep; None where there are none.

    Transforms have divided the inputs by then. What no token reached has no outliers that are known.
    """
    if chosen is None or leader not in measured.seen:
        return None
    absmax = measured.seen[leader].absmax
    if scaling is not None and scaling.columns is not None:
        absmax = absmax / tensor_of(scaling.columns)
    index = chosen.columns(absmax)
    return index if len(index) else None


def without(hessian: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """`hessian` (cols, cols) as if nothing came to `columns`: no other column makes up for what they lose."""
    hessian[columns] = 0
    hessian[:, columns] = 0
    return hessian


def solved_rest(w: torch.Tensor, columns: torch.Tensor, solve: Callable[[torch.Tensor], Solved]) -> Solved:
    """What `solve` finds for `w` (rows, cols) less `columns`, and those in 16 bits over it."""
    parts = taken_out(w, columns)
    rest, kept = solve(parts.rest), Outliers(parts.index, parts.kept)
    remark = f"{len(columns)} columns kept in 16 bits, errors of outputs are those of the others"
    return replace(
        rest,
        fields={kind: {**rest.fields[kind], **kept.fields()} for kind in KINDS},
        numbers={kind: kept.over(rest.numbers[kind]) for kind in KINDS},
        remarks=(*rest.remarks, remark),
    )
