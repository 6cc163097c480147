"""Ranges of values: the graph runs on every sample, and what an observer needs of a value is counted as it comes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fewbits.calibration import OBSERVERS, STATS, Range
from fewbits.errors import CalibrationError
from fewbits.onnx_activations.graph import Array, Floats, Graph
from fewbits.onnx_activations.runtime import Running, materialized
from fewbits.onnx_activations.samples import Samples

BITS = 8


@dataclass(frozen=True)
class Steps:
    """A value as codes of 8 bits without a sign: x ~ scale * (code - zero)."""

    low: float
    high: float
    scale: np.float32
    zero: int

    @staticmethod
    def of(found: Range) -> Steps:
        """The codes over a range."""
        scale, zero = found.steps(BITS, symmetric=False)
        # A range that float32 cannot tell from 0 has no step: all its numbers are code 0.
        step = np.float32(scale) if np.float32(scale) > np.finfo(np.float32).tiny else np.float32(1.0)
        return Steps(found.low, found.high, step, zero)


def observe(
    graph: Graph,
    values: Sequence[str],
    samples: Samples,
    observer: str,
    threads: int,
    progress: Callable[[int, int], None],
) -> dict[str, Steps]:
    """Value -> its codes, from all samples that are not held out; memory does not grow with their number.

    Raises CalibrationError where a value holds numbers that are none.
    """
    chosen = OBSERVERS.get(observer)()
    stats = {name: STATS.get(chosen.needs)(1) for name in values}
    running = Running.of(_with_outputs(graph, values), graph.file.path.parent, threads)
    inputs = {value.name for value in graph.model.graph.input}
    told = [name for name in values if name not in inputs]
    done = 0
    for held_out, batch in samples.batches():
        size = len(next(iter(batch.values())))
        if not held_out:
            found = dict(zip(told, running.run(batch, told), strict=True)) if told else {}
            for name in values:
                _update(stats[name], found.get(name, batch.get(name)), size)
        done += samples.batch
        progress(min(done, samples.count), samples.count)
    return {name: _steps(chosen, name, stat.value) for name, stat in _valued(stats)}


@dataclass(frozen=True)
class Columns:
    """What is known of the columns of a value, which lie along its last side."""

    low: Floats
    high: Floats
    """(columns,): the smallest and the largest number of samples that are not held out."""
    rows: Floats
    """(rows, columns): some of those that are held out."""


MOST_ROWS = 512


def observe_columns(
    graph: Graph, values: Sequence[str], samples: Samples, threads: int, progress: Callable[[int, int], None]
) -> dict[str, Columns]:
    """Value -> its columns."""
    stats: dict[str, Any] = {}
    rows: dict[str, list[Array]] = {name: [] for name in values}
    running = Running.of(_with_outputs(graph, values), graph.file.path.parent, threads)
    inputs = {value.name for value in graph.model.graph.input}
    told = [name for name in values if name not in inputs]
    done = 0
    for held_out, batch in samples.batches():
        found = {**batch, **dict(zip(told, running.run(batch, told), strict=True))}
        for name in values:
            lines = found[name].reshape(-1, found[name].shape[-1])
            if not held_out:
                stats.setdefault(name, STATS.get("minmax")(lines.shape[1]))
                _see(stats[name], lines)
            elif sum(map(len, rows[name])) < MOST_ROWS:
                rows[name].append(lines[:: max(1, len(lines) // MOST_ROWS)].copy())
        done += samples.batch
        progress(min(done, samples.count), samples.count)
    ranges = {name: stats[name].value.numpy() for name in values}
    return {name: Columns(low, high, np.concatenate(rows[name])) for name, (low, high) in ranges.items()}


def _see(stat: Any, lines: Array) -> None:
    import torch

    stat.update(torch.from_numpy(np.require(lines, np.float32, ["C", "W"])))


def _valued(stats: Mapping[str, Any]) -> list[tuple[str, Any]]:
    for name, stat in stats.items():
        if stat.tokens == 0:
            raise CalibrationError(f"the value {name!r} is empty on all samples; give others.")
    return list(stats.items())


def _steps(chosen: Any, name: str, value: Any) -> Steps:
    try:
        return Steps.of(chosen.range(value, bits=BITS, symmetric=False))
    except CalibrationError:
        raise _nothing(name) from None


def _nothing(name: str) -> CalibrationError:
    return CalibrationError(
        f"the value {name!r} is NaN or infinite on these samples; the model is damaged, or they are not its inputs."
    )


def _update(stat: Any, array: Array | None, size: int) -> None:
    """Every number of `array`, by samples where its first side counts them."""
    import torch

    assert array is not None
    if not array.size:
        return
    numbers = torch.from_numpy(np.require(array, np.float32, ["C", "W"]))
    samples = size if array.ndim and len(array) == size else 1
    stat.update(numbers.reshape(samples, -1, 1))


def _with_outputs(graph: Graph, values: Sequence[str]) -> bytes:
    """The graph with these values among its outputs."""
    copy = graph.copy()
    main = copy.model.graph
    known = {value.name for value in (*main.output, *main.input)}
    main.output.extend(
        type(main.output[0] if main.output else main.input[0])(name=name) for name in values if name not in known
    )
    return materialized(copy.model, graph.file, copy.arrays)
