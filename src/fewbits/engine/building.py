"""A program, operation by operation: what `native/engine` runs, said in the words of networks."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fewbits.checkpoints.base import Bytes, StoredTensor
from fewbits.engine.checking import OF_ROPE
from fewbits.engine.rope import Table
from fewbits.engine.source import Source
from fewbits.errors import EngineError
from fewbits.kernels import formats, give_points
from fewbits.kernels.module import native_module
from fewbits.models.network import SCORES

TOKENS, OUTPUTS, SLOTS = range(3)
"""What rows of a buffer stand for: tokens of the batch, those that something is wanted of, choices of experts."""

_ACTIVATIONS = {"silu": 0, "gelu": 1, "gelu_pytorch_tanh": 2, "gelu_new": 2, "gelu_fast": 2, "relu": 3}
_LIMITED = 4


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


def _sides(stored: StoredTensor) -> tuple[int, int, int]:
    """(experts, rows, cols) of a stack of matrices, a matrix, or a row."""
    experts, rows, cols = (1, 1, *stored.shape)[-3:]
    return experts, rows, cols


def _is_mapped(buffer: Bytes) -> bool:
    """Whether the bytes lie in a mapping, whose pages can be given back when they are read no more."""
    owner: Any = buffer
    while isinstance(owner, np.ndarray) and owner.base is not None:
        owner = owner.base
    return isinstance(owner.obj if isinstance(owner, memoryview) else owner, mmap.mmap)


class Builder:
    """Writes the program of one model into a native machine."""

    def __init__(self, source: Source, machine: Any) -> None:
        self.source = source
        self.machine = machine
        self._weights: dict[str, int] = {}
        self._vectors: dict[str, int] = {}
        self._widths: dict[int, int] = {}
        self._rows: dict[int, int] = {}
        self._permuted: dict[tuple[int, int], Place] = {}
        self._experts = 1
        self._multiplied: dict[int, None] = {}

    @property
    def multiplied(self) -> tuple[int, ...]:
        """The machine's numbers of the weights that something is multiplied with, each once, in the program's order."""
        return tuple(self._multiplied)

    def buffer(self, width: int, *, per: int = TOKENS) -> Place:
        """A buffer of `width` numbers a row."""
        place = Place(self.machine.add_buffer(per, width))
        self._widths[place.buffer] = width
        self._rows[place.buffer] = per
        return place

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
        if stored.format not in formats() and stored.format not in native_module().group_types():
            raise EngineError(
                f"{self.source.path}: tensor {name} is stored as {stored.format}, which the engine does not run; "
                "quantize the model to a type that `fewbits formats` lists as native."
            )
        give_points(stored.format)
        spare = _is_mapped(stored.buffer)
        number: int = self.machine.add_weight(stored.format, *_sides(stored), stored.buffer, mapped=spare)
        return number

    def vector(self, name: str, count: int) -> int:
        """The machine's number of the `count` numbers `name`, as floats; -1 where the model has none."""
        if not self.has(name):
            return -1
        if name not in self._vectors:
            numbers = self.source.numbers(name)
            if numbers.size != count:
                raise self._misdescribed(name, f"has {numbers.size} numbers, and {count} are used")
            self._vectors[name] = self.machine.add_vector(numbers.tolist())
        return self._vectors[name]

    def _product(self, source: Place, name: str, out: Place) -> tuple[int, int]:
        """The machine's numbers of a matrix or a stack, and of its bias, after a look at the room on both sides."""
        experts, rows, cols = _sides(self.source.read(name))
        if cols > self._widths[source.buffer] - source.offset or rows > self._widths[out.buffer] - out.offset:
            raise self._misdescribed(name, f"makes {rows} numbers of {cols}, for which there is no room")
        number = self.weight(name)
        self._multiplied[number] = None
        return number, self.vector(name.removesuffix(".weight") + ".bias", experts * rows)

    def _misdescribed(self, name: str, what: str) -> EngineError:
        facts = self.source.architecture.name
        return EngineError(
            f"{self.source.path}: tensor {name} {what}; the facts of {facts} do not describe this model."
        )

    def require_all_used(self) -> None:
        """Raise EngineError where the model has a tensor that the program leaves out."""
        used = {*self._weights, *self._vectors, *OF_ROPE}
        if unused := sorted(set(self.source.reader.names()) - used):
            raise self._misdescribed(unused[0], "is used by nothing")

    def op(self, name: str, numbers: Sequence[int], floats: Sequence[float] = ()) -> None:
        """One operation, as `native/engine/ops_*.cpp` says what it takes."""
        self.machine.add_op(name, list(numbers), list(floats))

    # ---- what networks are made of

    def embed(self, out: Place, weight: str, *, scale: float = 1.0) -> None:
        """Rows of `weight` that tokens name, times `scale`."""
        self.op("embed", (*out.numbers, self.weight(weight)), (scale,))

    def linear(self, source: Place, *outs: Out) -> None:
        """Products of the same numbers with some weights, and their biases where they have one."""
        together: dict[tuple[int, ...], list[Out]] = {}
        for out in outs:
            together.setdefault(self.source.order(out.weight), []).append(out)
        for order, alike in together.items():
            numbers = list(self._in_order(source, order).numbers)
            for out in alike:
                weight, bias = self._product(source, out.weight, out.place)
                numbers += [weight, *out.place.numbers, bias, int(out.adds)]
            self.op("linear", numbers)

    def _in_order(self, source: Place, order: tuple[int, ...]) -> Place:
        """The numbers at `source` in the order of a weight's columns, where that is another one."""
        if not order:
            return source
        kind = len(order), self._rows[source.buffer]
        if kind not in self._permuted:
            self._permuted[kind] = self.buffer(len(order), per=self._rows[source.buffer])
        place = self._permuted[kind]
        self.op("permute", (*place.numbers, *source.numbers, *order))
        return place

    def rms_norm(self, out: Place, source: Place, gain: str, width: int, epsilon: float, *, heads: int = 1) -> None:
        """RMS norm of each of `heads` stretches of `width` numbers (https://arxiv.org/abs/1910.07467, eq. 4)."""
        self.op("rms_norm", (*out.numbers, *source.numbers, self._gain(gain, width), width, heads), (epsilon,))

    def layer_norm(self, out: Place, source: Place, name: str, width: int, epsilon: float) -> None:
        """Layer norm by `name`.weight and, where there is one, `name`.bias (https://arxiv.org/abs/1607.06450)."""
        gain, bias = self._gain(f"{name}.weight", width), self.vector(f"{name}.bias", width)
        self.op("layer_norm", (*out.numbers, *source.numbers, gain, bias, width), (epsilon,))

    def _gain(self, name: str, width: int) -> int:
        if not self.has(name):
            raise self._misdescribed(name, "is missing")
        return self.vector(name, width)

    def gate(self, out: Place, gate: Place, up: Place, activation: str, width: int) -> None:
        """act(gate) * up, or act(gate) where `up` is NOWHERE; raises EngineError for an unknown activation."""
        if activation not in _ACTIVATIONS:
            known = ", ".join(sorted(_ACTIVATIONS))
            raise EngineError(
                f"{self.source.path}: the activation {activation!r} is not one of those that run: {known}."
            )
        self.op("gate", (*out.numbers, *gate.numbers, *up.numbers, _ACTIVATIONS[activation], width))

    def limited_gate(self, out: Place, gate: Place, up: Place, width: int) -> None:
        """(up + 1) * gate * sigmoid(1.702 gate), both limited by 7, as gpt-oss has it."""
        self.op("gate", (*out.numbers, *gate.numbers, *up.numbers, _LIMITED, width))

    def add(self, out: Place, source: Place, width: int, *, factor: float = 1.0) -> None:
        """Out += factor * source."""
        self.op("add", (*out.numbers, *source.numbers, width), (factor,))

    def scale(self, out: Place, width: int, *, factor: float = 1.0, cap: float = 0.0) -> None:
        """Out *= factor; then cap * tanh(out / cap) where there is a cap."""
        self.op("scale", (*out.numbers, width), (factor, cap))

    def weigh(self, out: Place, gate: Place, width: int) -> None:
        """Out *= sigmoid(gate), of one number a row."""
        self.op("weigh", (*out.numbers, *gate.numbers, width))

    def add_positions(self, out: Place, weight: str) -> None:
        """Out += the row of `weight` that each token's position names."""
        self.op("add_position", (*out.numbers, self.weight(weight), 0))

    def add_row(self, out: Place, weight: str, row: int) -> None:
        """Out += one row of `weight`, the same for all tokens."""
        self.op("add_position", (*out.numbers, self.weight(weight), -1 - row))

    def select(self, out: Place, source: Place, width: int) -> None:
        """Rows of the tokens that something is wanted of."""
        self.op("select", (*out.numbers, *source.numbers, width))

    def rope_table(self, table: Table) -> int:
        """A table of angles, one for each pair of columns; sines and cosines are made once per batch."""
        longer = [] if table.longer is None else table.longer.tolist()
        number: int = self.machine.add_rope(table.frequencies.tolist(), table.factor, longer, table.shorter)
        self.op("angles", (number,))
        return number

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

    # ---- experts

    def experts(self, count: int, chosen: int) -> None:
        """Every token goes to `chosen` of `count` experts."""
        self._experts = count
        self.machine.set_experts_per_token(chosen)

    def route(self, scores: Place, experts: int, how: str) -> None:
        """Choose experts by their scores, which become weights by a softmax over all of them or over those chosen."""
        self.op("route", (*scores.numbers, experts, SCORES.index(how), 0), (1.0,))

    def scatter(self, out: Place, source: Place, width: int) -> None:
        """A row of a token for each expert that it goes to, in the order of experts."""
        self.op("scatter", (*out.numbers, *source.numbers, width))

    def expert_linear(self, source: Place, weight: str, out: Place) -> None:
        """Each expert's rows by its matrix in the stack `weight`, and its bias where experts have one."""
        if _sides(self.source.read(weight))[0] != self._experts:
            raise self._misdescribed(weight, f"is not of {self._experts} experts")
        number, bias = self._product(source, weight, out)
        self.op("expert_linear", (*source.numbers, number, *out.numbers, bias))

    def gather(self, out: Place, source: Place, width: int, *, adds: bool) -> None:
        """The weighted sum of what a token's experts say, into `out` or added to it."""
        self.op("gather", (*out.numbers, *source.numbers, width, int(adds)))
