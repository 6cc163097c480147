"""What one layer does to the states of all windows, and what reaches its matrices meanwhile.

Windows go through a layer in small batches of a fixed size, each on one thread, and sums grow batch after batch within
tiles of columns: nothing depends on how many threads there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from threading import local
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fewbits.calibration.experts import PLACE
from fewbits.calibration.network import Call, ReachedError
from fewbits.calibration.precision import FLOAT32, computing
from fewbits.calibration.seen import Seen
from fewbits.calibration.stats import Hessian
from fewbits.errors import CalibrationError
from fewbits.lazy import LazyModule
from fewbits.workers import Workers

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

States = npt.NDArray[np.float32]
"""(windows, length, hidden), in memory or mapped from a file."""

BATCH_TOKENS = 2048
"""Tokens that go through a layer at once: enough for the matrix products to be fast."""

LEAST_BATCHES = 4
"""Batches that windows are divided into, where there are as many."""

ROUND = 4
"""Batches whose inputs are kept until the sums have seen them."""

TILE = 1024
"""Columns of a sum of products that are added to at once."""


@dataclass(frozen=True)
class Batches:
    """How many windows go through a layer at once, and what the layer is called with for each number of them."""

    windows: int
    size: int
    calls: Mapping[int, Call]
    precision: str = FLOAT32

    def slices(self) -> list[slice]:
        """The windows of each batch."""
        return [slice(at, min(at + self.size, self.windows)) for at in range(0, self.windows, self.size)]

    def call(self, batch: slice) -> Call:
        """What the layer is called with for the windows `batch`."""
        return self.calls[batch.stop - batch.start]


def batch_size(windows: int, length: int) -> int:
    """How many of `windows` of `length` tokens go through a layer at once: few windows are still shared by threads."""
    return max(1, min(BATCH_TOKENS // length, -(-windows // LEAST_BATCHES)))


def advance(
    layer: Any,
    name: str,
    states: States,
    out: States,
    batches: Batches,
    workers: Workers,
    progress: Callable[[], None] = lambda: None,
) -> None:
    """Run `layer` on `states` into `out`; raises CalibrationError, naming the layer, where no number comes out."""

    def run(batch: slice) -> None:
        out[batch] = _finite(forward(layer, states, batches, batch), name).numpy()

    for _ in workers.in_order(run, batches.slices()):
        progress()


def forward(layer: Any, states: States, batches: Batches, batch: slice) -> torch.Tensor:
    """What `layer` answers to the windows `batch`."""
    call = batches.call(batch)
    with computing(batches.precision):
        result = layer(tensor_of(states[batch]), *call.args, **call.kwargs)
    answer: torch.Tensor = result[0] if isinstance(result, tuple) else result
    return answer.float()


def tensor_of(states: States) -> torch.Tensor:
    """A copy of states as a tensor: those of a file are not to be written to."""
    return torch.from_numpy(np.array(states))


def _finite(states: torch.Tensor, name: str) -> torch.Tensor:
    if not bool(torch.isfinite(states).all()):
        raise CalibrationError(
            f"{name} of the model answers NaN or infinite numbers to the calibration text; its weights are damaged or "
            "overflow in float32, so no codes can be chosen by it: take --method nearest."
        )
    return states


@dataclass(frozen=True)
class Measured:
    """What reached the matrices of a layer: sites that get one and the same input share a Hessian."""

    hessians: dict[str, Hessian]
    """Name of the first site of a group -> what reached it."""
    groups: Mapping[str, tuple[str, ...]]
    """Name of the first site of a group -> all of them; an expert's that no token reached are alone."""
    seen: Mapping[str, Seen] = field(default_factory=dict)
    """Name of the first site of a group -> its inputs, where they were looked at closely."""


