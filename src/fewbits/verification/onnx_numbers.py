"""The stranger's reading of ONNX graphs: what each node multiplies with or looks up, by one equation per operator."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fewbits.checkpoints.base import StoredTensor
from fewbits.checkpoints.onnx.file import OnnxFile
from fewbits.errors import VerificationError
from fewbits.mapped import mapped
from fewbits.verification.dialects import Floats, Reading, scaled
from fewbits.verification.fields import unpacked
from fewbits.verification.sources import turn

Bytes = npt.NDArray[np.uint8]

_SIGNED, _UNSIGNED = {3: 8, 22: 4, 26: 2}, {2: 8, 21: 4, 25: 2}
"""TensorProto.DataType of codes -> bits."""
_SCALES = {1: "<f4", 10: "<f2"}


@dataclass(frozen=True)
class View:
    """A model, and the bytes of its tensors."""

    model: Any
    bytes_of: Callable[[Any], Bytes]
    constants: dict[str, Any] = field(default_factory=dict)
    decoders: dict[str, Any] = field(default_factory=dict)
    """Result -> the DequantizeLinear that makes it of constants."""

    @staticmethod
    def of(model: Any, bytes_of: Callable[[Any], Bytes]) -> View:
        """`model` with its constants and decoders by name."""
        constants = {tensor.name: tensor for tensor in model.graph.initializer}
        nodes = (node for graph in graphs_of(model.graph) for node in graph.node)
        found = (node for node in nodes if _decodes(node) and node.input[0] in constants)
        return View(model, bytes_of, constants, {node.output[0]: node for node in found})


@dataclass(frozen=True)
class Meaning:
    """A product: `input` times `matrix`, a constant of the graph or codes that are one, plus `bias`; or a lookup."""

    input: str
    matrix: str
    bias: str
    reading: Reading
    nodes: tuple[Any, ...]
    looked_up: bool = False
    told: bytes = b""
    """What else the operator is told, where that means something: the strides of Conv."""


def open_graph(path: Path, data: Path) -> View:
    """The graph written at `path`, whose large tensors lie in `data`."""
    import onnx

    model = onnx.load_model(str(path), load_external_data=False)

    def bytes_of(tensor: Any) -> Bytes:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            return np.frombuffer(tensor.raw_data, np.uint8)
        told = {entry.key: entry.value for entry in tensor.external_data}
        if f".{told['location']}.partial" != data.name:
            raise VerificationError(f"tensor {tensor.name} has its data in {told['location']}; the file is not kept.")
        start, size = int(told["offset"]), int(told["length"])
        return np.frombuffer(mapped(data), np.uint8)[start : start + size]

    return View.of(model, bytes_of)


def view_of(file: OnnxFile) -> View:
    """The source."""
    return View.of(file.model, file.payload)


def float_sources(file: OnnxFile) -> dict[str, StoredTensor]:
    """Name -> numbers, rows being outputs, of every float constant as the first product with it, or lookup, has it."""
    view, found = view_of(file), dict[str, StoredTensor]()
    nodes = [node for graph in graphs_of(file.model.graph) for node in graph.node if len(node.input) > 1]
    for node in sorted(nodes, key=lambda node: node.op_type == "Gather"):
        name = node.input[_PLACES.get(node.op_type, 0)] if node.op_type in _PLAIN else ""
        if name not in view.constants or name in found or len(view.constants[name].dims) < 2:
            continue
        stored = file.stored(view.constants[name])
        if len(stored.shape) > 2:
            shape = (stored.shape[0], stored.elements // stored.shape[0])
            stored = StoredTensor(stored.name, stored.format, shape, stored.buffer)
        found[name] = turn(stored) if _PLAIN[node.op_type](node) else stored
    return found


def number_sources(file: OnnxFile) -> dict[str, Reading]:
    """Name of codes -> what products with them see, of a source that is quantized already."""
    view = view_of(file)
    meanings = (meaning_of(view, node) for graph in graphs_of(file.model.graph) for node in graph.node)
    return {each.matrix: each.reading for each in meanings if each is not None}


def multiplied(view: View) -> set[str]:
    """Names of constants, or of codes, that something multiplies with."""
    meanings = (meaning_of(view, node) for graph in graphs_of(view.model.graph) for node in graph.node)
    return {each.matrix for each in meanings if each is not None and not each.looked_up}


def _decodes(node: Any) -> bool:
    return node.op_type == "DequantizeLinear" and len(node.input) > 1 and len(node.output) == 1


def graphs_of(graph: Any) -> Iterator[Any]:
    """`graph` and those inside of its nodes."""
    yield graph
    for node in graph.node:
        for inner in inner_of(node):
            yield from graphs_of(inner)


def inner_of(node: Any) -> Iterator[Any]:
    """The graphs that a node holds."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _number(node: Any, name: str, default: float) -> Any:
    found = {each.name: each.f if each.type == 1 else each.i for each in node.attribute}
    return found.get(name, default)


