"""Where everything of an ONNX file lies before it is written: the graph's bytes, and every tensor's place in them.

What fits into one file is one file; a graph whose tensors are large, or lay in other files already, gets a second one
beside it, NAME.onnx.data, as protobuf ends at two gigabytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewbits.checkpoints.base import Bytes
from fewbits.checkpoints.onnx.elements import ELEMENTS
from fewbits.checkpoints.onnx.file import EXTERNAL, OnnxFile
from fewbits.checkpoints.onnx.graphs import all_graphs, all_tensors
from fewbits.checkpoints.onnx.package import onnx_package
from fewbits.checkpoints.onnx.rewriting import NewTensor
from fewbits.checkpoints.onnx.wire import index_of, spliced, token

INLINE_BYTES = 1 << 28
"""Of all tensors, up to which they lie in the graph's file: readers of protobuf hold it in memory twice."""
SMALL_BYTES = 1024
"""Tensors below that stay in the graph's file in any case, as the onnx package has it."""
ALIGNMENT = 64


def data_path(output: Path) -> Path:
    """Where large tensors lie that belong to the graph `output`.

    >>> data_path(Path("model.onnx")).name
    'model.onnx.data'
    """
    return output.with_name(f"{output.name}.data")


@dataclass(frozen=True)
class Place:
    """`size` bytes from byte `offset` of the graph's file on, or of the other one."""

    outside: bool
    offset: int
    size: int


@dataclass(frozen=True)
class Carried:
    """A tensor that comes along as it is."""

    place: Place
    data: Bytes


@dataclass(frozen=True)
class OnnxLayout:
    """The graph's bytes around its tensors, and where these go."""

    texts: tuple[tuple[int, bytes], ...]
    """Bytes of the graph, and where in its file."""
    carried: tuple[Carried, ...]
    places: Mapping[tuple[str, str], Place]
    """Matrix and part -> its place."""
    graph_bytes: int
    data_bytes: int
    """0 where everything lies in the graph's file."""


def plan_layout(file: OnnxFile, model: Any, new: list[NewTensor], output: Path) -> OnnxLayout:
    """The layout of the coming file `output`, which holds `model`: that of `file`, rewritten, with `new` tensors.

    `model` is changed: its tensors say where they lie then.
    """
    sources = _numbered(file, model, {each.tensor.name: each for each in new})
    sizes = {number: _size(source) for number, source in sources.items()}
    outside: dict[int, Place] = {}
    if len(file.files) > 1 or sum(sizes.values()) > INLINE_BYTES:
        outside = _moved_outside(model, sizes, data_path(output).name)
    texts: list[tuple[int, bytes]] = []
    places, at = dict(outside), 0
    for piece in spliced(model.SerializeToString(deterministic=True), onnx_package().ModelProto.DESCRIPTOR, sizes):
        if isinstance(piece, int):
            places[piece] = Place(False, at, sizes[piece])
            at += sizes[piece]
        else:
            texts.append((at, piece))
            at += len(piece)
    return OnnxLayout(
        texts=tuple(texts),
        carried=tuple(Carried(places[n], data) for n, data in sources.items() if not isinstance(data, NewTensor)),
        places={(each.matrix, each.part): places[n] for n, each in sources.items() if isinstance(each, NewTensor)},
        graph_bytes=at,
        data_bytes=max((place.offset + place.size for place in outside.values()), default=0),
    )


def _numbered(file: OnnxFile, model: Any, made: Mapping[str, NewTensor]) -> dict[int, Bytes | NewTensor]:
    """Number -> what a tensor's data are, for all that do not lie among the numbers of the graph; each gets a token."""
    sources: dict[int, Bytes | NewTensor] = {}
    for tensor in all_tensors(model):
        if file.has_payload(tensor):
            sources[len(sources)] = file.payload(tensor)
            tensor.ClearField("data_location")
            del tensor.external_data[:]
            tensor.raw_data = token(len(sources) - 1)
    for tensor in model.graph.initializer:
        if tensor.name in made:
            sources[len(sources)] = made[tensor.name]
            tensor.raw_data = token(len(sources) - 1)
    return sources


def _size(source: Bytes | NewTensor) -> int:
    if not isinstance(source, NewTensor):
        return int(source.size)
    return ELEMENTS[source.tensor.data_type].bytes(tuple(source.tensor.dims))


def _moved_outside(model: Any, sizes: Mapping[int, int], name: str) -> dict[int, Place]:
    """Number -> place in the other file, of every initializer that is not small; the graph names them."""
    places: dict[int, Place] = {}
    at = 0
    for graph in all_graphs(model.graph):
        for tensor in graph.initializer:
            number = index_of(tensor.raw_data)
            if number is None or sizes[number] < SMALL_BYTES:
                continue
            places[number] = Place(True, at, sizes[number])
            tensor.ClearField("raw_data")
            tensor.data_location = EXTERNAL
            for key, value in (("location", name), ("offset", at), ("length", sizes[number])):
                tensor.external_data.add(key=key, value=str(value))
            at += sizes[number] + -sizes[number] % ALIGNMENT
    return places
