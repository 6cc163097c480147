"""The stranger's reading of ONNX graphs: what each product multiplies with, and that all else is as it was.

The written graph is parsed by the onnx package, in one piece, where the writer has put its bytes together; its nodes
are met by the names of their results, and its numbers come from equations of their own. Success is refused unless every
node of the source is there, unchanged or as the same product with numbers of the matrix that it had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fewbits.checkpoints.base import StoredTensor
from fewbits.checkpoints.onnx.file import OnnxFile
from fewbits.digest import OutputDigest, sha256_of_parts
from fewbits.errors import VerificationError
from fewbits.mapped import mapped
from fewbits.verification import Expectation, verify_readings
from fewbits.verification_dialects import Floats, Reading, scaled
from fewbits.verification_fields import unpacked
from fewbits.verification_sources import turn
from fewbits.workers import Workers

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
        nodes = (node for graph in _graphs(model.graph) for node in graph.node)
        found = (node for node in nodes if node.op_type == "DequantizeLinear" and node.input[0] in constants)
        return View(model, bytes_of, constants, {node.output[0]: node for node in found})


@dataclass(frozen=True)
class Meaning:
    """A product: `input` times `matrix`, a constant of the graph or codes that are one, plus `bias`."""

    input: str
    matrix: str
    bias: str
    reading: Reading
    nodes: tuple[Any, ...]


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
    """Name -> numbers, rows being outputs, of every float constant that the first product with it multiplies with."""
    view, found = view_of(file), dict[str, StoredTensor]()
    for graph in _graphs(file.model.graph):
        for node in graph.node:
            name = node.input[1] if node.op_type in _PLAIN and len(node.input) > 1 else ""
            if name in view.constants and name not in found and len(view.constants[name].dims) == 2:
                stored = file.stored(view.constants[name])
                found[name] = turn(stored) if _PLAIN[node.op_type](node) else stored
    return found


def number_sources(file: OnnxFile) -> dict[str, Reading]:
    """Name of codes -> what products with them see, of a source that is quantized already."""
    view = view_of(file)
    meanings = (_meaning(view, node) for graph in _graphs(file.model.graph) for node in graph.node)
    return {each.matrix: each.reading for each in meanings if each is not None}


def verify_onnx(
    written: tuple[Path, Path],
    source: OnnxFile,
    expected: Mapping[str, Expectation],
    workers: Workers,
    progress: Callable[[int, int], None],
) -> OutputDigest:
    """Check the graph and the tensors beside it in `written` and return their SHA-256; raises VerificationError.

    `expected` says by the name of a source's constant, or of its codes, what must have become of it.
    """
    path, data = written
    files = (path, data) if data.exists() else (path,)
    digest = workers.submit(lambda: sha256_of_parts(files, workers.cancelled))
    comparison = Comparison(view_of(source), open_graph(path, data), path, set(expected))
    comparison.run()
    verify_readings(expected, comparison.readings, workers, progress)
    return digest.result()


class Comparison:
    """Source and output, node by node; `readings` has what each of the `wanted` matrices is read as, by name."""

    def __init__(self, source: View, written: View, path: Path, wanted: set[str]) -> None:
        self.source, self.written, self.path, self.wanted = source, written, path, wanted
        self.readings: dict[str, Reading] = {}
        self._matrices: dict[str, str] = {}
        self._new: set[str] = set()
        self._gone: set[str] = set()

    def run(self) -> None:
        """Compare all; raises VerificationError."""
        self._compare_models()
        self._compare_graphs(self.source.model.graph, self.written.model.graph)
        self._compare_constants()
        missing = sorted(self.wanted - set(self.readings))
        if missing:
            raise self._wrong(f"no product has the matrix {missing[0]}")

    def _wrong(self, what: str) -> VerificationError:
        return VerificationError(f"{self.path} is not its source, quantized: {what}; it is not kept.")

    def _compare_models(self) -> None:
        """Everything beside the graph, where only versions may be higher and domains more."""
        ours, theirs = (type(view.model)() for view in (self.source, self.written))
        for copy, view in ((ours, self.source), (theirs, self.written)):
            copy.CopyFrom(view.model)
            copy.ClearField("graph")
            copy.ClearField("ir_version")
            del copy.opset_import[:]
        versions = {each.domain: each.version for each in self.written.model.opset_import}
        needed = {node.domain for graph in _graphs(self.written.model.graph) for node in graph.node} | {"", "ai.onnx"}
        needed |= {node.domain for function in theirs.functions for node in function.node}
        gone = {node.domain for graph in _graphs(self.source.model.graph) for node in graph.node} - needed
        stated = [each for each in self.source.model.opset_import if each.domain not in gone]
        kept = all(versions.get(each.domain, 0) >= each.version for each in stated) and not needed - {
            *versions,
            "",
            "ai.onnx",
        }
        if not kept or ours != theirs or self.written.model.ir_version < self.source.model.ir_version:
            raise self._wrong("versions, metadata or functions differ")

    def _compare_graphs(self, source: Any, written: Any) -> None:
        makers = {name: node for node in written.node for name in node.output if name}
        used: set[str] = set()
        for node in source.node:
            name = next((each for each in node.output if each), "")
            made = makers.get(name)
            if made is not None and self._same(node, made):
                used.add(name)
                continue
            if made is None and node.output[0] in self.source.decoders:
                continue  # of a matrix that products decode by themselves now; they say which
            used |= {name for each in self._compare_products(node, made, makers) for name in each.output}
        odd = next((node for node in written.node if not used & set(node.output) and not self._decodes(node)), None)
        if odd is not None:
            raise self._wrong(f"the node that makes {odd.output[0]} is nowhere in it")
        for what in (
            "input",
            "output",
            "value_info",
            "metadata_props",
            "sparse_initializer",
            "quantization_annotation",
        ):
            self._compare_lists(what, getattr(source, what), getattr(written, what))
        if (source.name, source.doc_string) != (written.name, written.doc_string):
            raise self._wrong("its graph has another name")

    def _compare_lists(self, what: str, source: Any, written: Any) -> None:
        rest = [each for each in source if each not in list(written)]
        names = {getattr(each, "name", getattr(each, "tensor_name", "")) for each in rest}
        if len(rest) + len(written) != len(source) or not names <= self._gone | self.wanted:
            raise self._wrong(f"its {what} differs")

    def _same(self, node: Any, made: Any) -> bool:
        """Whether two nodes are one, their graphs looked into."""
        if _shell(node) != _shell(made) or self._reads(node):
            return False
        if not all(self._same_data(*pair) for pair in zip(_held(node), _held(made), strict=True)):
            return False
        for one, other in zip(_inner(node), _inner(made), strict=True):
            self._compare_graphs(one, other)
            mine, theirs = list(one.initializer), list(other.initializer)
            if len(mine) != len(theirs) or not all(map(self._same_tensor, mine, theirs)):
                raise self._wrong("a graph inside of it has other constants")
        return True

    def _reads(self, node: Any) -> bool:
        """Whether a node has stayed that multiplies with one of the wanted matrices; then it has to be looked at."""
        meaning = _meaning(self.source, node)
        return meaning is not None and meaning.matrix in self.wanted and node.op_type != "DequantizeLinear"

    def _compare_products(self, node: Any, made: Any, makers: Mapping[str, Any]) -> list[Any]:
        """The nodes that took the place of `node`; raises VerificationError unless they are the same product."""
        name = node.output[0] if node.output else ""
        meant = _meaning(self.source, node)
        found = None if made is None else _meaning(self.written, made) or _with_bias(self.written, made, makers)
        if meant is None or found is None or meant.matrix not in self.wanted:
            raise self._wrong(f"the node that makes {name} is missing or another one")
        if (meant.input, meant.bias) != (found.input, found.bias):
            raise self._wrong(f"the product {name} has other inputs")
        if self._matrices.setdefault(meant.matrix, found.matrix) != found.matrix:
            raise self._wrong(f"the matrix {meant.matrix} became two")
        self.readings[meant.matrix] = found.reading
        self._gone |= meant.reading.tensors
        self._new |= found.reading.tensors
        return list(found.nodes)

    def _decodes(self, node: Any) -> bool:
        return node.op_type == "DequantizeLinear" and node.input[0] in self._new

    def _compare_constants(self) -> None:
        """Every constant is as it was, but for matrices that were quantized, and what holds their codes."""
        mine, theirs = self.source.constants, self.written.constants
        odd = set(theirs) - set(mine) - self._new or set(mine) - set(theirs) - self._gone
        if odd:
            raise self._wrong(f"the constant {min(odd)} is too much or missing")
        for name in set(mine) & set(theirs) - self._new:
            if not self._same_tensor(mine[name], theirs[name]):
                raise self._wrong(f"the constant {name} differs")

    def _same_tensor(self, one: Any, other: Any) -> bool:
        return _without_data(one) == _without_data(other) and self._same_data(one, other)

    def _same_data(self, one: Any, other: Any) -> bool:
        if not other.HasField("raw_data") and other.data_location == 0:
            return bool(one == other)  # numbers of other kinds, or texts
        mine, theirs = self.source.bytes_of(one), self.written.bytes_of(other)
        step = 1 << 24
        return mine.size == theirs.size and all(
            np.array_equal(mine[at : at + step], theirs[at : at + step]) for at in range(0, mine.size, step)
        )


def _graphs(graph: Any) -> Iterator[Any]:
    yield graph
    for node in graph.node:
        for inner in _inner(node):
            yield from _graphs(inner)


def _inner(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _held(node: Any) -> list[Any]:
    """Tensors in the node's attributes."""
    return [
        tensor for each in node.attribute for tensor in ([each.t] if each.HasField("t") else []) + list(each.tensors)
    ]


