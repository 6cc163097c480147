"""What modules will do with planned matrices: whose inputs are rounded, and which are decoded at every call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fewbits.assignment import Assignment
from fewbits.checkpoints.fields import PLAIN
from fewbits.layers.finding import Found, Network
from fewbits.layers.places import is_convolution, multiplies
from fewbits.layers.products import KERNELS, WIDE
from fewbits.layers.stored import form_of
from fewbits.reporting.record import PlannedTensor

Pair = tuple[Found, PlannedTensor]


def multiplying(network: Network, assignment: Assignment) -> Assignment:
    """The assignment as the modules of `network` can have it, with notes of what is not multiplied as it is stored."""
    pairs = list(zip(network.found, assignment.tensors, strict=True))
    tensors = tuple(t if multiplies(found.modules[0]) else replace(t, activation=None) for found, t in pairs)
    unrounded = [(found, t) for found, t in pairs if t.activation and is_convolution(found.modules[0])]
    changed = [(found, t) for found, t in zip(network.found, tensors, strict=True) if t.format != t.source_format]
    decoded = [(found, t) for found, t in changed if multiplies(found.modules[0]) and not _packed(t)]
    notes = (*_unrounded(unrounded), *_decoded(decoded), *_weights_alone(changed))
    return replace(assignment, tensors=tensors, notes=(*assignment.notes, *notes))


def _packed(planned: PlannedTensor) -> bool:
    form = form_of(planned.format, planned.shape[-1])
    return planned.format in PLAIN or (form.packed and (planned.activation or WIDE) in KERNELS)


def _unrounded(pairs: Sequence[Pair]) -> list[str]:
    """Of modules whose recipe rounds inputs, those that cannot; what is looked up has none."""
    if not pairs:
        return []
    kinds = ", ".join(sorted({type(found.modules[0]).__name__ for found, _ in pairs}))
    return [f"{_many(pairs)}: {kinds} modules get their inputs as they are."]


def _decoded(pairs: Sequence[Pair]) -> list[str]:
    """Of modules that multiply, those whose matrix no product packs, or whose inputs none takes: a line per reason."""
    reasons: dict[str, list[Pair]] = {}
    for pair in pairs:
        planned = pair[1]
        form = form_of(planned.format, planned.shape[-1])
        why = f"decoded: inputs rounded as {planned.activation} multiply floats" if form.packed else form.why
        reasons.setdefault(why, []).append(pair)
    return [f"{_many(own)}: {why}." for why, own in reasons.items()]


def _weights_alone(pairs: Sequence[Pair]) -> list[str]:
    """Of convolutions, that they decode."""
    own = [(found, t) for found, t in pairs if is_convolution(found.modules[0])]
    return [f"{_many(own)}: decoded at every call, as torch's convolutions multiply floats."] if own else []


def _many(pairs: Sequence[Pair]) -> str:
    return pairs[0][1].source_name + (f" and {len(pairs) - 1} more" if len(pairs) > 1 else "")
