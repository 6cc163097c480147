"""What a matrix of an output must hold, and whether it does: rows of the source, read again, against what was stored.

Success is refused unless the matrix agrees with the source within its format's bound, and has exactly the error that
was recorded while it was written.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from fewbits import formats, kernels
from fewbits.checkpoints.base import WEIGHT_TYPES, Bytes, Order, StoredTensor
from fewbits.checkpoints.fields import StoredMatrix
from fewbits.errors import VerificationError
from fewbits.formats import Format
from fewbits.kernels import Doubles
from fewbits.verification.dialects import Reading
from fewbits.verification.fields import Slab, put_outliers, read_numbers
from fewbits.verification.rotation import Rows, Turned
from fewbits.workers import Workers, row_slabs

TOLERANCE = 1e-9
"""Relative difference allowed between the recorded and the measured error: both sum the same numbers in float64."""

WEIGHED_BOUND = 2.0
"""Largest |w - stored| within a span over its largest |w|, where errors were weighed: what counts little may
come back as anything that the span can hold, of the other sign at worst. The recorded error has to be met still."""

LAST_BIT = 2.0**-22
"""Twice what rounding to float32 changes of a number, relatively."""

COMPENSATED_RMS = 2.0
"""Largest relative RMS error of a matrix whose numbers make up for each other; single ones may be anywhere.

Zeros are off by 1, and 2 bits may be farther: inputs that point nearly one way leave most of a row free. A layer of a
language model at 1.01 answered four times as close as its nearest numbers (KL divergence 0.095, not 0.418: the card of
`bench/qat_llm.py --recipes int2_g64_sym_f16 --against gptq_search+learned`). What solved numbers are worth is for the
guard to say, which compares answers; this only stops what cannot be meant.
"""

_BOUNDS = {"weighed": WEIGHED_BOUND, "compensated": math.inf}


@dataclass(frozen=True)
class Allowance:
    """How a tensor may differ from its source.

    `kind` "weighed": errors were weighed by importance, so that what counts little may be off by more than the format's
    bound; "compensated": numbers were moved to make up for the errors of others, as far as that needed. A transform has
    multiplied columns and then rows by factors, in float32, where there are some.
    """

    kind: str = ""
    rows: npt.NDArray[np.float32] | None = None
    columns: npt.NDArray[np.float32] | None = None

    @property
    def scales(self) -> bool:
        """Whether a transform has."""
        return self.rows is not None or self.columns is not None


@dataclass(frozen=True)
class Inputs:
    """What the file must say of a matrix's inputs: how they are rounded, and how many columns stay in 16 bits."""

    activation: str | None = None
    outliers: int = 0


@dataclass(frozen=True)
class Expectation:
    """What one tensor of the file must hold: rows of `source` in `order`, plus `add`, off by exactly `relative_rms`."""

    source: StoredTensor
    order: Order | None
    format: str
    relative_rms: float
    add: float = 0.0
    """What its numbers are more than the source's."""
    allowance: Allowance = Allowance()
    turned: Turned | None = None
    """What a rotation of the whole model has made of the source's rows."""
    inputs: Inputs = Inputs()

    @property
    def numbers(self) -> str:
        """How `_rows_of` brings the source's rows."""
        return "F32" if self.allowance.scales or self.turned or self.add else self.source.format

    @property
    def unsure(self) -> float:
        """How far numbers that were worked out twice may be from each other, relatively: a last bit."""
        return LAST_BIT if self.turned else 0.0


def check_stored(
    stored: StoredMatrix | StoredTensor,
    want: Expectation,
    workers: Workers,
    progress: Callable[[int], None],
    done: int,
) -> int:
    """Compare a matrix by its fields, or a plain tensor; returns the source bytes compared so far."""
    if not isinstance(stored, StoredMatrix):
        return check_tensor(stored, want, workers, progress, done)
    _require_inputs(stored, want.inputs)
    if set(stored.load()) == {"data"}:
        rows = StoredTensor(stored.name, stored.format, stored.shape, stored.load()["data"].reshape(-1))
        return check_tensor(rows, want, workers, progress, done)
    _require_stated(stored, want)
    source = _rows_of(want)
    compare = partial(_compare_numbers, partial(_own_numbers, stored), want, source, _largest(want, source))
    return _measure(stored.name, want, compare, workers, progress, done)


