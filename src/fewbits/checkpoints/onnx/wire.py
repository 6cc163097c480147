"""Protobuf as it lies in a file: large tensors are taken out before the rest is parsed, and put in again at the end.

A model is one message, and its weights lie deep inside of it. `strip` walks through the bytes once, by the message
types of the onnx package, and leaves a token in place of everything large, so that what is parsed is small however
large the file is. `spliced` does the opposite with a model that was serialized: it puts payloads where tokens are and
makes the lengths of all messages around them right. Both count what they see, so that a hostile file ends early.
Source: protobuf's encoding, protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fewbits.checkpoints import limits
from fewbits.errors import CheckpointError

TENSOR, RAW = "onnx.TensorProto", 9
"""The message that holds a tensor, and its field with the bytes."""
_SAME_BYTES = {4: 1, 10: 11}
"""float_data and double_data hold the same bytes as raw_data where the data type is FLOAT, or DOUBLE."""
_DATA_TYPE = 2
_SINGLE = {("onnx.ModelProto", 7), (TENSOR, RAW), (TENSOR, _DATA_TYPE)}

_MAGIC = b"fewbits:"
TOKEN_BYTES = 24
"""Of a token; whatever is as long or longer is taken out, so that no tensor can be taken for a token."""
_DEEPEST = 60
"""Messages inside each other: a graph in a node in a graph takes three, and protobuf itself stops at 100."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MESSAGE, _TEXT = 11, 9
_VARINTS = frozenset({3, 4, 5, 8, 13, 14, 17, 18})
"""Types of fields that take one byte packed and eight in memory."""


def token(index: int) -> bytes:
    """What stands for payload `index`.

    >>> token(1), len(token(1))
    (b'fewbits:0000000000000001', 24)
    """
    return _MAGIC + b"%016x" % index


def index_of(data: bytes) -> int | None:
    """The payload that `data` stands for; None where it is no token."""
    return int(data[len(_MAGIC) :], 16) if len(data) == TOKEN_BYTES and data.startswith(_MAGIC) else None


def varint(number: int) -> bytes:
    """`number` in groups of seven bits.

    >>> varint(300)
    b'\\xac\\x02'
    """
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


@dataclass(frozen=True)
class Kind:
    """A type of messages, in Python's own dictionaries: asking protobuf for each field would take most of the time."""

    name: str
    single: frozenset[int]
    """Fields that would mean two things if they were there twice."""
    packed: frozenset[int]
    """Fields of whole numbers, which take one byte packed and eight in memory."""
    texts: frozenset[int]
    """Fields that are texts, which the older protobuf does not look at."""
    inner: dict[int, Kind]
    """Fields that are messages."""

    @staticmethod
    def of(descriptor: Any, known: dict[str, Kind] | None = None) -> Kind:
        """What protobuf says of a type."""
        known = {} if known is None else known
        name = descriptor.full_name
        if name not in known:
            single = frozenset(number for message, number in _SINGLE if message == name)
            packed = frozenset(each.number for each in descriptor.fields if each.type in _VARINTS)
            texts = frozenset(each.number for each in descriptor.fields if each.type == _TEXT)
            known[name] = Kind(name, single, packed, texts, {})
            for each in descriptor.fields:
                if each.type == _MESSAGE:
                    known[name].inner[each.number] = Kind.of(each.message_type, known)
        return known[name]


class Part(NamedTuple):
    """One field: from its tag at `tag`, its content from `start` to `stop`."""

    number: int
    wire: int
    tag: int
    start: int
    stop: int


