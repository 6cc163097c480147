"""One layer, or the head: measured, solved, kept, and gone through again with its new numbers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from fewbits import formats
from fewbits.calibrated.experts import blended, pools_of
from fewbits.calibrated.ground import CALIBRATION, HEAD, Ground, layer_folder, states_name
from fewbits.calibrated.inputs import rounded_inputs
from fewbits.calibrated.learning import learn_layer, lesson_of
from fewbits.calibrated.outliers import columns_of, solved_rest, without
from fewbits.calibrated.parameters import Parameter
from fewbits.calibrated.pieces import Piece, Squares, record_of, squares_of
from fewbits.calibrated.scaling import KIND as SCALING
from fewbits.calibrated.scaling import Scaling, scale
from fewbits.calibrated.solving import KINDS, solve
from fewbits.calibration.network import Head
from fewbits.calibration.walk import Measured, forward, measure, tensor_of
from fewbits.encoding import joined
from fewbits.formats import Fields
from fewbits.fused import is_fused
from fewbits.methods.gptq import importance_of

if TYPE_CHECKING:
    import torch


def solve_layer(ground: Ground, index: int) -> None:
    """Leave the codes of layer `index` in the workspace, and the states behind it."""
    batches, held_out = ground.batches(CALIBRATION)[index], ground.batches("guard")[index]
    if ground.is_finished(index):
        ground.progress.skip(2 * len(batches.slices()) + 2 * len(held_out.slices()) + ground.learning)
        return
    name = ground.network.layer_name(index)
    with ground.network.layer(index) as layer:
        sites = ground.sites(name, layer)
        targets = {
            group: squares_of(_measure(ground, index, layer, sites, kind)) for kind, group in ground.texts.kinds.items()
        }
        measured = _measure(ground, index, layer, sites, CALIBRATION)
        lesson = lesson_of(ground, index, layer)
        scalings = scale(ground, index, layer, sites, measured)
        fields, record = _solve(ground, name, sites, measured, targets, scalings)
        if lesson:
            learn_layer(ground, index, layer, sites, lesson, measured, scalings, fields, record)
            del lesson
        with rounded_inputs(ground, name, sites, fields["plain"]):
            for kind in (*ground.texts.measured, "solved"):
                ground.through(index, layer, kind)
            ground.put(name, sites, fields["plain"])
            ground.through(index, layer, "plain")
    ground.work.write_layer(layer_folder(index), fields, record)
    _forget(ground, index)


def _measure(ground: Ground, index: int, layer: Any, sites: Mapping[str, Any], kind: str) -> Measured:
    """What reaches the matrices of a layer from states of `kind`."""
    states, batches = ground.work.states(states_name(kind, index)), ground.batches(kind)[index]
    run, closely = partial(forward, layer, states, batches), ground.looks_closely(kind)
    return measure(sites, run, batches, ground.workers, ground.progress, closely=closely)


def _forget(ground: Ground, index: int) -> None:
    """Delete states in front of a finished layer; those in front of a span are kept until it is judged."""
    for kind in KINDS:
        ground.work.forget_states(states_name(kind, index))
    if index not in [span.start for span in ground.spans]:
        for kind in ground.texts.measured:
            ground.work.forget_states(states_name(kind, index))


def _solve(
    ground: Ground,
    prefix: str,
    sites: Mapping[str, Any],
    measured: Measured,
    targets: Mapping[str, Squares],
    scalings: Mapping[str, Scaling],
) -> tuple[dict[str, dict[str, Fields]], dict[str, Any]]:
    """Stored fields by kind and tensor, and the record; the modules get the solved numbers."""
    pieces: dict[str, dict[int, Piece]] = {}
    here = squares_of(measured)
    pools = pools_of(measured)
    for leader, names in measured.groups.items():
        hessian = blended(measured, pools, leader, sites[leader].in_features)
        targets_of_group = [ground.parameters.find(_weight(prefix, name)).target for name in names]
        asked = {ground.planned[target].format for target in targets_of_group}
        kept = columns_of(ground.way.split, measured, leader, scalings.get(targets_of_group[0]))
        stats = _stats(ground, hessian, scalings.get(targets_of_group[0]), asked, kept)
        del hessian  # the largest thing in memory
        beside = _beside(ground, prefix, names, scalings) if any(map(is_fused, map(formats.get, asked))) else []
        for name in names:
            parameter = ground.parameters.find(_weight(prefix, name))
            planned, w = ground.planned[parameter.target], _rows(parameter, scalings)
            fused = beside if is_fused(formats.get(planned.format)) else []
            run = partial(
                solve, planned=planned, method=ground.way.method, stats=stats, workers=ground.workers, beside=fused
            )
            solved = run(w) if kept is None else solved_rest(w, kept, run)
            sites[name].weight.data.copy_(parameter.in_network(solved.numbers["solved"]))
            first = parameter.part.start if parameter.part else 0
            there = {group: seen[name] for group, seen in targets.items()}
            piece = Piece(solved.fields, solved.energies, solved.remarks, here[name], there)
            pieces.setdefault(parameter.target, {})[first] = piece
    in_order = {name: [own[first] for first in sorted(own)] for name, own in pieces.items()}
    fields = {kind: {name: joined([p.fields[kind] for p in own]) for name, own in in_order.items()} for kind in KINDS}
    fields[SCALING] = {name: scaling.fields() for name, scaling in scalings.items()}
    return fields, {n: record_of(own, fused=len(ground.planned[n].shape) == 2) for n, own in in_order.items()}


def _rows(parameter: Parameter, scalings: Mapping[str, Scaling]) -> torch.Tensor:
    """The rows of a parameter in the target's order, scaled where they are to be."""
    scaling = scalings.get(parameter.target)
    return parameter.rows() if scaling is None else tensor_of(scaling.applied(parameter.rows().numpy()))


