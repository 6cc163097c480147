"""The states in front of the first layer, and what the model in full precision makes of the guard's text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewbits.calibrated import guard
from fewbits.calibrated.ground import Ground, Ids, count_batches, states_name
from fewbits.calibrated.solving import KINDS
from fewbits.calibration.network import LayeredNetwork
from fewbits.calibration.walk import batch_size

if TYPE_CHECKING:
    import torch

REFERENCE = "reference"
"""States behind the last layer of the model as it was, for the guard's text."""


def begin(ground: Ground) -> None:
    """Keep what the first layer gets, behind the embedding as it will be stored, unless a former run has."""
    work = ground.work
    if work.has_states(REFERENCE):
        ground.progress.skip(len(ground.network) * count_batches(ground.texts.guard))
    else:
        _keep_reference(ground)
    if ground.first_unfinished or work.has_states(states_name("calibration", 0)):
        return
    stored = _stored_embedding(ground)
    network = LayeredNetwork(
        ground.network.network, lambda name: stored[name] if name in stored else ground.parameters(name)
    )
    for kind in (*KINDS, *ground.texts.measured):
        _embed(ground, network, ground.texts.of(kind), states_name(kind, 0))


def _keep_reference(ground: Ground) -> None:
    _embed(ground, ground.network, ground.texts.guard, "unrounded")
    states = {REFERENCE: ground.work.states("unrounded")}
    layers = range(len(ground.network))
    found = guard.through(ground.network, layers, states, ground.batches("guard"), ground.workers, ground.progress)
    ground.keep(REFERENCE, found[REFERENCE])
    ground.work.forget_states("unrounded")


def _stored_embedding(ground: Ground) -> dict[str, torch.Tensor]:
    """The embedding's parameter -> its numbers as they will be stored: nothing, where they stay as they are."""
    network = ground.network.network
    module = network.get_input_embeddings()
    name = next(n for n, candidate in network.named_modules() if candidate is module) + ".weight"
    parameter = ground.parameters.find(name)
    planned, source = ground.planned[parameter.target], parameter.placement.source
    if not planned.quantizable or planned.format == source.format:
        return {}
    rows = parameter.placement.slab(0, source.rows)
    return {name: parameter.in_network(ground.rounded(parameter, source.format, rows))}


def _embed(ground: Ground, network: LayeredNetwork, ids: Ids, name: str) -> None:
    """Keep the states that `ids` have in front of the first layer."""
    import torch

    size, states = batch_size(*ids.shape), None
    with network.embedding() as embed:
        for start in range(0, len(ids), size):
            found = embed(torch.from_numpy(ids[start : start + size])).numpy()
            states = ground.work.new_states(name, (*ids.shape, found.shape[-1])) if states is None else states
            states[start : start + size] = found
    assert states is not None, "there is at least one window"
    ground.work.keep_states(name, states)
