"""Is a written ONNX graph its source, quantized? Every node, constant and matrix is met and compared.

The written graph is parsed by the onnx package, in one piece, where the writer has put its bytes together; its nodes
are met by the names of their results, and its numbers come from equations of their own (onnx_numbers.py).
Success is refused unless every node of the source is there, unchanged or as the same product with the matrix it had.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fewbits.checkpoints.onnx.file import OnnxFile
from fewbits.digest import OutputDigest, sha256_of_parts
from fewbits.errors import VerificationError
from fewbits.verification.dialects import Reading
from fewbits.verification.files import verify_readings
from fewbits.verification.matrices import Expectation
from fewbits.verification.onnx_numbers import (
    Meaning,
    View,
    graphs_of,
    inner_of,
    meaning_of,
    multiplied,
    open_graph,
    view_of,
)
from fewbits.workers import Workers


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
        self._multiplied = multiplied(source)
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
        needed = {node.domain for graph in graphs_of(self.written.model.graph) for node in graph.node} | {"", "ai.onnx"}
        needed |= {node.domain for function in theirs.functions for node in function.node}
        gone = {node.domain for graph in graphs_of(self.source.model.graph) for node in graph.node} - needed
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
        for one, other in zip(inner_of(node), inner_of(made), strict=True):
            self._compare_graphs(one, other)
            mine, theirs = list(one.initializer), list(other.initializer)
            if len(mine) != len(theirs) or not all(map(self._same_tensor, mine, theirs)):
                raise self._wrong("a graph inside of it has other constants")
        return True

    def _reads(self, node: Any) -> bool:
        """Whether a node has stayed that has one of the wanted matrices; then it has to be looked at.

        What looks up a matrix that others multiply with may have it as it was.
        """
        meaning = meaning_of(self.source, node)
        if meaning is None or meaning.matrix not in self.wanted:
            return False
        return not meaning.looked_up or meaning.matrix not in self._multiplied

    def _compare_products(self, node: Any, made: Any, makers: Mapping[str, Any]) -> list[Any]:
        """The nodes that took the place of `node`; raises VerificationError unless they are the same product."""
        name = node.output[0] if node.output else ""
        meant = meaning_of(self.source, node)
        found = None if made is None else meaning_of(self.written, made) or _with_bias(self.written, made, makers)
        if meant is None or found is None or meant.matrix not in self.wanted:
            raise self._wrong(f"the node that makes {name} is missing or another one")
        if (meant.input, meant.bias) != (found.input, found.bias):
            raise self._wrong(f"the product {name} has other inputs")
        if (meant.looked_up, meant.told) != (found.looked_up, found.told):
            raise self._wrong(f"the node that makes {name} does something else")
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
        asked = {name for graph in graphs_of(self.written.model.graph) for node in graph.node for name in node.input}
        idle = self._gone & set(theirs) - asked - self._new
        if idle:
            raise self._wrong(f"the constant {min(idle)} is still there, and no node asks for it")
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


def _with_bias(view: View, node: Any, makers: Mapping[str, Any]) -> Meaning | None:
    """An Add behind a product, which Gemm was."""
    if node.op_type != "Add" or len(node.input) != 2 or node.input[0] not in makers:
        return None
    inner = makers[node.input[0]]
    meaning = meaning_of(view, inner)
    if meaning is None or meaning.bias:
        return None
    return Meaning(meaning.input, meaning.matrix, node.input[1], meaning.reading, (*meaning.nodes, node))


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