def _beside(ground: Ground, prefix: str, names: Collection[str], scalings: Mapping[str, Scaling]) -> list[torch.Tensor]:
    """The largest magnitude of each of the matrices with the same inputs, as a matrix (1, 1)."""
    parameters = (ground.parameters.find(_weight(prefix, name)) for name in names)
    return [_rows(parameter, scalings).abs().max().reshape(1, 1) for parameter in parameters]


def _weight(prefix: str, module: str) -> str:
    return f"{prefix}.{module}.weight" if prefix else f"{module}.weight"


def _stats(
    ground: Ground,
    hessian: torch.Tensor,
    scaling: Scaling | None,
    names: Collection[str],
    kept: torch.Tensor | None,
) -> Mapping[str, Any]:
    """What the method reads for formats `names`: inputs are divided by what their consumers' columns were scaled by.

    To columns `kept` in 16 bits nothing comes.
    """
    if scaling is not None and scaling.columns is not None:
        columns = tensor_of(scaling.columns)
        hessian = hessian / columns / columns[:, None]
    if kept is not None:
        hessian = without(hessian, kept)
    stats = {"hessian": hessian, "importance": importance_of(hessian)}
    return ground.way.method.prepare(stats, ground.workers, [formats.get(name) for name in sorted(names)])


def solve_head(ground: Ground, head: Head) -> dict[str, torch.Tensor]:
    """Leave the codes of the output matrix in the workspace, where it is to be solved; its numbers by kind."""
    planned = ground.planned_of(head.name)
    if planned is None:
        return {}
    if ground.work.layer_record(HEAD) is None:
        original = head.module.weight.data.clone()
        targets = {group: squares_of(_measure_head(ground, head, kind)) for kind, group in ground.texts.kinds.items()}
        measured = _measure_head(ground, head, CALIBRATION)
        fields, record = _solve(ground, "", {head.name: head.module}, measured, targets, {})
        if ground.way.learned:
            record[planned.name]["remarks"].append("not learned: it belongs to no layer")
        head.module.weight.data.copy_(original)
        ground.work.write_layer(HEAD, fields, record)
    stored = {kind: ground.work.fields(HEAD, kind, planned.name) for kind in KINDS}
    return {kind: ground.numbers(f"{head.name}.weight", fields) for kind, fields in stored.items()}


def _measure_head(ground: Ground, head: Head, kind: str) -> Measured:
    states = ground.work.states(states_name(kind, len(ground.network)))
    batches = ground.batches(kind)[-1]
    with head.inputs_only():
        return measure(
            {head.name: head.module},
            lambda batch: head.reach(tensor_of(states[batch])),
            batches,
            ground.workers,
            ground.progress,
            closely=ground.looks_closely(kind),
        )
