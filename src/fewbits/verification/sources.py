"""Where the verifier finds what a file must hold: the source, read again, by the facts of its architecture alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from fewbits.checkpoints.base import Bytes, Order, Reader, StackedTensor, StoredTensor
from fewbits.checkpoints.configuration import read_configuration
from fewbits.checkpoints.older_names import open_weights
from fewbits.errors import VerificationError
from fewbits.models import EXPERT, Architecture, TensorFact, for_gguf
from fewbits.verification.numbers import ReadNumbers
from fewbits.verification.rotation import Turned, expect_rotated


@dataclass(frozen=True)
class Origin:
    """What a tensor of the target is made of: rows of `source` in `order`, plus `add`."""

    source: StoredTensor
    order: Order | None = None
    add: float = 0.0


@dataclass(frozen=True)
class Columns(StoredTensor):
    """The columns of a matrix as rows; `buffer` is that of the matrix."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.buffer.size // self.rows

    def slab(self, start: int, stop: int) -> Bytes:
        """Columns `start` to `stop` of the matrix, one after another."""
        size = self.buffer.size // self.elements
        table = self.buffer.view(f"V{size}").reshape(self.cols, self.rows)
        picked = [np.ascontiguousarray(table[:, column]).view(np.uint8) for column in range(start, stop)]
        return np.stack(picked) if picked else np.empty((0, self.row_bytes), np.uint8)


def turn(matrix: StoredTensor) -> StoredTensor:
    """`matrix` (cols, rows) as (rows, cols)."""
    return Columns(matrix.name, matrix.format, matrix.shape[::-1], matrix.buffer)


def expect_directory(
    path: Path, file: Reader, quantized: Reader | None = None, *, pickles: bool = False
) -> dict[str, Origin]:
    """Target name -> origin for the model directory `path`, from its configuration alone.

    Of a directory that is quantized already, `quantized` reads the tensors.
    """
    config = read_configuration(path, quantized=quantized is not None)
    reader = quantized or open_weights(path, pickles=pickles)[0]
    facts = config.architecture.stored(config.values, config.layers, reader.names())
    ordered = any(fact.order for _, fact in facts.values())
    width, keys = (_head_width(file), _key_heads(file)) if ordered else (0, 0)
    found: dict[str, Origin] = {}
    for name, (source, fact) in facts.items():
        if fact.aside:
            continue
        if fact.view:
            found[name] = Origin(_part(reader.read(source), fact, config.widths))
            continue
        parts = [reader.read(own) for own in _each_expert(source, config.experts)]
        tensor = StackedTensor.of(source, parts) if fact.stacked else parts[0]
        tensor = _behind(tensor, config.values[fact.after]) if fact.after else tensor
        tensor = turn(tensor) if fact.transposed else tensor
        tensor = StoredTensor(source, tensor.format, tensor.shape[1:], tensor.buffer) if fact.flat else tensor
        order = _ORDERS[fact.order](tensor.rows, width, keys) if fact.order else None
        found[name] = Origin(tensor, order, fact.add)
    return found


@dataclass(frozen=True)
class Taken(StoredTensor):
    """Numbers of `whole`, each looked up by its place there; of whole rows the bytes, which may be codes.

    A place on a side of this tensor is `first` and `step` times as many there, where a side has `sizes` lines. Where it
    is `turned`, the last two sides change places.
    """

    whole: StoredTensor | None = None
    sizes: tuple[int, ...] = ()
    first: tuple[int, ...] = ()
    step: tuple[int, ...] = ()
    turned: bool = False

    @property
    def in_whole_rows(self) -> bool:
        """Whether a row is one of the whole."""
        return not self.turned and self.sizes[-1] == self.shape[-1]

    @property
    def bytes(self) -> int:
        """Stored bytes."""
        return self.rows * self.row_bytes

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        assert self.whole is not None
        each = self.whole.row_bytes
        return each if self.in_whole_rows else each // self.whole.cols * self.cols

    def slab(self, start: int, stop: int) -> Bytes:
        """Rows `start` to `stop`."""
        assert self.whole is not None
        if start == stop:
            return np.empty((0, self.row_bytes), np.uint8)
        rows = np.unravel_index(np.arange(start, stop), self.shape[:-1])
        places = [np.asarray(each)[:, None] for each in rows] + [np.arange(self.shape[-1])[None]]
        if self.turned:
            places[-2:] = places[:-3:-1]
        own = [f + s * place for f, s, place in zip(self.first, self.step, places, strict=True)]
        lines, columns = own[0], own[-1]
        for size, place in zip(self.sizes[1:-1], own[1:-1], strict=True):
            lines = lines * size + place
        first = int(lines.min())
        stored = self.whole.slab(first, int(lines.max()) + 1)
        if self.in_whole_rows:
            return stored[lines[:, 0] - first]
        numbers = stored.reshape(len(stored), self.whole.cols, -1)
        return numbers[lines - first, columns].reshape(stop - start, self.row_bytes)


def _part(whole: StoredTensor, fact: TensorFact, widths: Mapping[str, int]) -> StoredTensor:
    """The part of `whole` that a tensor of `fact` holds."""
    sizes, first, step = [], [], []
    turned, sides = fact.transposed, list(fact.view)
    if turned and isinstance(whole, ReadNumbers):  # quantized stacks have rows as rows
        turned, sides[-2:] = False, sides[:-3:-1]
    for side in sides:
        alternating, behind = (side.replace(" ", "").split(mark) for mark in ":+")
        several = len(alternating) > 1
        sizes.append(sum(widths[name] for name in (alternating if several else behind)))
        before = behind[: fact.take] if len(behind) > 1 else []
        first.append(fact.take if several else sum(widths[name] for name in before))
        step.append(len(alternating))
    shape = tuple(widths[side] for side in fact.shape)
    return Taken(
        whole.name,
        whole.format,
        shape,
        whole.buffer[:0],
        whole,
        tuple(sizes),
        tuple(first),
        tuple(step),
        turned,
    )


