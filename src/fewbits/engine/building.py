"""A program, operation by operation: what `native/engine` runs, said in the words of networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fewbits.checkpoints.base import StoredTensor
from fewbits.engine.source import Source
from fewbits.errors import EngineError
from fewbits.kernels import decode_rows, formats, give_points

TOKENS, OUTPUTS, SLOTS = range(3)
"""What rows of a buffer stand for: tokens of the batch, those that something is wanted of, choices of experts."""

_ACTIVATIONS = {"silu": 0, "gelu": 1, "gelu_pytorch_tanh": 2, "gelu_new": 2, "gelu_fast": 2, "relu": 3}


@dataclass(frozen=True)
class Place:
    """Columns of a buffer, from `offset` on."""

    buffer: int
    offset: int = 0

    def at(self, column: int) -> Place:
        """The same buffer, `column` columns further."""
        return Place(self.buffer, self.offset + column)

    @property
    def numbers(self) -> tuple[int, int]:
        """As operations take it."""
        return self.buffer, self.offset


@dataclass(frozen=True)
class Out:
    """Where the product with a weight goes, and whether it is added to what is there."""

    weight: str
    place: Place
    adds: bool = False


NOWHERE = Place(-1)


class Builder:
    """Writes the program of one model into a native machine, and keeps alive what that machine looks at."""

    def __init__(self, source: Source, machine: Any) -> None:
        self.source = source
        self.machine = machine
        self.kept: list[Any] = []
        self._weights: dict[str, int] = {}
        self._vectors: dict[str, int] = {}

    def buffer(self, width: int, *, per: int = TOKENS) -> Place:
        """A buffer of `width` numbers a row."""
        return Place(self.machine.add_buffer(per, width))

    def has(self, name: str) -> bool:
        """Whether the model has the tensor `name`."""
        return self.source.has(name)

    def weight(self, name: str) -> int:
        """The machine's number of the matrix, or stack of matrices, `name`; raises EngineError for a foreign format."""
        if name not in self._weights:
            stored = self.source.read(name)
            self._weights[name] = self._add(name, stored)
        return self._weights[name]

    def _add(self, name: str, stored: StoredTensor) -> int:
        if stored.format not in formats():
            raise EngineError(
                f"{self.source.path}: tensor {name} is stored as {stored.format}, which the engine does not run; "
                "quantize the model to a type that `fewbits formats` lists as native."
            )
        give_points(stored.format)
        experts, rows = (stored.shape[0], stored.shape[1]) if len(stored.shape) == 3 else (1, stored.rows)
        self.kept.append(stored.buffer)
        number: int = self.machine.add_weight(stored.format, experts, rows, stored.cols, stored.buffer, mapped=True)
        return number

    def vector(self, name: str) -> int:
        """The machine's number of the vector `name`, as floats; -1 where the model has none."""
        if not self.has(name):
            return -1
        if name not in self._vectors:
            self._vectors[name] = self.machine.add_vector(numbers_of(self.source.read(name)))
        return self._vectors[name]

    def op(self, name: str, numbers: Sequence[int], floats: Sequence[float] = ()) -> None:
        """One operation, as `native/engine/ops_*.cpp` says what it takes."""
        self.machine.add_op(name, list(numbers), list(floats))

    # ---- what networks are made of

    def embed(self, out: Place, weight: str, *, scale: float = 1.0) -> None:
        """Rows of `weight` that tokens name, times `scale`."""
        self.op("embed", (*out.numbers, self.weight(weight)), (scale,))

    def linear(self, source: Place, *outs: Out) -> None:
        """Products of the same numbers with some weights, and their biases where they have one."""
        numbers = list(source.numbers)
        for out in outs:
            bias = self.vector(out.weight.removesuffix(".weight") + ".bias")
            numbers += [self.weight(out.weight), *out.place.numbers, bias, int(out.adds)]
        self.op("linear", numbers)

    def rms_norm(self, out: Place, source: Place, gain: str, width: int, epsilon: float, *, heads: int = 1) -> None:
        """RMS norm of each of `heads` stretches of `width` numbers (https://arxiv.org/abs/1910.07467, eq. 4)."""
        self.op("rms_norm", (*out.numbers, *source.numbers, self.vector(gain), width, heads), (epsilon,))

    def layer_norm(self, out: Place, source: Place, name: str, width: int, epsilon: float) -> None:
        """Layer norm by `name`.weight and, where there is one, `name`.bias (https://arxiv.org/abs/1607.06450)."""
        gain, bias = self.vector(f"{name}.weight"), self.vector(f"{name}.bias")
        self.op("layer_norm", (*out.numbers, *source.numbers, gain, bias, width), (epsilon,))

    def gate(self, out: Place, gate: Place, up: Place, activation: str, width: int) -> None:
        """act(gate) * up, or act(gate) where `up` is NOWHERE; raises EngineError for an unknown activation."""
        if activation not in _ACTIVATIONS:
            known = ", ".join(sorted(_ACTIVATIONS))
            raise EngineError(
                f"{self.source.path}: the activation {activation!r} is not one of those that run: {known}."
            )
        self.op("gate", (*out.numbers, *gate.numbers, *up.numbers, _ACTIVATIONS[activation], width))

    def add(self, out: Place, source: Place, width: int, *, factor: float = 1.0) -> None:
        """Out += factor * source."""
        self.op("add", (*out.numbers, *source.numbers, width), (factor,))

    def scale(self, out: Place, width: int, *, factor: float = 1.0, cap: float = 0.0) -> None:
        """Out *= factor; then cap * tanh(out / cap) where there is a cap."""
        self.op("scale", (*out.numbers, width), (factor, cap))

    def select(self, out: Place, source: Place, width: int) -> None:
        """Rows of the tokens that something is wanted of."""
        self.op("select", (*out.numbers, *source.numbers, width))

    def rope_table(self, frequencies: np.ndarray[Any, Any], factor: float = 1.0) -> int:
        """A table of angles, one for each pair of columns; sines and cosines are made once per batch."""
        table: int = self.machine.add_rope([float(x) for x in frequencies], factor)
        self.op("angles", (table,))
        return table

    def rope(self, place: Place, heads: int, width: int, table: int) -> None:
        """Turn pairs of columns of `heads` heads by their token's position (https://arxiv.org/abs/2104.09864)."""
        self.op("rope", (*place.numbers, heads, width, table, int(self.source.neighbours)))

    def cache(self, heads: int, width: int, value_width: int | None = None) -> int:
        """A cache of keys and values of one layer."""
        number: int = self.machine.add_cache(heads, width, value_width or width)
        return number

    def attend(
        self,
        out: Place,
        query: Place,
        keys: Place,
        values: Place,
        *,
        heads: int,
        cache: int,
        scale: float,
        softcap: float = 0.0,
        window: int = 0,
        sinks: int = -1,
        encoder: bool = False,
    ) -> None:
        """Keep keys and values, and let every token look at those up to its own, or with `encoder` at all of them."""
        self.op("store", (*keys.numbers, *values.numbers, cache))
        self.op("attend", (*query.numbers, *out.numbers, heads, cache, window, sinks, int(encoder)), (scale, softcap))


def numbers_of(stored: StoredTensor) -> list[float]:
    """A stored tensor's numbers, decoded, in one line."""
    numbers: list[float] = decode_rows(stored.format, stored.slab(0, stored.rows), stored.cols).ravel().tolist()
    return numbers
