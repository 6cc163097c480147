"""Checkpoints of the guard: what is kept behind each, and what is put back."""

from __future__ import annotations

from fewbits.calibrated import guard
from fewbits.calibrated.distances import distances, measure_of
from fewbits.calibrated.ground import Ground, count_batches, layer_folder, states_name
from fewbits.calibrated.guard import Verdict
from fewbits.calibrated.inputs import rounded_inputs
from fewbits.calibrated.scaling import kept_scaling, put_scaled
from fewbits.calibrated.solving import KINDS


def judge(ground: Ground, number: int) -> None:
    """Compare solved with plain codes behind span `number`, and go on behind those that stay."""
    span = ground.spans[number]
    rest = range(span.stop, len(ground.network))
    verdict = verdict_of(ground, number)
    if verdict is None:
        verdict = _compare(ground, span, rest)
        if not verdict.kept and rest:
            _go_back(ground, span)
        ground.work.write_record(_name(number), verdict.to_json())
    else:
        ground.progress.skip(2 * len(rest) * count_batches(ground.texts.guard))
    if ground.first_unfinished == span.stop:  # whatever was broken off here, doing it twice changes nothing
        kept, other = KINDS if verdict.kept else KINDS[::-1]
        ground.keep(states_name(other, span.stop), ground.work.states(states_name(kept, span.stop)))
    for kind in ground.texts.measured:
        ground.work.forget_states(states_name(kind, span.start))


def verdict_of(ground: Ground, number: int) -> Verdict | None:
    """What the guard found behind span `number`, if it has looked."""
    found = ground.work.record(_name(number))
    return None if found is None else Verdict.from_json(found)


def _compare(ground: Ground, span: range, rest: range) -> Verdict:
    """How far the model is from itself behind solved and behind plain codes of the layers `span`."""
    states = {kind: ground.work.states(states_name(kind, span.stop)) for kind in KINDS}
    ends = guard.through(ground.network, rest, states, ground.batches("guard"), ground.workers, ground.progress)
    found = distances(ground, ends, rest)
    return Verdict(span.start, span.stop - 1, found["solved"], found["plain"], measure_of(ground).key)


def _go_back(ground: Ground, span: range) -> None:
    """Take the calibration text through plain codes from the beginning of the span on."""
    for index in span:
        with ground.network.layer(index) as layer:
            name = ground.network.layer_name(index)
            sites = ground.sites(name, layer)
            targets = [ground.parameters.find(f"{name}.{site}.weight").target for site in sites]
            tensors = [ground.parameters.find(f"{name}.{p}").target for p, _ in layer.named_parameters()]
            kept = {t: kept_scaling(ground.work, layer_folder(index), t) for t in tensors}
            put_scaled(ground, index, layer, {t: scaling for t, scaling in kept.items() if scaling})
            fields = {t: ground.work.fields(layer_folder(index), "plain", t) for t in targets}
            ground.put(name, sites, fields)
            with rounded_inputs(ground, name, sites, fields):
                for kind in ground.texts.measured:
                    ground.through(index, layer, kind)
        if index != span.start:
            for kind in ground.texts.measured:
                ground.work.forget_states(states_name(kind, index))


def _name(number: int) -> str:
    return f"guard-{number}.json"