def _shell(node: Any) -> Any:
    """The node, its graphs empty, without the data of its tensors."""
    copy = type(node)()
    copy.CopyFrom(node)
    for attribute in copy.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            graph.Clear()
    for tensor in _held(copy):
        tensor.CopyFrom(_without_data(tensor))
    return copy


def _without_data(tensor: Any) -> Any:
    copy = type(tensor)()
    copy.CopyFrom(tensor)
    for name in ("raw_data", "float_data", "double_data", "data_location"):
        copy.ClearField(name)
    del copy.external_data[:]
    return copy


def _number(node: Any, name: str, default: float) -> Any:
    found = {each.name: each.f if each.type == 1 else each.i for each in node.attribute}
    return found.get(name, default)


_PLAIN: Mapping[str, Callable[[Any], bool]] = {
    "MatMul": lambda _: True,
    "Gemm": lambda node: not _number(node, "transB", 0),
}
"""Operators whose second input is a matrix -> whether a column of it makes an output."""


def _meaning(view: View, node: Any) -> Meaning | None:
    """What a node multiplies with what constant; None where it does something else."""
    if node.op_type == "MatMulNBits":
        bias = node.input[5] if len(node.input) > 5 else ""
        return Meaning(node.input[0], node.input[1], bias, _packed(view, node), (node,))
    if node.op_type not in _PLAIN or len(node.input) < 2:
        return None
    if node.op_type == "Gemm" and (_number(node, "transA", 0), _number(node, "alpha", 1), _number(node, "beta", 1)) != (
        0,
        1,
        1,
    ):
        return None
    turned, name = _PLAIN[node.op_type](node), node.input[1]
    bias = node.input[2] if len(node.input) > 2 else ""
    if name in view.decoders:
        decoder = view.decoders[name]
        return Meaning(node.input[0], decoder.input[0], bias, _decoded(view, decoder, turned=turned), (node,))
    if name not in view.constants:
        return None
    dims = tuple(view.constants[name].dims)
    return Meaning(node.input[0], name, bias, Reading(dims, frozenset({name}), _no_numbers), (node,))


