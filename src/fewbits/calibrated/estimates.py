"""What a walk will take: time from the rate of a product tried here, memory from what is held at once."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from fewbits.calibrated import guard
from fewbits.calibrated.planning import Plan
from fewbits.calibration.experts import PLACE
from fewbits.calibration.precision import BFLOAT16
from fewbits.calibration.walk import BATCH_TOKENS, ROUND

if TYPE_CHECKING:
    import torch

_PROBE = 1024
_DOUBLES = 0.5
"""The rate of products in float64, of that in float32."""


@dataclass(frozen=True)
class Matrix:
    """One matrix of a layer; `share` of all tokens reach it, and those of the same `inputs` have one Hessian."""

    rows: int
    cols: int
    share: float
    inputs: str

    @property
    def size(self) -> int:
        """Numbers."""
        return self.rows * self.cols


def _matrices(plan: Plan) -> Iterator[Matrix]:
    config = plan.source.network.network.config.get_text_config()
    count = getattr(config, "num_local_experts", None) or 1
    used: float = getattr(config, "num_experts_per_tok", count) / count
    for name, parameter in plan.source.network.shape(0).named_parameters():
        if parameter.dim() == 2:
            rows, cols = parameter.shape
            expert = re.search(rf"{re.escape(PLACE)}\d+", f".{name}")
            yield Matrix(rows, cols, used if expert else 1.0, f"{expert[0] if expert else ''} {cols}")


def estimate_seconds(plan: Plan, threads: int, products: int, learning: float = 0.0) -> float:
    """Expected seconds of the walk by a method of `products`, `learning` being operations in float32 beside it."""
    matrices, layers = list(_matrices(plan)), len(plan.source.network)
    widths = {m.inputs: m for m in matrices}.values()
    held_out, checkpoints = plan.held_out.size, guard.spans(layers)
    judged = sum(2 * (layers - span.stop) for span in checkpoints)
    measured = plan.calibration.size + sum(ids.size for ids in plan.targets.values())
    passes = layers * (2 * measured + 3 * held_out) + judged * held_out
    answers = 0 if plan.source.architecture.encoder else prod(_embedding(plan).shape)
    head = 3 * (held_out // 2) * len(checkpoints) * answers
    forward = 2 * (passes * sum(m.size * m.share for m in matrices) + head)
    squares = layers * measured * sum(m.cols**2 * m.share for m in widths)
    sweeps = layers * (products * sum(2 * m.size * m.cols for m in matrices) + sum(m.cols**3 / 3 for m in widths))
    seconds: float = (forward + squares) / _rate(plan.used.precision)
    seconds += (sweeps / _DOUBLES + learning) / _rate("float32")
    return seconds / threads


def _rate(precision: str) -> float:
    """Operations per second of one thread in a product of matrices."""
    import torch

    x = torch.ones(_PROBE, _PROBE, dtype=getattr(torch, precision))
    x @ x
    began = time.perf_counter()
    x @ x
    return 2.0 * _PROBE**3 / (time.perf_counter() - began) / max(1, torch.get_num_threads())


def _embedding(plan: Plan) -> torch.Tensor:
    found: torch.Tensor = plan.source.network.network.get_input_embeddings().weight
    return found


def estimate_memory(plan: Plan, threads: int) -> int:
    """Expected bytes at most: one layer, its Hessians, one of them copied and factored, inputs of a few batches."""
    matrices = list(_matrices(plan))
    widths = [m.cols for m in {m.inputs: m for m in matrices}.values()]
    weights, largest = 4 * sum(m.size for m in matrices), 4 * max(m.size for m in matrices)
    hessians = 4 * sum(cols * cols for cols in widths) + (4 + 8) * max(widths) ** 2
    number = 2 if plan.used.precision == BFLOAT16 else 4
    inputs = number * BATCH_TOKENS * (ROUND + 2 * threads) * sum(m.cols * m.share for m in matrices)
    embedding: int = 4 * prod(_embedding(plan).shape)
    return int(max(weights + 4 * largest + hessians + inputs, 2 * embedding + inputs))
