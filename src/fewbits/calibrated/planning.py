"""What calibration will take, decided and estimated before any weight is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fewbits import formats
from fewbits.calibrated import guard
from fewbits.calibrated.parameters import Parameters, SourceNetwork, open_network
from fewbits.calibration.data import read_calibration
from fewbits.calibration.mix import guard_text
from fewbits.checkpoints.base import Conversion
from fewbits.checkpoints.fields import PLAIN
from fewbits.encoding import rows_together
from fewbits.reporting.measures import KL, STATE_ERROR
from fewbits.reporting.record import CalibrationPlan, PlannedTensor
from fewbits.request import CalibrationRequest
from fewbits.way import Way

TARGET_WINDOWS = 16
"""Windows of the target's text: as many as tell its tokens and inputs from others."""


@dataclass(frozen=True)
class Plan:
    """Everything that a walk needs beside the formats."""

    source: SourceNetwork
    calibration: Any
    """Windows (windows, length) int64 that codes are chosen by."""
    held_out: Any
    """Windows (windows, length) int64 that codes are judged by."""
    targets: Mapping[str, Any]
    """Group -> windows of text of that kind, which the model will see."""
    used: CalibrationPlan
    notes: tuple[str, ...]


def plan(conversion: Conversion, asked: CalibrationRequest, seed: int) -> Plan:
    """Open the model as a network and read the texts; raises FewbitsError where one of them cannot be used."""
    source = open_network(conversion)
    length = min(asked.length, source.context_limit)
    data = read_calibration(asked.text, source.vocabulary, length=length, windows=asked.windows, seed=seed)
    judged = [guard_text()] if asked.guard is None else asked.guard
    held_out = read_calibration(
        judged, source.vocabulary, length=length, windows=max(1, guard.TOKENS // length), seed=seed
    )
    targets = {
        name: read_calibration(path, source.vocabulary, length=length, windows=TARGET_WINDOWS, seed=seed)
        for name, path in _groups(asked.targets).items()
    }
    used = CalibrationPlan(
        text=data.fingerprint,
        guard_text=held_out.fingerprint,
        tokens=int(data.windows.size),
        guard_tokens=int(held_out.windows.size),
        target_text={name: target.fingerprint for name, target in targets.items()} or None,
        checkpoints=len(guard.spans(len(source.network))),
        layers=len(source.network),
        precision=source.network.precision,
        measure=(STATE_ERROR if source.architecture.encoder else KL).key,
    )
    notes = [f"Calibration: {note}." for note in data.notes]
    if length < asked.length:
        notes.append(f"Windows were shortened from {asked.length} to {length} tokens, all that the model was made for.")
    notes += _parts_note(source.parameters)
    seen = {name: target.windows for name, target in targets.items()}
    return Plan(source, data.windows, held_out.windows, seen, used, tuple(notes))


def _parts_note(parameters: Parameters) -> list[str]:
    """That text chooses no codes of what is a part of a matrix of the network."""
    whole = [name for name, parameter in parameters.named.items() if not parameter.target]
    if not whole:
        return []
    note = (
        f"{len(whole)} matrices of the network ({whole[0]}, ...) become several tensors each, of which no text chooses "
        "codes: those are rounded to nearest, and the walk goes through them as they are in the source."
    )
    return [note]


def _groups(paths: tuple[Path, ...]) -> dict[str, Path]:
    """Texts by the names of their files, or by their paths where two are called the same."""
    counts = Counter(path.name for path in paths)
    return {path.name if counts[path.name] == 1 else str(path): path for path in paths}


def with_methods(tensors: Iterable[PlannedTensor], plan: Plan, way: Way) -> tuple[PlannedTensor, ...]:
    """`way` for the matrices of linear layers, and nearest for whatever is looked up instead of multiplied with."""
    matrices = _linear(plan)
    return tuple(
        t if not t.quantizable else replace(t, method=way.name if _solvable(t, matrices[t.name]) else "nearest")
        for t in tensors
    )


def _solvable(tensor: PlannedTensor, matrices: int) -> bool:
    """Whether each of the `matrices` of a tensor can be solved alone: not where rows of several share something."""
    if tensor.format in PLAIN or matrices == 0:
        return False
    format = formats.get(tensor.format)
    return matrices == 1 or (format.rows == 1 and rows_together(format, tensor.shape[-1]) == 1)


def _linear(plan: Plan) -> Counter[str]:
    """How many matrices of linear layers each tensor of the target holds: of layers, and the head if it has its own."""
    import torch

    network, named = plan.source.network.network, plan.source.parameters.named
    head = network.get_output_embeddings()
    return Counter(
        named[f"{name}.weight"].target
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.Linear)
        and f"{name}.weight" in named
        and (module is head or name.startswith(f"{plan.source.network.prefix}."))
    )


def asked_for(
    plan: Plan, conversion: Conversion, tensors: Iterable[PlannedTensor], way: Way, seed: int
) -> Mapping[str, Any]:
    """What makes two runs the same: source, texts, formats, method and versions."""
    import torch

    from fewbits import __version__

    files = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in conversion.files]
    return {
        "version": __version__,
        "torch": torch.__version__,
        "method": repr(way),
        "files": files,
        "tensors": [(t.name, t.format, t.method, t.activation) for t in tensors],
        "text": plan.used.text["sha256"],
        "guard_text": plan.used.guard_text["sha256"],
        "target_text": {name: text["sha256"] for name, text in (plan.used.target_text or {}).items()},
        "precision": plan.used.precision,
        "seed": seed,
    }
