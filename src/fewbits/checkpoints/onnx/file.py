"""An ONNX file, opened: its graph as the onnx package has it, and its tensors as mapped views.

Everything that tensors say of themselves is checked before any of them is read: element types, sides, bytes, and where
their data lie. Data in other files are found by relative names that stay beside the graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from fewbits.checkpoints.base import Bytes, StoredTensor
from fewbits.checkpoints.limits import countless
from fewbits.checkpoints.mapping import map_file
from fewbits.checkpoints.onnx.elements import ELEMENTS, STRING, Element
from fewbits.checkpoints.onnx.graphs import all_graphs, all_tensors
from fewbits.checkpoints.onnx.package import onnx_package
from fewbits.checkpoints.onnx.wire import index_of, strip
from fewbits.checkpoints.quoting import quoted
from fewbits.errors import CheckpointError

EXTERNAL = 1
"""TensorProto.DataLocation of a tensor whose data lie in another file."""
_COUNTED = {"location", "offset", "length", "checksum", "basepath"}


@dataclass(frozen=True)
class External:
    """Where the data of a tensor lie outside of the graph's file."""

    path: Path
    offset: int
    length: int | None


class OnnxFile:
    """The graph at `path`; raises CheckpointError, one sentence, where it is none or contradicts itself."""

    def __init__(self, path: Path) -> None:
        onnx = onnx_package()
        self.path = path
        self._bytes = map_file(path)
        skeleton, self._places = strip(memoryview(self._bytes.data), onnx.ModelProto.DESCRIPTOR, str(path))
        self.model = _parsed(onnx, skeleton, path)
        self._data: dict[Path, Bytes] = {}
        _require_graph(self.model, path)
        for tensor in all_tensors(self.model):
            self._check(tensor)
        _require_names(self.model, path)
        self.initializers: dict[str, Any] = {tensor.name: tensor for tensor in self.model.graph.initializer}

    @property
    def files(self) -> tuple[Path, ...]:
        """The graph's file and those that its tensors lie in, each once."""
        return (self.path, *self._data)

    @property
    def opset(self) -> int:
        """The version of the standard operators; 0 where none is imported."""
        return next((int(each.version) for each in self.model.opset_import if each.domain in ("", "ai.onnx")), 0)

    def stored(self, tensor: Any) -> StoredTensor:
        """`tensor`, a TensorProto of this file, as a mapped view where it is large."""
        if tensor.data_type == STRING:
            data = (
                np.empty(0, np.uint8)
                if not tensor.string_data
                else np.frombuffer(b"".join(tensor.string_data), np.uint8)
            )
            return StoredTensor(tensor.name, "STRING", tuple(tensor.dims), data)
        return StoredTensor(tensor.name, _element(tensor).format, tuple(tensor.dims), self.payload(tensor))

    def has_payload(self, tensor: Any) -> bool:
        """Whether the data of `tensor` lie in one piece, and not among the numbers of the graph."""
        return tensor.data_location == EXTERNAL or index_of(tensor.raw_data) is not None

    def payload(self, tensor: Any) -> Bytes:
        """The bytes of `tensor`; a mapped view where it is large."""
        if tensor.data_location == EXTERNAL:
            place = self._external(tensor)
            size = _element(tensor).bytes(tuple(tensor.dims))
            return self._mapped(place.path)[place.offset : place.offset + size]
        index = index_of(tensor.raw_data)
        if index is not None:
            start, size = self._places[index]
            return self._bytes[start : start + size]
        if tensor.HasField("raw_data"):
            return np.frombuffer(tensor.raw_data, np.uint8)
        return _typed_bytes(tensor, self.path)

    def numbers(self, tensor: Any, dtype: str) -> np.ndarray[Any, Any]:
        """The elements of `tensor`, whose bytes are those of the numpy type `dtype`, in its shape."""
        found: np.ndarray[Any, Any] = np.ascontiguousarray(self.payload(tensor)).view(dtype).reshape(tuple(tensor.dims))
        return found

    def _mapped(self, path: Path) -> Bytes:
        if path not in self._data:
            self._data[path] = map_file(path) if path.is_file() and path.stat().st_size else np.empty(0, np.uint8)
        return self._data[path]

    def _external(self, tensor: Any) -> External:
        where = f"tensor {quoted(tensor.name)} in {self.path}"
        told: dict[str, str] = {}
        for entry in tensor.external_data:
            if entry.key in told and entry.key in _COUNTED:
                raise CheckpointError(f"{where} says twice where its data lie ({entry.key}); the file is damaged.")
            told[entry.key] = entry.value
        path = _beside(self.path, told.get("location", ""), where)
        offset = _count(told.get("offset") or "0", "offset", where)
        length = _count(told["length"], "length", where) if told.get("length") else None
        return External(path, offset, length)

    def _check(self, tensor: Any) -> None:
        where = f"tensor {quoted(tensor.name)} in {self.path}"
        if tensor.HasField("segment"):
            raise CheckpointError(f"{where} is in segments, which no reader of ONNX supports; export the model again.")
        dims = tuple(tensor.dims)
        if any(side < 0 for side in dims) or countless(dims):
            raise CheckpointError(f"{where} has the shape {quoted(list(dims))}, which is none; the file is damaged.")
        if tensor.data_type == STRING:
            return
        size = _element(tensor, where).bytes(dims)
        if tensor.data_location == EXTERNAL:
            self._check_external(tensor, size, where)
            return
        index = index_of(tensor.raw_data)
        if index is not None or tensor.HasField("raw_data"):
            found = len(tensor.raw_data) if index is None else self._places[index][1]
            if found != size:
                raise CheckpointError(
                    f"{where} has {found} bytes of data where its shape {quoted(list(dims))} and type call for {size}; "
                    "the file is damaged."
                )
        else:
            _require_typed(tensor, size, where)

    def _check_external(self, tensor: Any, size: int, where: str) -> None:
        place = self._external(tensor)
        if not place.path.is_file():
            raise CheckpointError(
                f"{where} has its data in {quoted(place.path.name)}, which is not beside the graph; "
                "download or copy that file too."
            )
        if place.length not in (None, size):
            raise CheckpointError(
                f"{where} has {place.length} bytes of data where its shape {quoted(list(tensor.dims))} and type call "
                f"for {size}; the file is damaged."
            )
        there = self._mapped(place.path).size
        if place.offset + size > there:
            raise CheckpointError(
                f"{where} has its data at byte {place.offset} of {quoted(place.path.name)}, whose end is at byte "
                f"{there}; download or copy that file again."
            )