_PLAIN: Mapping[str, Callable[[Any], bool]] = {
    "MatMul": lambda _: True,
    "Gemm": lambda node: not _number(node, "transB", 0),
    "Conv": lambda _: False,
    "Gather": lambda _: False,
}
"""Operators that have a matrix -> whether a column of it makes an output."""
_PLACES = {"MatMul": 1, "Gemm": 1, "Conv": 1, "Gather": 0}
"""Which input the matrix is."""


def meaning_of(view: View, node: Any) -> Meaning | None:
    """What a node multiplies with what constant; None where it does something else.

    Raises VerificationError where constants do not fit the node or each other.
    """
    try:
        return _meaning_of(view, node)
    except (KeyError, IndexError, ValueError, ZeroDivisionError, OverflowError):
        where = node.name or next(iter(node.output), "")
        raise VerificationError(f"the product {where!r} cannot be read as its operator says; it is not kept.") from None


def _meaning_of(view: View, node: Any) -> Meaning | None:
    if node.op_type == "MatMulNBits":
        bias = node.input[5] if len(node.input) > 5 else ""
        return Meaning(node.input[0], node.input[1], bias, _packed(view, node), (node,))
    if node.op_type == "GatherBlockQuantized":
        return Meaning(node.input[1], node.input[0], "", _table(view, node), (node,), looked_up=True)
    if node.op_type not in _PLAIN or len(node.input) < 2:
        return None
    if node.op_type == "Gemm" and not _is_simple(node):
        return None
    if node.op_type == "Gather" and _number(node, "axis", 0):
        return None
    place, turned = _PLACES[node.op_type], _PLAIN[node.op_type](node)
    name, bias = node.input[place], node.input[2] if len(node.input) > 2 else ""
    if name in view.decoders:
        decoder = view.decoders[name]
        matrix, reading = decoder.input[0], _decoded(view, decoder, turned=turned)
    elif name in view.constants:
        dims = tuple(view.constants[name].dims)
        matrix, reading = name, Reading((dims[0], math.prod(dims[1:])), frozenset({name}), _no_numbers)
    else:
        return None
    told = b"".join(sorted(each.SerializeToString() for each in node.attribute)) if node.op_type == "Conv" else b""
    return Meaning(node.input[1 - place], matrix, bias, reading, (node,), looked_up=not place, told=told)


def _is_simple(node: Any) -> bool:
    return bool(not _number(node, "transA", 0) and _number(node, "alpha", 1) == 1 == _number(node, "beta", 1))


def _no_numbers(start: int, stop: int) -> Floats:
    raise VerificationError(f"rows {start} to {stop} of a matrix that should be quantized are not; it is not kept.")


