"""Decode GGUF's metadata values from a mapped file, never trusting a count before comparing it with the file's size.

The types and their layouts are those of the GGUF specification (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from fewbits.checkpoints.base import Bytes, Value
from fewbits.checkpoints.limits import (
    ARRAY_NUMBERS,
    ARRAY_TEXT_BYTES,
    ARRAY_TEXTS,
    METADATA_TEXT_BYTES,
    TEXT_BYTES,
)
from fewbits.checkpoints.quoting import quoted
from fewbits.checkpoints.strings import Strings
from fewbits.errors import CheckpointError
from fewbits.kernels.module import native_module

_SCALARS: Mapping[int, tuple[str, str]] = MappingProxyType(
    {0: ("uint8", "<u1"), 1: ("int8", "<i1"), 2: ("uint16", "<u2"), 3: ("int16", "<i2"), 4: ("uint32", "<u4")}
    | {5: ("int32", "<i4"), 6: ("float32", "<f4"), 7: ("bool", "|b1"), 10: ("uint64", "<u8"), 11: ("int64", "<i8")}
    | {12: ("float64", "<f8")}
)
"""Type number -> our name of the type and numpy's."""

_STRING, _ARRAY = 8, 9


class Cursor:
    """A position in a mapped GGUF file; every read is checked against the end of the file first.

    `big_endian` says how numbers lie from here on.
    """

    def __init__(self, path: Path, data: Bytes) -> None:
        self.path = path
        self.data = data
        self.position = 0
        self.big_endian = False
        self._view = memoryview(data.data)
        self._left = {"numbers": ARRAY_NUMBERS, "texts": ARRAY_TEXTS, "bytes of text": METADATA_TEXT_BYTES}

    def _spend(self, count: int, kind: str, what: str) -> None:
        """Count `count` of `kind` towards what a file may have; raises CheckpointError where that is more."""
        self._left[kind] -= count
        if self._left[kind] < 0:
            raise CheckpointError(
                f"{self.path}: with {what} there are more {kind} in the metadata than any model has; the file is "
                "damaged or unsafe."
            )

    def take(self, count: int, what: str) -> memoryview:
        """The next `count` bytes; raises CheckpointError when the file ends before them."""
        left = self.data.size - self.position
        if count > left:
            raise CheckpointError(
                f"{self.path} is truncated or damaged: {what} at byte {self.position} needs {count} bytes "
                f"but {left} are left; download it again."
            )
        start = self.position
        self.position += count
        return self._view[start : self.position]

    def uint32(self, what: str) -> int:
        """The next 4 bytes as an unsigned number."""
        return int.from_bytes(self.take(4, what), "big" if self.big_endian else "little")

    def uint64(self, what: str) -> int:
        """The next 8 bytes as an unsigned number."""
        return int.from_bytes(self.take(8, what), "big" if self.big_endian else "little")

    def string(self, what: str) -> str:
        """The next string: 8 bytes of length, then UTF-8."""
        raw = self.take(self.uint64(f"the length of {what}"), what)
        self._spend(len(raw), "bytes of text", what)
        try:
            return str(raw, "utf-8")
        except UnicodeDecodeError:
            raise CheckpointError(f"{self.path} has {what} that is not UTF-8; the file is damaged.") from None

    def strings(self, count: int, what: str) -> Strings | list[str]:
        """The next `count` strings."""
        self._spend(count, "texts", what)
        if self.big_endian:
            return [self.string(f"string {n} of {count} of {what}") for n in range(count)]
        starts = np.empty(count + 1, np.int64)
        whole = native_module().find_strings(self.data, self.position, starts)
        if whole < count:
            raise CheckpointError(
                f"{self.path} is truncated or damaged: string {whole} of {count} of {what} does not end inside "
                "the file or is not UTF-8; download it again."
            )
        self.position = int(starts[-1])
        longest, size = int(np.diff(starts).max(initial=0)), self.position - int(starts[0])
        if longest > TEXT_BYTES or size > ARRAY_TEXT_BYTES:
            raise CheckpointError(
                f"{self.path}: {what} holds {size} bytes, {longest} of them in one text, more than any vocabulary has; "
                "the file is damaged or unsafe."
            )
        return Strings(self._view, starts)

    def value(self, key: str) -> Value:
        """The next typed value, which belongs to metadata key `key`."""
        kind = self.uint32(f"the type of metadata key {quoted(key)}")
        return self._array(key) if kind == _ARRAY else self._scalar(key, kind)

    def _scalar(self, key: str, kind: int) -> Value:
        what = f"metadata key {quoted(key)}"
        if kind == _STRING:
            return Value(self.string(what), "string")
        if kind not in _SCALARS:
            raise CheckpointError(f"{self.path}: {what} has the unknown type number {kind}; the file is damaged.")
        name, _ = _SCALARS[kind]
        return Value(self._numbers(kind, 1, what)[0], name)

    def _array(self, key: str) -> Value:
        what = f"metadata key {quoted(key)}"
        kind, count = self.uint32(f"the element type of {what}"), self.uint64(f"the length of {what}")
        if kind == _ARRAY:
            raise CheckpointError(f"{self.path}: {what} is an array of arrays, which is not supported.")
        if kind == _STRING:
            # Each string takes at least its 8 bytes of length: a bomb is refused before the loop begins.
            if count > (self.data.size - self.position) // 8:
                self.take(count * 8, f"an array of {count} strings in {what}")
            return Value(self.strings(count, what), "array:string")
        if kind not in _SCALARS:
            raise CheckpointError(f"{self.path}: {what} has elements of unknown type {kind}; the file is damaged.")
        return Value(self._numbers(kind, count, what), f"array:{_SCALARS[kind][0]}")

    def _numbers(self, kind: int, count: int, what: str) -> list[Any]:
        name, dtype = _SCALARS[kind]
        self._spend(count, "numbers", what)
        dtype = dtype.replace("<", ">") if self.big_endian else dtype
        raw = self.take(count * np.dtype(dtype).itemsize, what)
        numbers = np.frombuffer(raw, dtype="|u1" if name == "bool" else dtype)
        if name == "bool":
            if numbers.size and int(numbers.max()) > 1:
                raise CheckpointError(f"{self.path}: {what} is a bool that is neither 0 nor 1; the file is damaged.")
            numbers = numbers.astype(np.bool_)
        result: list[Any] = numbers.tolist()
        return result