def _no_numbers(start: int, stop: int) -> Floats:
    raise VerificationError(f"rows {start} to {stop} of a matrix that should be quantized are not; it is not kept.")


def _with_bias(view: View, node: Any, makers: Mapping[str, Any]) -> Meaning | None:
    """An Add behind a product, which Gemm was."""
    if node.op_type != "Add" or len(node.input) != 2 or node.input[0] not in makers:
        return None
    inner = makers[node.input[0]]
    meaning = _meaning(view, inner)
    if meaning is None or meaning.bias:
        return None
    return Meaning(meaning.input, meaning.matrix, node.input[1], meaning.reading, (*meaning.nodes, node))


def _packed(view: View, node: Any) -> Reading:
    """MatMulNBits: rows of codes, counted from the lowest, then scales and zero points row by row."""
    rows, cols, size, bits = (int(_number(node, name, 4)) for name in ("N", "K", "block_size", "bits"))
    groups = -(-cols // size)
    codes = view.bytes_of(view.constants[node.input[1]]).reshape(rows, -1)
    scale = view.constants[node.input[2]]
    scales = view.bytes_of(scale).view(_SCALES[scale.data_type]).reshape(rows, groups)
    zeros = np.full((rows, groups), 2 ** (bits - 1), np.float32)
    names = {node.input[1], node.input[2]}
    if len(node.input) > 3 and node.input[3]:
        names.add(node.input[3])
        packed = view.bytes_of(view.constants[node.input[3]]).reshape(rows, -1)
        zeros = unpacked(packed, bits, groups).astype(np.float32)
    place = np.arange(cols) // size

    def numbers(start: int, stop: int) -> Floats:
        found = unpacked(codes[start:stop], bits, cols).astype(np.float32)
        return scaled(found, zeros[start:stop], scales[start:stop], place)

    return Reading((rows, cols), frozenset(names), numbers)


def _decoded(view: View, node: Any, *, turned: bool) -> Reading:
    """DequantizeLinear: codes as the matrix lies in the graph, and scales for all, for a side, or for groups of one."""
    codes, scale = (view.constants[name] for name in node.input[:2])
    dims = tuple(codes.dims)
    names = {name for name in node.input if name}
    scales = view.bytes_of(scale).view(_SCALES[scale.data_type]).astype(np.float32).reshape(tuple(scale.dims))
    zeros = np.zeros(scales.shape, np.float32)
    if len(node.input) > 2 and node.input[2]:
        zeros = _codes(view, view.constants[node.input[2]], slice(None)).astype(np.float32).reshape(scales.shape)
    axis, size = int(_number(node, "axis", 1)) % max(len(dims), 1), int(_number(node, "block_size", 0))

    def spread(numbers: Floats, part: slice) -> Floats:
        """Scales or zero points as they stand beside the codes of these rows."""
        if numbers.size == 1 and not size:
            return numbers.reshape(1, 1)
        if not size:
            numbers = numbers[None, :] if axis == 1 else numbers[:, None]
        else:
            numbers = np.repeat(numbers, size, axis=axis)
        whole = numbers.T if turned else numbers
        return whole[part] if whole.shape[0] > 1 else whole

    def numbers(start: int, stop: int) -> Floats:
        part = slice(start, stop)
        found = _rows_of_codes(view, codes, part, turned=turned)
        steps = found.astype(np.float32) - spread(zeros, part)
        product: Floats = np.ascontiguousarray(steps * spread(scales, part), dtype=np.float32)
        return product

    return Reading(dims[::-1] if turned else dims, frozenset(names), numbers)


def _rows_of_codes(view: View, tensor: Any, part: slice, *, turned: bool) -> npt.NDArray[np.int16]:
    """Codes of these rows; of columns of the tensor, where it lies turned."""
    found = _codes(view, tensor, part if turned else slice(None), columns=turned)
    return found.T if turned else found[part]


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