def _packed(view: View, node: Any) -> Reading:
    """MatMulNBits: rows of codes, counted from the lowest, then scales and zero points row by row."""
    rows, cols, size, bits = (int(_number(node, name, 4)) for name in ("N", "K", "block_size", "bits"))
    groups = -(-cols // size)
    codes = view.bytes_of(view.constants[node.input[1]]).reshape(rows, -1)
    scale = view.constants[node.input[2]]
    scales = view.bytes_of(scale).view(_SCALES[scale.data_type]).reshape(rows, groups)
    names = {node.input[1], node.input[2]}
    zeros = None
    if len(node.input) > 3 and node.input[3]:
        names.add(node.input[3])
        zeros = view.bytes_of(view.constants[node.input[3]]).reshape(rows, -1)
    few = 8 * codes.shape[1] < cols * bits or (zeros is not None and 8 * zeros.shape[1] < groups * bits)
    if min(bits, cols) < 1 or few:
        raise ValueError("there are fewer codes than columns")

    def numbers(start: int, stop: int) -> Floats:
        found = unpacked(codes[start:stop], bits, cols).astype(np.float32)
        middle = np.full((stop - start, groups), 2 ** (bits - 1), np.float32)
        zero = middle if zeros is None else unpacked(zeros[start:stop], bits, groups).astype(np.float32)
        return scaled(found, zero, scales[start:stop], np.arange(cols) // size)

    return Reading((rows, cols), frozenset(names), numbers)


def _table(view: View, node: Any) -> Reading:
    """GatherBlockQuantized: codes and zero points of whole numbers row by row, in bytes or in types of their own."""
    codes, scale = view.constants[node.input[0]], view.constants[node.input[2]]
    zero = view.constants[node.input[3]] if len(node.input) > 3 and node.input[3] else None
    bits, size = int(_number(node, "bits", 4)), int(_number(node, "block_size", 128))
    in_bytes = codes.data_type == 2
    rows, cols = int(codes.dims[0]), int(codes.dims[1]) * (8 // bits if in_bytes else 1)
    groups = -(-cols // size)
    scales = view.bytes_of(scale).view(_SCALES[scale.data_type]).reshape(rows, groups)
    along = (_number(node, "gather_axis", 0), _number(node, "quantize_axis", 1) % 2)
    if along != (0, 1) or (zero is not None and zero.data_type != codes.data_type):
        raise ValueError("rows are looked up, and columns have groups")

    def stored(tensor: Any, part: slice, count: int) -> Floats:
        if in_bytes:
            lines = view.bytes_of(tensor).reshape(rows, -1)[part]
            return unpacked(np.ascontiguousarray(lines), bits, count).astype(np.float32)
        return _codes(view, tensor, slice(None)).reshape(rows, count)[part].astype(np.float32)

    def numbers(start: int, stop: int) -> Floats:
        part = slice(start, stop)
        middle = np.full((stop - start, groups), 2 ** (bits - 1) if in_bytes else 0, np.float32)
        zeros = middle if zero is None else stored(zero, part, groups)
        return scaled(stored(codes, part, cols), zeros, scales[part], np.arange(cols) // size)

    return Reading((rows, cols), frozenset(name for name in (node.input[0], *node.input[2:]) if name), numbers)


def _decoded(view: View, node: Any, *, turned: bool) -> Reading:
    """DequantizeLinear: codes as the matrix lies in the graph, and scales for all, for a side, or for groups of one."""
    codes, scale = (view.constants[name] for name in node.input[:2])
    dims, lines = tuple(codes.dims), tuple(scale.dims)
    scales = view.bytes_of(scale).view(_SCALES[scale.data_type]).reshape(lines)
    zero = view.constants[node.input[2]] if len(node.input) > 2 and node.input[2] else None
    axis, size = int(_number(node, "axis", 1)) % len(dims), int(_number(node, "block_size", 0))
    wanted: tuple[int, ...] = (dims[axis],)
    if size:  # groups lie along the columns of the matrix
        wanted = tuple(side // size if place == axis else side for place, side in enumerate(dims))
        whole = axis == 1 - int(turned) and wanted[axis] * size == dims[axis]
    else:
        whole = lines in ((), (1,)) or axis == int(turned)
        wanted = lines if lines in ((), (1,)) else wanted
    kinds = {codes.data_type, codes.data_type if zero is None else zero.data_type}
    fits = whole and lines == wanted and kinds <= {*_SIGNED, *_UNSIGNED} and len(kinds) == 1
    sides = len(dims) == 2 or (len(dims) > 2 and not turned and not size)
    if not sides or not fits or (zero is not None and tuple(zero.dims) != lines):
        raise ValueError("scales do not fit codes")

    def spread(numbers: npt.NDArray[Any], part: slice) -> Floats:
        """Scales or zero points as they stand beside the codes of these rows."""
        if numbers.size == 1 and not size:
            whole = numbers.reshape(1, 1)
        elif not size:
            whole = numbers[None, :] if axis == 1 else numbers[:, None]
        else:
            whole = numbers
        whole = whole.T if turned else whole
        rows = whole[part] if whole.shape[0] > 1 else whole
        return (np.repeat(rows, size, axis=1) if size else rows).astype(np.float32)

    def numbers(start: int, stop: int) -> Floats:
        part = slice(start, stop)
        steps = np.ascontiguousarray(_rows_of_codes(view, codes, part, turned=turned), np.float32)
        if zero is not None:
            steps -= spread(_codes(view, zero, slice(None)).reshape(lines), part)
        steps *= spread(scales, part)
        return steps

    shape = (dims[0], math.prod(dims[1:]))
    return Reading(dims[::-1] if turned else shape, frozenset(name for name in node.input if name), numbers)


def _rows_of_codes(view: View, tensor: Any, part: slice, *, turned: bool) -> npt.NDArray[np.int16]:
    """Codes of these rows; of columns of the tensor, where it lies turned."""
    found = _codes(view, tensor, part if turned else slice(None), columns=turned)
    return found.T if turned else found.reshape(found.shape[0], -1)[part]


def _codes(view: View, tensor: Any, part: slice, *, columns: bool = False) -> npt.NDArray[np.int16]:
    """The codes of a tensor, or of some of its columns, in its shape."""
    kind, dims = tensor.data_type, tuple(tensor.dims)
    bits = {**_SIGNED, **_UNSIGNED}[kind]
    width = dims[-1] if dims else 1
    data, each = view.bytes_of(tensor), 8 // bits
    if columns and width % each == 0:
        first, last = part.start // each, -(-part.stop // each)
        lines = data.reshape(-1, width // each)[:, first:last]
        codes = unpacked(np.ascontiguousarray(lines), bits, (last - first) * each)
        codes = codes[:, part.start - first * each : part.stop - first * each]
    else:
        count = int(np.prod(dims, dtype=np.int64))
        codes = unpacked(data.reshape(1, -1), bits, count).reshape(dims)
        codes = codes[..., part] if columns else codes
    middle = 1 << (bits - 1)
    return (codes ^ middle) - middle if kind in _SIGNED else codes