def _behind(tensor: StoredTensor, row: int) -> StoredTensor:
    """The rows of a table behind row `row`."""
    rows, width = tensor.shape
    size = tensor.buffer.size // rows
    return StoredTensor(tensor.name, tensor.format, (rows - row - 1, width), tensor.buffer[(row + 1) * size :])


def _each_expert(source: str, experts: int) -> list[str]:
    """The names in a checkpoint of what a fact calls `source`."""
    return [source.replace(EXPERT, str(n)) for n in range(experts)] if EXPERT in source else [source]


def tensors_of(path: Path, *, pickles: bool = False) -> dict[str, str]:
    """Source name -> target name of every weight that the model in directory `path` must have, or has beside it."""
    config = read_configuration(path)
    reader, _ = open_weights(path, pickles=pickles)
    present = set(reader.names())
    facts = config.architecture.stored(config.values, config.layers, present)
    needed = {name: source for name, (source, fact) in facts.items() if not fact.aside or source in present}
    return {own: name for name, source in needed.items() for own in _each_expert(source, config.experts)}


def stored_directory(path: Path, *, pickles: bool = False) -> dict[str, StoredTensor]:
    """Source name -> tensor of every weight of the model in directory `path`, rows being outputs."""
    config = read_configuration(path)
    reader, _ = open_weights(path, pickles=pickles)
    facts = config.architecture.stored(config.values, config.layers, reader.names())
    turned = {source for source, fact in facts.values() if fact.transposed and not fact.view}
    return {
        name: turn(reader.read(name)) if name in turned else reader.read(name)
        for name in tensors_of(path, pickles=pickles)
    }


def expect_gguf(reader: Reader) -> dict[str, Origin]:
    """Target name -> origin for a GGUF source: the same name, rows as they are."""
    return {name: Origin(reader.read(name)) for name in reader.names()}


def rotated_directory(path: Path, seed: int, *, pickles: bool = False) -> dict[str, Turned]:
    """Target name -> what must have become of each tensor of the model in directory `path`, rotated by `seed`."""
    config = read_configuration(path)
    reader, _ = open_weights(path, pickles=pickles)
    sources = {name: reader.read(name) for name in tensors_of(path, pickles=pickles)}
    return _rotated(config.architecture, config.layers, config.values["num_key_value_heads"], sources, seed)


def rotated_gguf(file: Reader, seed: int) -> dict[str, Turned]:
    """The same for a GGUF source."""
    name = file.metadata["general.architecture"].value
    architecture, layers = for_gguf(name), int(file.metadata[f"{name}.block_count"].value)
    heads = file.metadata.get(f"{name}.attention.head_count_kv") or file.metadata[f"{name}.attention.head_count"]
    names, present = _names(architecture, layers), set(file.names())
    sources = {source: file.read(target) for target, source in names.items() if target in present}
    return _rotated(architecture, layers, int(heads.value), sources, seed)


def _rotated(
    architecture: Architecture, layers: int, key_heads: int, sources: Mapping[str, StoredTensor], seed: int
) -> dict[str, Turned]:
    found = expect_rotated(architecture, layers, key_heads, sources, seed)
    return {target: found[name] for target, name in _names(architecture, layers).items() if name in found}


def _names(architecture: Architecture, layers: int) -> dict[str, str]:
    """Target name -> name in transformers of every tensor that a model of this architecture can have."""
    return {
        fact.gguf.format(layer=layer): fact.source.format(layer=layer)
        for fact in architecture.tensors
        for layer in (range(layers) if fact.layered else [0])
    }


def _head_width(file: Reader) -> int:
    name = file.metadata["general.architecture"].value
    stated = file.metadata.get(f"{name}.attention.key_length") or file.metadata.get(f"{name}.rope.dimension_count")
    if stated is None:
        raise VerificationError(f"{file.path} does not state the width of its heads; it is not kept.")
    return int(stated.value)


def _key_heads(file: Reader) -> int:
    """Heads of keys and of values; those of queries where the file says nothing else."""
    name = file.metadata["general.architecture"].value
    stated = file.metadata.get(f"{name}.attention.head_count_kv") or file.metadata[f"{name}.attention.head_count"]
    return int(stated.value)


def _parts(rows: int, width: int, keys: int) -> Order:
    """Source row of each row in the file: queries, keys and values, which lie there by the `keys` heads of keys.

    There a head's queries come first, then its key, then its value.
    """
    found = []
    shared = rows // width // keys - 2
    for row in range(rows):
        head, within = divmod(row, width)
        group, place = divmod(head, shared)
        if head >= shared * keys:  # behind the queries: all keys, then all values
            kind, group = divmod(head - shared * keys, keys)
            place = shared + kind
        found.append((group * (shared + 2) + place) * width + within)
    return np.array(found, np.int64)


def _pairs(rows: int, width: int, _: int) -> Order:
    """Source row of each row in the file: row i of a head comes from i // 2, an odd one from the upper half."""
    row = np.arange(rows, dtype=np.int64)
    within = row % width
    return row - within + within // 2 + (within % 2) * (width // 2)


_ORDERS = MappingProxyType({"rope": _pairs, "qkv": _parts})