@dataclass
class Walk:
    """One walk through the bytes of a message, and how much it may still see."""

    data: memoryview
    where: str
    fields: int = limits.ONNX_FIELDS
    packed: int = limits.ONNX_PACKED_BYTES
    payloads: list[tuple[int, int]] = field(default_factory=list)
    """(start, bytes) of what was taken out."""

    def damaged(self, why: str) -> CheckpointError:
        """The error about this file."""
        return CheckpointError(f"{self.where} is no ONNX file, or a damaged one: {why}; export or download it again.")

    def number(self, at: int, stop: int) -> tuple[int, int]:
        """The varint at byte `at`, and where the next byte is."""
        if at < stop and self.data[at] < 128:
            return self.data[at], at + 1
        value = shift = 0
        while at < stop and shift < 70:
            byte = self.data[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value, at
            shift += 7
        raise self.damaged(f"a number at byte {at} has no end")

    def parts(self, start: int, stop: int) -> Iterator[Part]:
        """The fields of the message that lies from `start` to `stop`."""
        at = start
        while at < stop:
            self.fields -= 1
            if self.fields < 0:
                raise CheckpointError(
                    f"{self.where} has more than {limits.ONNX_FIELDS} fields, more than any graph needs; it is refused."
                )
            tag = at
            key, at = self.number(at, stop)
            end = self._end(key & 7, at, stop)
            if key & 7 == _BYTES:
                at = end[0]
            if not (0 < key >> 3 < 1 << 29 and end[1] <= stop):
                raise self.damaged(f"a field at byte {tag} reaches beyond its message")
            yield Part(key >> 3, key & 7, tag, at, end[1])
            at = end[1]

    def _end(self, wire: int, at: int, stop: int) -> tuple[int, int]:
        """Where the content of a field begins and ends."""
        if wire == _VARINT:
            return at, self.number(at, stop)[1]
        if wire == _BYTES:
            size, at = self.number(at, stop)
            return at, at + size
        if wire not in (_FIXED64, _FIXED32):
            raise self.damaged(f"a field at byte {at} is of a kind that is not in use")
        return at, at + (8 if wire == _FIXED64 else 4)

    def rewritten(self, kind: Kind, start: int, stop: int, depth: int, change: Change) -> tuple[list[Any], int] | None:
        """The pieces of a message with what `change` makes of its tensors, and their bytes; None where all stays."""
        if depth > _DEEPEST:
            raise CheckpointError(f"{self.where} has graphs inside of graphs, deeper than any; it is refused.")
        seen: set[int] = set()
        pieces: list[Any] = []
        size, kept = 0, start
        for part in self.parts(start, stop):
            if part.number in kind.single:
                if part.number in seen:
                    raise self.damaged(f"field {part.number} of {kind.name} is there twice")
                seen.add(part.number)
            new = self._inner(kind, part, depth, change) if part.wire == _BYTES else None
            if new is not None:
                head = varint(part.number << 3 | _BYTES) + varint(new[1])
                pieces += [(kept, part.tag), head, *new[0]]
                size += part.tag - kept + len(head) + new[1]
                kept = part.stop
        if kind.name == TENSOR:
            return change(self, start, stop)
        return ([*pieces, (kept, stop)], size + stop - kept) if pieces else None

    def _inner(self, kind: Kind, part: Part, depth: int, change: Change) -> tuple[list[Any], int] | None:
        """The message in a field, rewritten; None where it holds none, or stays."""
        inner = kind.inner.get(part.number)
        if inner is not None:
            return self.rewritten(inner, part.start, part.stop, depth + 1, change)
        if part.number in kind.packed:
            self._count_packed(part)
        elif part.number in kind.texts:
            self._require_text(part)
        return None

    def _require_text(self, part: Part) -> None:
        if part.stop - part.start > limits.ONNX_TEXT_BYTES:
            raise CheckpointError(
                f"{self.where} has a text of {part.stop - part.start} bytes, more than the {limits.ONNX_TEXT_BYTES} "
                "that are read; it is refused."
            )
        try:
            str(self.data[part.start : part.stop], "utf-8")
        except UnicodeDecodeError:
            raise self.damaged(f"the text at byte {part.start} is none in UTF-8") from None

    def _count_packed(self, part: Part) -> None:
        self.packed -= part.stop - part.start
        if self.packed < 0:
            raise CheckpointError(
                f"{self.where} has more than {limits.ONNX_PACKED_BYTES} bytes of whole numbers outside of raw data; "
                "save it with raw data (onnx.numpy_helper.from_array)."
            )


Change = Callable[[Walk, int, int], "tuple[list[Any], int] | None"]


def _take_out(walk: Walk, start: int, stop: int) -> tuple[list[Any], int] | None:
    """A tensor with a token in place of its bytes, where these are many."""
    parts = list(walk.parts(start, stop))
    own = [part for part in parts if part.number == RAW and part.wire == _BYTES]
    kinds = [walk.number(part.start, part.stop)[0] for part in parts if part.number == _DATA_TYPE and part.wire == 0]
    if not own and kinds:
        typed = [part for part in parts if part.number in _SAME_BYTES]
        same = len(typed) == 1 and typed[0].wire == _BYTES and _SAME_BYTES[typed[0].number] == kinds[-1]
        own = typed if same else []
    if len(own) != 1 or own[0].stop - own[0].start < TOKEN_BYTES:
        return None
    taken = own[0]
    head = varint(RAW << 3 | _BYTES) + varint(TOKEN_BYTES) + token(len(walk.payloads))
    walk.payloads.append((taken.start, taken.stop - taken.start))
    size = taken.tag - start + len(head) + stop - taken.stop
    return [(start, taken.tag), head, (taken.stop, stop)], size


def strip(data: memoryview, kind: Any, where: str) -> tuple[bytes, list[tuple[int, int]]]:
    """The message in `data` of the type `kind` with tokens in place of large tensors, and (start, bytes) of each.

    Raises CheckpointError where that is no such message, or one larger than any.
    """
    walk = Walk(data, where)
    found = walk.rewritten(Kind.of(kind), 0, len(data), 0, _take_out)
    pieces, size = found or ([(0, len(data))], len(data))
    if size > limits.ONNX_GRAPH_BYTES:
        raise CheckpointError(
            f"{where} has {size} bytes beside its tensors, more than any graph needs ({limits.ONNX_GRAPH_BYTES}); "
            "it is refused."
        )
    joined = b"".join(each if isinstance(each, bytes) else data[slice(*each)] for each in pieces)
    return joined, walk.payloads


def spliced(data: bytes, kind: Any, sizes: Mapping[int, int]) -> list[bytes | int]:
    """The serialized message `data` as pieces to write one after another; a number is a payload, of `sizes` bytes."""
    view = memoryview(data)
    walk = Walk(view, "the graph")

    def put_in(walk: Walk, start: int, stop: int) -> tuple[list[Any], int] | None:
        for part in walk.parts(start, stop):
            index = index_of(bytes(view[part.start : part.stop])) if part.number == RAW else None
            if index is not None:
                head = varint(RAW << 3 | _BYTES) + varint(sizes[index])
                size = part.tag - start + len(head) + sizes[index] + stop - part.stop
                return [(start, part.tag), head, index, (part.stop, stop)], size
        return None

    found = walk.rewritten(Kind.of(kind), 0, len(data), 0, put_in)
    pieces = found[0] if found else [(0, len(data))]
    return [data[slice(*each)] if isinstance(each, tuple) else each for each in pieces]
