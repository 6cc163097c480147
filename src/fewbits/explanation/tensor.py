"""One tensor of a file in several formats: its histogram before and after, and the error of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fewbits import formats
from fewbits.errors import FormatError
from fewbits.explanation.choice import FOR_TENSORS, choose
from fewbits.explanation.coding import Trial
from fewbits.explanation.histogram import BINS, Bins, Extent
from fewbits.explanation.matrix import Matrix, open_matrix, walk
from fewbits.formats import Format

SAMPLE = 8_000_000
"""Numbers that are looked at unless the user says otherwise."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class TensorInFormat:
    """What one format makes of a tensor."""

    format: str
    bits_per_weight: float
    bytes: int
    """Stored bytes of the whole tensor, scales included."""
    relative_rms: float
    """Root of sum (w - stored)^2 / sum w^2, over the numbers that were looked at."""
    largest_error: float
    histogram: tuple[int, ...]
    """Counts of what comes back, in the bins of the original."""
    levels: tuple[float, ...]
    """What the first column of the middle slab can become, where that was asked for and is not too much."""


@dataclass(frozen=True)
class TensorExplained:
    """A tensor in several formats."""

    file: str
    tensor: str
    stored_as: str
    """Format in the file; what is in it is the original here, whatever it was before."""
    shape: tuple[int, ...]
    numbers: int
    numbers_seen: int
    """How many of them the figures and histograms are about."""
    slabs_seen: int
    least: float
    most: float
    mean: float
    rms: float
    low: float
    """Where the histograms begin."""
    high: float
    """Where they end: four standard deviations from the mean, or where the numbers do."""
    beyond: int
    """Numbers outside of the histograms."""
    histogram: tuple[int, ...]
    formats: tuple[TensorInFormat, ...]
    left_out: tuple[tuple[str, str], ...]
    """(format, why) for those that cannot hold the tensor."""

    @property
    def sampled(self) -> str | None:
        """What was looked at, in a sentence; None where it was everything."""
        if self.numbers_seen == self.numbers:
            return None
        return (
            f"{self.numbers_seen:,} of {self.numbers:,} numbers were looked at: {self.slabs_seen} slabs of rows, "
            "spread evenly"
        )

    def to_json(self) -> dict[str, Any]:
        """The explanation as plain data."""
        left_out = [{"format": name, "why": why} for name, why in self.left_out]
        return {**asdict(self), "left_out": left_out, "sampled": self.sampled}


def explain_tensor(
    place: str,
    names: Sequence[str] | None = None,
    *,
    sample: int = SAMPLE,
    levels: bool = False,
    progress: Progress | None = None,
) -> TensorExplained:
    """Send the tensor at `place`, FILE:NAME, through each of the formats called `names`, and compare.

    Reads slab by slab, at most about `sample` numbers, from which a scale of the whole tensor is then made, too;
    `levels` asks for the numbers that one group can become. Raises FewbitsError when there is no such tensor, or none
    of the formats can hold it.
    """
    matrix = open_matrix(place)
    fitting, left_out = _sorted_out(matrix, choose(names, FOR_TENSORS))
    slabs = matrix.slabs(sample)
    steps, done = (1 + len(fitting)) * len(slabs), 0
    report = progress or (lambda *_: None)
    extent = Extent()
    for w in walk(matrix, slabs):
        extent.add(w)
        report(done := done + 1, steps)
    bins = Bins(*extent.range())
    histogram = np.zeros(BINS, np.int64)
    trials = [Trial(format, matrix, slabs, bins) for format in fitting]
    for w in walk(matrix, slabs):
        histogram += bins.count(w)
        for trial in trials:
            trial.add(w)
            report(done := done + 1, steps)
    return TensorExplained(
        file=str(matrix.file),
        tensor=matrix.tensor.name,
        stored_as=matrix.tensor.format,
        shape=matrix.tensor.shape,
        numbers=matrix.rows * matrix.cols,
        numbers_seen=extent.count,
        slabs_seen=len(slabs),
        least=extent.least,
        most=extent.most,
        mean=extent.mean,
        rms=extent.rms,
        low=bins.low,
        high=bins.high,
        beyond=extent.count - int(histogram.sum()),
        histogram=tuple(histogram.tolist()),
        formats=tuple(_result(trial, levels) for trial in trials),
        left_out=left_out,
    )


def _sorted_out(matrix: Matrix, wanted: Sequence[Format]) -> tuple[list[Format], tuple[tuple[str, str], ...]]:
    """The formats that can hold the matrix, and why not, for the others."""
    reasons = {format.name: _refusal(format, matrix) for format in wanted}
    fitting = [format for format in wanted if reasons[format.name] is None]
    if not fitting:
        raise FormatError(
            f"none of {', '.join(reasons)} can hold tensor {matrix.tensor.name!r} of {matrix.cols} columns: "
            f"{next(iter(reasons.values()))}."
        )
    return fitting, tuple((name, why) for name, why in reasons.items() if why)


def _refusal(format: Format, matrix: Matrix) -> str | None:
    try:
        formats.bits(format, matrix.rows, matrix.cols)
    except FormatError as error:
        return str(error).split(";")[0]
    return None


def _result(trial: Trial, levels: bool) -> TensorInFormat:
    bits = formats.bits(trial.format, trial.matrix.rows, trial.matrix.cols)
    return TensorInFormat(
        format=trial.format.name,
        bits_per_weight=bits / (trial.matrix.rows * trial.matrix.cols),
        bytes=-(-bits // 8),
        relative_rms=trial.relative_rms,
        largest_error=trial.largest_error,
        histogram=tuple(trial.histogram.tolist()),
        levels=trial.levels() if levels else (),
    )
