"""Inputs that a graph is calibrated with: arrays by the names of its inputs, checked, and given in batches.

An .npz file, or a mapping of arrays, has one array per input, whose first side counts samples. Where samples differ in
length they are numbered instead: NAME/0, NAME/1 and so on, each an array with the sides that the graph wants.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fewbits.errors import CalibrationError
from fewbits.onnx_activations.npz import StoredArray, arrays_of

Array = npt.NDArray[Any]
Batch = dict[str, Array]

BATCH = 8
"""Samples that run together where the graph leaves their number open."""
LEAST = 2
HELD_OUT = 5
"""One sample in so many measures no range: the result is judged on it."""


@dataclass(frozen=True)
class Wanted:
    """An input of a graph."""

    name: str
    dtype: np.dtype[Any]
    sides: tuple[int | None, ...] | None
    """None for a side of any length, and for sides that the graph does not state."""


@dataclass(frozen=True)
class Samples:
    """Calibration inputs: `count` samples, `batch` of which run at once."""

    count: int
    batch: int
    source: str
    _batches: Callable[[], Iterator[Batch]]

    def batches(self) -> Iterator[tuple[bool, Batch]]:
        """Whether a batch is held out to judge by, and the batch; numbers that are none are refused."""
        for number, batch in enumerate(self._batches()):
            for name, array in batch.items():
                _require_finite(name, array, self.source)
            yield self._is_held_out(number), batch

    def first(self, count: int) -> Iterator[tuple[bool, Batch]]:
        """The first `count` batches that are held out; the others are passed over."""
        found = 0
        for held_out, batch in self.batches():
            if held_out and found < count:
                found += 1
                yield held_out, batch
            if found == count:
                return

    def _is_held_out(self, number: int) -> bool:
        """The last of every five batches; where there are fewer, the last."""
        total = -(-self.count // self.batch)
        return number % HELD_OUT == HELD_OUT - 1 or (total < HELD_OUT and number == total - 1)

    @property
    def held_out(self) -> int:
        """Samples to judge by."""
        total = -(-self.count // self.batch)
        sizes = [min(self.batch, self.count - number * self.batch) for number in range(total)]
        return sum(size for number, size in enumerate(sizes) if self._is_held_out(number))


def wanted_inputs(model: Any) -> list[Wanted]:
    """The inputs of a graph that are no constants; raises CalibrationError where one is no tensor of numbers."""
    from onnx import helper

    constants = {tensor.name for tensor in model.graph.initializer}
    found = []
    for value in model.graph.input:
        if value.name in constants:
            continue
        kind = value.type.tensor_type
        if not value.type.HasField("tensor_type") or kind.elem_type in (0, 8):
            raise CalibrationError(
                f"the graph's input {value.name!r} is no tensor of numbers, which calibration cannot give it; take "
                "--to w8a8 without --calibration, which needs no inputs."
            )
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type))
        sides = tuple(side.dim_value or None for side in kind.shape.dim) if kind.HasField("shape") else None
        found.append(Wanted(value.name, dtype, sides))
    return found


def read_samples(given: Any, wanted: list[Wanted]) -> Samples:
    """Samples of an .npz file or a mapping of arrays; raises CalibrationError where they do not fit the graph."""
    if isinstance(given, (list, tuple)) and len(given) == 1:
        given = given[0]
    if isinstance(given, Mapping):
        return _samples({str(name): np.asarray(array) for name, array in given.items()}, wanted, "the mapping given")
    if not isinstance(given, (str, Path)):
        raise CalibrationError(
            "an ONNX graph is calibrated by one .npz file, or by a mapping of arrays; several or texts are none."
        )
    path = Path(given)
    if not path.is_file():
        raise CalibrationError(f"{path} is not there; give an .npz file with the inputs of the graph.")
    return _samples(arrays_of(path), wanted, str(path))


Stored = Mapping[str, Any]
"""Name -> array, in memory or in a file."""


def _samples(arrays: Stored, wanted: list[Wanted], source: str) -> Samples:
    names = {each.name for each in wanted}
    numbered = {name for name in arrays if name not in names and name.rpartition("/")[0] in names}
    if numbered and len(numbered) == len(arrays):
        return _one_by_one(arrays, wanted, source)
    if set(arrays) != names:
        missing, odd = sorted(names - set(arrays)), sorted(set(arrays) - names)
        what = f"lacks {', '.join(missing)}" if missing else f"has {', '.join(odd)}, which the graph does not"
        raise CalibrationError(
            f"{source} {what}: the graph's inputs are {', '.join(sorted(names))}, and the arrays are "
            f"{', '.join(sorted(arrays)) or 'none'}; name each array after its input, or NAME/0, NAME/1 and so on."
        )
    counts = {}
    for each in wanted:
        array = arrays[each.name]
        _require_fit(each, array, each.name, source, samples=True)
        counts[each.name] = array.shape[0] if array.shape else 0
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise CalibrationError(f"{source} has different numbers of samples: {told}; give every input as many.")
    count = next(iter(counts.values()), 0)
    fixed = next((each.sides[0] for each in wanted if each.sides and each.sides[0]), None)
    batch = fixed or max(1, min(BATCH, count // HELD_OUT))
    whole = count // fixed * fixed if fixed else count
    _require_enough(whole, batch, source)

    def batches() -> Iterator[Batch]:
        pieces = [_rows(arrays[each.name], batch) for each in wanted]
        for number, parts in enumerate(zip(*pieces, strict=True)):
            if number * batch < whole:
                yield {each.name: part for each, part in zip(wanted, parts, strict=True)}

    return Samples(whole, batch, source, batches)


def _one_by_one(arrays: Stored, wanted: list[Wanted], source: str) -> Samples:
    """Samples that are numbered, each with the sides of the graph."""
    count = len(arrays) // max(1, len(wanted))
    for number in range(count):
        for each in wanted:
            name = f"{each.name}/{number}"
            if name not in arrays:
                raise CalibrationError(f"{source} lacks {name}; number the samples of every input from 0 on.")
            _require_fit(each, arrays[name], name, source, samples=False)
    _require_enough(count, 1, source)

    def batches() -> Iterator[Batch]:
        for number in range(count):
            yield {each.name: _whole(arrays[f"{each.name}/{number}"]) for each in wanted}

    return Samples(count, 1, source, batches)


def _rows(array: Any, count: int) -> Iterator[Array]:
    if isinstance(array, StoredArray):
        yield from array.rows(count)
        return
    for start in range(0, len(array), count):
        yield array[start : start + count]


def _whole(array: Any) -> Array:
    if not isinstance(array, StoredArray):
        return np.asarray(array)
    if not array.shape:  # a number has no rows
        return np.load(array.path, allow_pickle=False)[array.member.removesuffix(".npy")]  # type: ignore[no-any-return]
    return next(array.rows(array.shape[0]), np.empty(array.shape, array.dtype))


def _require_fit(wanted: Wanted, array: Any, name: str, source: str, *, samples: bool) -> None:
    """Refuse an array of another type, or of sides that the graph does not take."""
    if array.dtype != wanted.dtype:
        raise CalibrationError(
            f"{source} has {name} in {array.dtype}, and the graph's input {wanted.name} is {wanted.dtype}; convert it "
            f"with .astype('{wanted.dtype}')."
        )
    if wanted.sides is None:
        return
    sides = (None, *wanted.sides[1:]) if samples else wanted.sides
    fits = len(array.shape) == len(sides) and all(
        side in (None, found) for side, found in zip(sides, array.shape, strict=True)
    )
    if not fits or (samples and not array.shape):
        shape = ", ".join("any" if side is None else str(side) for side in sides)
        raise CalibrationError(
            f"{source} has {name} in the shape {list(array.shape)}, and the graph's input {wanted.name} is "
            f"[{shape}]{', samples first' if samples else ''}."
        )


def _require_enough(count: int, batch: int, source: str) -> None:
    if count < LEAST * batch:
        raise CalibrationError(
            f"{source} has {count} sample{'' if count == 1 else 's'}, and ranges of so few do not hold for others; "
            f"give at least {LEAST * batch}, and better a hundred."
        )


def _require_finite(name: str, array: Array, source: str) -> None:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise CalibrationError(f"{source} has NaN or infinite numbers in {name}; leave those samples out.")