def check_reading(
    name: str, reading: Reading, want: Expectation, workers: Workers, progress: Callable[[int], None], done: int
) -> int:
    """Compare a matrix as others read it; returns the source bytes compared so far."""
    if (reading.shape, reading.activation) != (want.source.shape, want.inputs.activation):
        raise VerificationError(
            f"tensor {name} is {list(reading.shape)} with inputs rounded as {reading.activation} in the file, and "
            f"should be {list(want.source.shape)} with {want.inputs.activation}; the file is not kept."
        )
    rows = _rows_of(want)
    compare = partial(_compare_numbers, partial(_others_numbers, reading), want, rows, _largest(want, rows))
    return _measure(name, want, compare, workers, progress, done)


def _own_numbers(stored: StoredMatrix, slab: tuple[int, int], w: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """What fields stand for in rows whose source is `w`."""
    read = Slab(stored.load(), *slab, w.shape[1])
    found = read_numbers(stored.format, read)
    put_outliers(stored.name, read, found, w)
    return found


def _others_numbers(reading: Reading, slab: tuple[int, int], _: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """What readers of a dialect see in these rows."""
    return reading.numbers(*slab)


def _largest(want: Expectation, rows: Rows) -> float:
    """The largest magnitude among the source's numbers, where all rows share a scale; nobody reads it elsewhere."""
    if formats.get(want.format).rows:
        return math.nan
    slabs = row_slabs(want.source.rows, want.source.row_bytes)
    return max(kernels.extent(rows(*slab), want.numbers)[0] for slab in slabs)


def _compare_numbers(
    numbers: Callable[[tuple[int, int], npt.NDArray[np.float32]], npt.NDArray[np.float32]],
    want: Expectation,
    rows_of: Rows,
    largest: float,
    slab: tuple[int, int],
) -> kernels.Compared:
    """Rows of a matrix in several tensors, read by their own reading; `largest` is the source's largest magnitude.

    Where all rows share something, no error may be large beside that.
    """
    source, format = want.source, formats.get(want.format)
    rows = rows_of(*slab)
    w = kernels.decode_rows(want.numbers, rows, source.cols)
    found = numbers(slab, w)
    error, square = kernels.deviation(rows, want.numbers, found)
    far = _largest_per_span(w - found, format) - format.error_floor
    size = np.full_like(far, largest) if format.rows == 0 else _largest_per_span(w, format)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(far > 0, far / size, 0.0)
    return kernels.Compared(error, square, float(ratio.max(initial=0.0)) if np.isfinite(found).all() else math.inf)


def _largest_per_span(w: npt.NDArray[np.float32], format: Format) -> Doubles:
    """The largest magnitude in each span of the rows of `w`, or in each tile where spans reach over several rows."""
    spans = np.abs(w).reshape(len(w), -1, format.span or w.shape[1]).max(-1)
    tiles = range(0, len(w), max(format.rows, 1)) if format.rows > 1 else None
    return (np.maximum.reduceat(spans, tiles) if tiles else spans).astype(np.float64)


def _require_stated(stored: StoredTensor | StoredMatrix, want: Expectation) -> None:
    if stored.format != want.format or stored.shape != want.source.shape:
        raise VerificationError(
            f"tensor {stored.name} is {stored.format} {stored.shape} in the file and should be {want.format} "
            f"{want.source.shape}; the file is not kept."
        )


def _require_inputs(stored: StoredMatrix, want: Inputs) -> None:
    if (stored.activation, stored.outliers) != (want.activation, want.outliers):
        raise VerificationError(
            f"tensor {stored.name} states {stored.outliers} columns in 16 bits and inputs rounded as "
            f"{stored.activation} in the file, and should {want.outliers} and {want.activation}; the file is not kept."
        )


def check_tensor(
    stored: StoredTensor, want: Expectation, workers: Workers, progress: Callable[[int], None], done: int
) -> int:
    """Compare one tensor in bytes per row, slab by slab; returns the source bytes compared so far."""
    _require_stated(stored, want)
    format, source_rows = formats.get(stored.format), _rows_of(want)

    def compare(slab: tuple[int, int]) -> kernels.Compared:
        rows, wanted = stored.slab(*slab), source_rows(*slab)
        if want.numbers == format.name and _same_bytes(rows, wanted):
            return kernels.Compared(np.zeros(len(rows)), np.ones(len(rows)), 0.0)
        if want.numbers not in WEIGHT_TYPES:  # quantized already: the same bytes, or something else
            count = float((rows != wanted).sum())
            return kernels.Compared(np.full(len(rows), count), np.ones(len(rows)), 0.0)
        return kernels.compare_rows(format.name, rows, wanted, want.numbers, format.error_floor)

    return _measure(stored.name, want, compare, workers, progress, done)


def _same_bytes(one: Bytes, other: Bytes) -> bool:
    """Whether rows are byte for byte the same, eight bytes at a time where they can be."""
    if one.shape != other.shape:
        return False
    a, b = np.ascontiguousarray(one).reshape(-1), np.ascontiguousarray(other).reshape(-1)
    return np.array_equal(*((a, b) if a.size % 8 else (a.view(np.uint64), b.view(np.uint64))))


def _measure(
    name: str,
    want: Expectation,
    compare: Callable[[tuple[int, int]], kernels.Compared],
    workers: Workers,
    progress: Callable[[int], None],
    done: int,
) -> int:
    """Compare slab by slab, and the error with the recorded one; returns the source bytes compared so far."""
    source, format = want.source, formats.get(want.format)
    errors: list[Doubles] = []
    squares: list[Doubles] = []
    worst = 0.0
    pieces = row_slabs(source.rows, source.row_bytes, together=max(format.rows, 1))
    for (start, stop), result in workers.in_order(compare, pieces):
        errors.append(result.squared_error)
        squares.append(result.squared)
        worst = max(worst, result.worst)
        done += source.row_bytes * (stop - start)
        progress(done)
    measured = relative_rms(errors, squares)
    # Last bits are as good as independent of the error, so that squares add up.
    near = abs(measured**2 - want.relative_rms**2) <= want.unsure**2
    if not near and not math.isclose(measured, want.relative_rms, rel_tol=TOLERANCE, abs_tol=1e-15):
        raise VerificationError(
            f"tensor {name} is off by {measured:.6g} (relative RMS) when read back and {want.relative_rms:.6g} was "
            "recorded; the file does not hold what was meant and is not kept."
        )
    if want.allowance.kind == "compensated" and measured > COMPENSATED_RMS:
        raise VerificationError(
            f"tensor {name} is off by {measured:.3g} (relative RMS): it is farther from its source than its negative "
            "would be, so it is not kept; choose a wider format or --method nearest."
        )
    if not worst <= max(_BOUNDS.get(want.allowance.kind, format.error_bound), want.unsure):
        raise VerificationError(
            f"tensor {name} has an element off by {worst:.3g} of its span's largest, beyond the "
            f"{format.error_bound:.3g} of {format.name}; its numbers do not suit this format: choose a wider one."
        )
    return done


def _rows_of(want: Expectation) -> Rows:
    """How rows are read, in the file's order and as transforms have left them, in `want.numbers`."""
    if want.turned:
        return partial(_scaled_rows, want, want.turned.reader(want.order), "F32")
    return partial(_scaled_rows, want, partial(_source_rows, want), want.source.format)


def _source_rows(want: Expectation, start: int, stop: int) -> Bytes:
    if want.order is None:
        return want.source.slab(start, stop)
    rows: Bytes = want.source.slab(0, want.source.rows)[want.order[start:stop]]
    return rows


def _scaled_rows(want: Expectation, rows_of: Rows, numbers_are: str, start: int, stop: int) -> Bytes:
    rows = rows_of(start, stop)
    if not want.allowance.scales and not want.add:
        return rows
    numbers = kernels.decode_rows(numbers_are, rows, want.source.cols) + np.float32(want.add)
    if want.allowance.columns is not None:
        numbers *= want.allowance.columns[None, :]
    if want.allowance.rows is not None:
        numbers *= want.allowance.rows[start:stop].reshape(-1, 1)
    scaled: Bytes = numbers.view(np.uint8)
    return scaled


def relative_rms(errors: list[Doubles], squares: list[Doubles]) -> float:
    """sqrt(sum of squared errors / sum of squares) over slabs of rows (rows,); 0 for 0 / 0.

    The rows of all slabs are put together before they are summed, so that the result does not depend on the slabs.

    >>> relative_rms([np.array([0.01]), np.array([0.03])], [np.array([1.0, 3.0])])
    0.1
    """
    error, square = (float(np.concatenate(slabs).sum()) if slabs else 0.0 for slabs in (errors, squares))
    return math.sqrt(error / square) if square > 0 else (0.0 if error == 0 else math.inf)