def measure(
    sites: Mapping[str, Any],
    run_batch: Callable[[slice], object],
    batches: Batches,
    workers: Workers,
    progress: Callable[[], None] = lambda: None,
    *,
    closely: bool = False,
) -> Measured:
    """Hessians of the inputs of the modules `sites`, while `run_batch` takes each batch of windows through them.

    `closely` keeps what `Seen` keeps of inputs too.
    """
    seen = local()

    def watch(name: str) -> Callable[[Any, tuple[Any, ...]], None]:
        def keep(_: Any, inputs: tuple[Any, ...]) -> None:
            seen.inputs[name] = inputs[0]
            if len(seen.inputs) == len(sites):  # what this module answers is nobody's input
                raise ReachedError

        return keep

    def run(batch: slice) -> dict[str, torch.Tensor]:
        seen.inputs = {}
        with torch.no_grad(), suppress(ReachedError):  # torch's switches belong to a thread
            run_batch(batch)
        return dict(seen.inputs)

    hooks = [module.register_forward_pre_hook(watch(name), prepend=True) for name, module in sites.items()]
    sums = _Sums({name: module.in_features for name, module in sites.items()}, batches.precision, closely)
    try:
        for group in _rounds(batches.slices()):
            for _, inputs in workers.in_order(run, group):
                sums.take(inputs)
                progress()
            sums.add(workers)
    finally:
        for hook in hooks:
            hook.remove()
    return sums.measured()


def _rounds(slices: list[slice]) -> Iterator[list[slice]]:
    for at in range(0, len(slices), ROUND):
        yield slices[at : at + ROUND]


class _Sums:
    """Hessians that grow round after round."""

    def __init__(self, widths: Mapping[str, int], precision: str, closely: bool) -> None:
        self._widths = widths
        self._seen: dict[str, Seen] | None = {} if closely else None
        self._dtype = getattr(torch, precision)  # what the matrices multiply with
        self._leaders: dict[str, str] = {}
        self._waiting: dict[str, list[torch.Tensor]] = {}
        self._hessians: dict[str, Hessian] = {}

    def take(self, inputs: Mapping[str, torch.Tensor]) -> None:
        """Keep the inputs of one batch, those that are one tensor once; the first batch says which belong together."""
        first: dict[int, str] = {}
        for name in self._widths:
            if name not in inputs:
                continue
            leader = self._leaders.setdefault(name, first.setdefault(id(inputs[name]), name))
            if leader == name:
                self._waiting.setdefault(name, []).append(inputs[name].reshape(-1, self._widths[name]).to(self._dtype))
                if self._seen is not None:
                    self._seen.setdefault(name, Seen(self._widths[name])).take(self._waiting[name][-1])

    def add(self, workers: Workers) -> None:
        """Add what is waiting, tile by tile of columns, each in the order of the batches."""
        tiles = []
        for name, waiting in self._waiting.items():
            hessian = self._hessians.setdefault(name, Hessian(self._widths[name]))
            hessian.tokens += sum(len(x) for x in waiting)
            tiles += [(hessian, waiting, start) for start in range(0, hessian.cols, TILE)]

        def run(tile: tuple[Hessian, list[torch.Tensor], int]) -> None:
            hessian, waiting, start = tile
            for x in waiting:
                hessian.add_columns(x, slice(start, start + TILE))

        for _ in workers.in_order(run, sorted(tiles, key=lambda t: -t[0].cols)):
            pass
        self._waiting.clear()

    def measured(self) -> Measured:
        """The whole sums, and who shares them."""
        groups: dict[str, tuple[str, ...]] = {}
        for hessian in self._hessians.values():
            hessian.mirror()
        for name, leader in self._leaders.items():
            groups[leader] = (*groups.get(leader, ()), name)
        unreached = [name for name in self._widths if name not in self._leaders]
        groups |= {name: (name,) for name in unreached}
        missing = [name for name in unreached if PLACE not in f".{name}"]
        if missing:
            raise CalibrationError(
                f"no token of the calibration text reached {missing[0]} ({len(missing)} in all); give more text, or of "
                "other kinds."
            )
        return Measured(self._hessians, groups, self._seen or {})
