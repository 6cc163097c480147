"""The order of things: begin, then layer by layer measure, solve, keep and go on behind the codes; judge now and then.

Everything finished is in the workspace, so that after a crash the same command goes on and gives the same bytes: states
are read back from the disk exactly as they were.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fewbits.calibrated.beginning import begin
from fewbits.calibrated.ground import HEAD, Ground, layer_folder
from fewbits.calibrated.guard import Verdict
from fewbits.calibrated.judging import judge, verdict_of
from fewbits.calibrated.layers import solve_layer
from fewbits.calibrated.scaling import KIND as SCALING
from fewbits.calibrated.solving import KINDS
from fewbits.workers import one_torch_thread


@dataclass(frozen=True)
class Outcome:
    """Where the stored fields of every solved tensor are, and what was found on the way."""

    chosen: Mapping[str, tuple[str, str]]
    """Tensor of the target -> (layer, kind) in the workspace."""
    records: Mapping[str, Mapping[str, Any]]
    """Tensor -> errors of its outputs by kind, remarks, mean squares (cols,) of its inputs, tokens."""
    verdicts: tuple[Verdict, ...]
    scaled: Mapping[str, str]
    """Tensor of the target that transforms have scaled -> layer in the workspace."""


def run(ground: Ground) -> Outcome:
    """Solve what is not solved yet; raises FewbitsError, and keeps what is finished."""
    import torch

    with one_torch_thread(), torch.no_grad():
        begin(ground)
        for number, span in enumerate(ground.spans):
            for index in span:
                solve_layer(ground, index)
            judge(ground, number)
    return _outcome(ground)


def _outcome(ground: Ground) -> Outcome:
    verdicts = [verdict for n in range(len(ground.spans)) if (verdict := verdict_of(ground, n)) is not None]
    chosen: dict[str, tuple[str, str]] = {}
    records: dict[str, Mapping[str, Any]] = {}
    for span, verdict in zip(ground.spans, verdicts, strict=True):
        layers = [layer_folder(index) for index in span] + ([HEAD] if span.stop == len(ground.network) else [])
        for layer in layers:
            found = ground.work.layer_record(layer) or {}
            records |= found
            chosen |= dict.fromkeys(found, (layer, KINDS[0] if verdict.kept else KINDS[1]))
    every = [layer_folder(index) for index in range(len(ground.network))]
    scaled = {tensor: layer for layer in every for tensor in ground.work.tensors(layer, SCALING)}
    return Outcome(chosen, records, tuple(verdicts), scaled)
