"""How far the guard finds a model from itself behind solved and behind plain codes, by what kind of model it is."""

from __future__ import annotations

from collections.abc import Mapping

from fewbits.calibrated import guard
from fewbits.calibrated.beginning import REFERENCE
from fewbits.calibrated.ground import Ground
from fewbits.calibrated.layers import solve_head
from fewbits.calibration.walk import States
from fewbits.reporting.measures import KL, STATE_ERROR, Measure


def measure_of(ground: Ground) -> Measure:
    """What the guard judges this model by: what an encoder answers are its last states."""
    return STATE_ERROR if ground.source.architecture.encoder else KL


def distances(ground: Ground, ends: Mapping[str, States], rest: range) -> dict[str, float]:
    """The distance of each of `ends`, states behind the last layer, from what the model in full precision answers.

    Where nothing of the model is left (`rest`), its head is solved first and belongs to the codes that are judged.
    """
    reference = ground.work.states(REFERENCE)
    if measure_of(ground) is STATE_ERROR:
        return {kind: guard.state_error(reference, states) for kind, states in ends.items()}
    with ground.network.head() as head:
        weights = {} if rest else solve_head(ground, head)
        return guard.divergences(head, reference, ends, weights, ground.workers)
