"""What was found for one site, and what the workspace records of a tensor: one site's, or those of all it holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fewbits.calibrated.solving import relative_errors
from fewbits.calibration.walk import Measured
from fewbits.formats import Fields


@dataclass(frozen=True)
class Inputs:
    """What reached a site: tokens, and mean squares (cols,) where there were any."""

    tokens: int
    squares: list[float] | None


Squares = Mapping[str, Inputs]
"""By site."""


def squares_of(measured: Measured) -> Squares:
    """What reached each site, of Hessians that may be let go of."""
    found: dict[str, Inputs] = {}
    for leader, names in measured.groups.items():
        hessian = measured.hessians.get(leader)
        seen = Inputs(hessian.tokens, hessian.mean_square.tolist()) if hessian else Inputs(0, None)
        found |= dict.fromkeys(names, seen)
    return found


@dataclass(frozen=True)
class Piece:
    """The stored fields of one site by kind, its energies (solving.Solved), and what reached it from each text."""

    fields: Mapping[str, Fields]
    energies: Mapping[str, float]
    remarks: tuple[str, ...]
    inputs: Inputs
    targets: Squares
    """By group of the target's text."""


def record_of(pieces: Sequence[Piece], *, fused: bool) -> dict[str, Any]:
    """A tensor's record, of its pieces in the order of its rows: numbers and tokens of experts one after another.

    What reaches one of several `fused` matrices reaches all of them, and is told once.
    """
    reached = pieces[:1] if fused else pieces
    energies = {kind: sum(piece.energies[kind] for piece in pieces) for kind in pieces[0].energies}
    return {
        "errors": relative_errors(energies),
        "remarks": list(dict.fromkeys(remark for piece in pieces for remark in piece.remarks)),
        "tokens": [piece.inputs.tokens for piece in reached],
        "mean_square": _side_by_side([piece.inputs for piece in reached]),
        "targets": {group: _side_by_side([piece.targets[group] for piece in reached]) for group in pieces[0].targets},
    }


def _side_by_side(inputs: list[Inputs]) -> list[float] | None:
    """Mean squares of all experts, zeros for those that nothing reached; None where nothing reached any."""
    known = next((each.squares for each in inputs if each.squares is not None), None)
    if known is None:
        return None
    return [number for each in inputs for number in each.squares or [0.0] * len(known)]