def _parsed(onnx: Any, skeleton: bytes, path: Path) -> Any:
    from google.protobuf.message import DecodeError

    model = onnx.ModelProto()
    try:
        model.ParseFromString(skeleton)
    except (DecodeError, RuntimeError, ValueError):
        raise CheckpointError(
            f"{path} is no ONNX file, or a damaged one: it cannot be parsed; export or download it again."
        ) from None
    return model


def _require_graph(model: Any, path: Path) -> None:
    if not model.HasField("graph") or not model.ir_version or not model.opset_import:
        raise CheckpointError(
            f"{path} is no ONNX file: it has no graph, or does not state its version; check the path."
        )
    domains = ["" if each.domain == "ai.onnx" else each.domain for each in model.opset_import]
    if len(set(domains)) < len(domains):
        raise CheckpointError(f"{path} states the version of one set of operators twice; the file is damaged.")
    if any(each.version < 1 for each in model.opset_import):
        raise CheckpointError(f"{path} states a version of operators that is none; the file is damaged.")


def _require_names(model: Any, path: Path) -> None:
    """Every tensor and every result of a graph has a name of its own."""
    for graph in all_graphs(model.graph):
        seen: set[str] = set()
        results = (name for node in graph.node for name in node.output if name)
        for name in _chained((tensor.name for tensor in graph.initializer), results):
            if not name:
                raise CheckpointError(f"{path} has an initializer without a name; the file is damaged.")
            if name in seen:
                raise CheckpointError(f"{path} has two values of the name {quoted(name)}; the file is damaged.")
            seen.add(name)


def _chained(*several: Iterator[str]) -> Iterator[str]:
    for each in several:
        yield from each


def _element(tensor: Any, where: str = "") -> Element:
    found = ELEMENTS.get(tensor.data_type)
    if found is None:
        raise CheckpointError(
            f"{where or quoted(tensor.name)} has the element type {tensor.data_type}, which is not known; a newer "
            "fewbits may know it."
        )
    return found


def _beside(graph: Path, location: str, where: str) -> Path:
    """The file that `location` names in the folder of `graph`; raises CheckpointError where it lies elsewhere."""
    parts = PurePosixPath(location).parts
    outside = PurePosixPath(location).is_absolute() or ".." in parts or PureWindowsPath(location).drive
    if not parts or outside or "\\" in location or "\0" in location:
        raise CheckpointError(
            f"{where} has its data in {quoted(location)}, which is no name of a file beside the graph; it is refused."
        )
    path, folder = graph.parent / location, graph.parent.resolve()
    try:
        path.is_file()
        real = path.resolve()
    except (OSError, RuntimeError):  # a name that is too long, links that go round in circles
        raise CheckpointError(f"{where} has its data in {quoted(location)}, which cannot be looked for.") from None
    # The hub's cache links the graph and its data to files beside each other: that is beside as well.
    if not (real.is_relative_to(folder) or real.parent == graph.resolve().parent):
        raise CheckpointError(
            f"{where} has its data in {quoted(location)}, which is linked to a file elsewhere; it is refused."
        )
    return path


def _count(text: str, what: str, where: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise CheckpointError(f"{where} says {quoted(text)} for the {what} of its data; the file is damaged.")
    return int(text)


_TYPED = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")


def _require_typed(tensor: Any, size: int, where: str) -> None:
    """Raise CheckpointError unless the numbers of `tensor` are as many as its shape calls for."""
    count = sum(len(getattr(tensor, name)) for name in _TYPED)
    if size and count == 0:
        raise CheckpointError(f"{where} has no data; the file is damaged.")
    # Several small elements may share a number, and two numbers make one complex: at most as many as bytes.
    if not size // 16 <= count <= max(8 * size, 1):
        raise CheckpointError(
            f"{where} has {count} numbers, which its shape {quoted(list(tensor.dims))} does not call for; the file is "
            "damaged."
        )


def _typed_bytes(tensor: Any, path: Path) -> Bytes:
    """The bytes of a tensor whose data lie among the numbers of the graph."""
    from onnx import numpy_helper

    element = _element(tensor)
    try:
        array = numpy_helper.to_array(tensor)
        raw = np.frombuffer(numpy_helper.from_array(array).raw_data, np.uint8)
    except Exception as error:  # whatever the package finds wrong
        raise CheckpointError(
            f"tensor {quoted(tensor.name)} in {path} does not hold the numbers that it states ({quoted(str(error))}); "
            "the file is damaged."
        ) from None
    if raw.size != element.bytes(tuple(tensor.dims)):
        raise CheckpointError(
            f"tensor {quoted(tensor.name)} in {path} does not hold as many numbers as it states; it is damaged."
        )
    return raw
