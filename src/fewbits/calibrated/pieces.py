"""What was found for one site, and what the workspace records of a tensor: one site's, or those of all its experts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fewbits.calibrated.solving import relative_errors
from fewbits.calibration.stats import Hessian
from fewbits.formats import Fields


@dataclass(frozen=True)
class Inputs:
    """What reached a site: tokens, mean squares (cols,), and those of the target's text where both are known."""

    tokens: int
    squares: list[float] | None
    target_squares: list[float] | None

    @staticmethod
    def of(own: Hessian | None, target: Hessian | None) -> Inputs:
        """Of what was measured, if anything was."""
        here, there = (h.value.diagonal().tolist() if h and h.tokens else None for h in (own, target))
        return Inputs(own.tokens if own else 0, here, there)


@dataclass(frozen=True)
class Piece:
    """The stored fields of one site by kind, its energies (solving.Solved), and what reached it."""

    fields: Mapping[str, Fields]
    energies: Mapping[str, float]
    remarks: tuple[str, ...]
    inputs: Inputs


def record_of(pieces: Sequence[Piece]) -> dict[str, Any]:
    """A tensor's record, of its pieces in the order of its rows: numbers and tokens of experts one after another."""
    energies = {kind: sum(piece.energies[kind] for piece in pieces) for kind in pieces[0].energies}
    inputs = [piece.inputs for piece in pieces]
    return {
        "errors": relative_errors(energies),
        "remarks": list(dict.fromkeys(remark for piece in pieces for remark in piece.remarks)),
        "tokens": [each.tokens for each in inputs],
        "mean_square": _side_by_side([each.squares for each in inputs]),
        "target_mean_square": _side_by_side([each.target_squares for each in inputs]),
    }


def _side_by_side(squares: list[list[float] | None]) -> list[float] | None:
    """Mean squares of all experts, zeros for those that nothing reached; None where nothing reached any."""
    known = next((each for each in squares if each is not None), None)
    if known is None:
        return None
    return [number for each in squares for number in each or [0.0] * len(known)]
