"""From one ONNX dialect into another: the same codes, scales and zero points, and other nodes that read them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fewbits.checkpoints.base import StoredTensor
from fewbits.checkpoints.fields import StoredMatrix
from fewbits.checkpoints.onnx.dialects import USUAL, GraphDialect, GraphMatrix, Held, get
from fewbits.checkpoints.onnx.dialects.base import require_held
from fewbits.checkpoints.onnx.graphs import all_nodes
from fewbits.checkpoints.onnx.layout import data_path, plan_layout
from fewbits.checkpoints.onnx.products import Product
from fewbits.checkpoints.onnx.reader import OnnxReader
from fewbits.checkpoints.onnx.rewriting import Edit, rewrite
from fewbits.checkpoints.onnx.source import ARCHITECTURE
from fewbits.checkpoints.onnx.writer import OnnxWriter
from fewbits.checkpoints.partial_file import partial_path
from fewbits.checkpoints.quoting import quoted
from fewbits.conversion.job import Job, Piece, planned_tensor, preview_of
from fewbits.conversion.sources import Source
from fewbits.digest import OutputDigest
from fewbits.errors import CheckpointError
from fewbits.verification.matrices import Expectation
from fewbits.verification.numbers import ReadNumbers
from fewbits.verification.onnx import verify_onnx
from fewbits.verification.onnx_numbers import number_sources
from fewbits.workers import Workers


class _Moves:
    """The matrices of a graph that lie in another dialect than the wanted one."""

    def __init__(self, held: Mapping[str, tuple[GraphDialect, Held]]) -> None:
        self.held = held
        self.values = {each.value: each for _, each in held.values()}
        self._dialects = {each.value: dialect for dialect, each in held.values()}

    def product_of(self, node: Any) -> Product | None:
        """`node` as a product with one of them."""
        found = ((dialect.product_of(node, {held.value: held}), held.matrix) for dialect, held in self._of(node.input))
        return next((each for each, own in found if each is not None and each.looked_up == own.looked_up), None)

    def drops(self, node: Any) -> bool:
        """Whether `node` only decodes one of them."""
        return any(dialect.decodes(node, {held.value: held}) for dialect, held in self._of(node.output))

    def _of(self, names: Iterable[str]) -> list[tuple[GraphDialect, Held]]:
        return [(self._dialects[name], self.values[name]) for name in names if name in self.values]


def to_onnx(given: str, path: Path, output: Path, wanted: str | None) -> Job:
    """The graph at `path` with its quantized matrices in the dialect `wanted`, or the usual one."""
    reader, dialect = OnnxReader(path), get(wanted or USUAL)
    moves = _moves(given, reader, dialect)
    matrices = {name: _target(held) for name, (_, held) in moves.held.items()}
    require_held(dialect, list(matrices.values()))
    model = type(reader.file.model)()
    model.CopyFrom(reader.file.model)
    new, notes = rewrite(model, Edit(dialect, matrices, moves.product_of, moves.drops))
    layout = plan_layout(reader.file, model, new, output)
    size = layout.graph_bytes + layout.data_bytes
    source = Source(given, path.parent, reader, _Numbers(reader), reader.file.files, ARCHITECTURE, notes)
    pieces = tuple(_piece(source, name) for name in matrices)
    codes = {name: held.tensors["codes"].name for name, (_, held) in moves.held.items()}
    return Job(
        output=output,
        preview=preview_of(source, output, pieces, size, f"ONNX, {dialect.name}"),
        pieces=pieces,
        files=source.files,
        size=size,
        open=lambda: OnnxWriter(output, layout, dialect, matrices),
        verify=partial(_verify, reader, output, codes),
    )


def _moves(given: str, reader: OnnxReader, dialect: GraphDialect) -> _Moves:
    """What has to be moved; raises CheckpointError where there is nothing, or where something cannot be."""
    if not reader.held and not reader.strange:
        raise CheckpointError(f"{given} holds no quantized matrix; quantize it with fewbits quantize.")
    if reader.strange:
        name, why = next(iter(reader.strange.items()))
        raise CheckpointError(f"tensor {quoted(name)} of {given} {why}; it cannot be moved.")
    moves = _Moves({name: each for name, each in reader.held.items() if each[0].name != dialect.name})
    if not moves.held:
        raise CheckpointError(f"{given} is in the dialect {dialect.name} already; choose another with --dialect.")
    for node in all_nodes(reader.file.model.graph):
        odd = next((n for n in node.input if n in moves.values and moves.product_of(node) is None), None)
        if odd is not None and not moves.drops(node):
            name = moves.values[odd].matrix.name
            raise CheckpointError(
                f"tensor {quoted(name)} of {given} is used by {quoted(node.op_type)}, and {dialect.name} holds only "
                "what MatMul and Gemm multiply with, and what Gather alone looks up; leave the file in its dialect."
            )
    return moves


def _target(held: Held) -> GraphMatrix:
    """The matrix as the other dialect has it: its columns as rows where a product of its own comes to be."""
    rows, cols = held.matrix.shape
    if held.matrix.looked_up:
        return held.matrix
    return replace(held.matrix, transposed=True, dims=(cols, rows))


def _piece(source: Source, name: str) -> Piece:
    stored = source.reader.read(name)
    assert isinstance(stored, StoredMatrix), "only matrices are moved"
    expected = Expectation(source.numbers.read(name), None, stored.format, 0.0)
    return Piece(planned_tensor(name, stored, stored.format), expected, stored.load, name)


class _Numbers:
    """The matrices of a graph as its products see them, by the stranger's reading."""

    def __init__(self, reader: OnnxReader) -> None:
        self.path = reader.path
        self.metadata: Mapping[str, Any] = reader.metadata
        self._held = reader.held
        self._readings = number_sources(reader.file)

    def names(self) -> list[str]:
        """All names."""
        return list(self._held)

    def read(self, name: str) -> StoredTensor:
        """The matrix called `name`; raises CheckpointError where no product has it."""
        codes = self._held[name][1].tensors["codes"].name
        if codes not in self._readings:
            raise CheckpointError(f"tensor {quoted(name)} of {self.path} is in no product; the file is damaged.")
        reading = self._readings[codes]
        return ReadNumbers(name, "F32", reading.shape, np.empty(0, np.uint8), reading.numbers)


def _verify(
    reader: OnnxReader,
    output: Path,
    codes: Mapping[str, str],
    expected: Mapping[str, Expectation],
    workers: Workers,
    progress: Callable[[int, int], None],
) -> OutputDigest:
    """The stranger knows matrices by the names of their codes."""
    written = (partial_path(output), partial_path(data_path(output)))
    return verify_onnx(written, reader.file, {codes[n]: want for n, want in expected.items()}, workers, progress)
