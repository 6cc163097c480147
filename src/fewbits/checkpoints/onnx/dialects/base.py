"""The protocol of ONNX's dialects: tensors that hold the fields of a matrix, and nodes that read them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fewbits.checkpoints.dialects.uniform import Uniform, uniform
from fewbits.checkpoints.fields import Matrix
from fewbits.checkpoints.onnx.file import OnnxFile
from fewbits.checkpoints.onnx.graphs import Names
from fewbits.checkpoints.onnx.products import Product
from fewbits.errors import CheckpointError
from fewbits.formats import Fields

Arrays = dict[str, npt.NDArray[Any]]
Slots = dict[str, tuple[int, tuple[int, ...]]]
"""Part of a matrix ("codes", "scale", "zero") -> element type and shape of the initializer that holds it."""

SCALES: Mapping[str, str] = {"F32": "f32", "F16": "f16"}
"""The type that a graph computes in -> that of its scales, as a format's name says it."""
_ENDINGS = re.compile(r"(_DQ)?_Q\d+|_quantized")
"""What names of codes end in, ours and those of ONNX Runtime's tools."""


@dataclass(frozen=True)
class GraphMatrix(Matrix):
    """One matrix (rows, cols) of a graph; `transposed` where the graph has its columns as rows."""

    dims: tuple[int, ...] = ()
    """Its sides as they lie in the graph; of a filter more than two."""
    looked_up: bool = False
    """Whether its rows are looked up, and nothing multiplies by it."""


@dataclass(frozen=True)
class Parts:
    """Names in the graph of what holds a matrix."""

    tensors: Mapping[str, str]
    """Part -> initializer."""
    decoded: str
    """The value that a node makes of them, where one does."""

    @staticmethod
    def of(matrix: GraphMatrix, slots: Slots, names: Names, bits: int) -> Parts:
        """New names for `matrix`."""
        endings = {"codes": f"_Q{bits}", "scale": "_scales", "zero": "_zero_points"}
        tensors = {part: names.new(f"{matrix.name}{endings[part]}") for part in slots}
        return Parts(tensors, names.new(f"{matrix.name}_decoded"))


@dataclass(frozen=True)
class Held:
    """A matrix that a graph holds: the initializers of its parts, and how the nodes know it."""

    matrix: GraphMatrix
    tensors: Mapping[str, Any]
    """Part -> TensorProto."""
    value: str
    """Name of the codes, or of the value that a node decodes them to: what products name."""


@dataclass(frozen=True)
class Needs:
    """What a graph has to state before a dialect's nodes mean something."""

    opset: int
    """Of the standard operators; 0 where any will do."""
    ir_version: int
    domain: str
    """Of operators that are no standard; "" where there are none."""


class GraphDialect(Protocol):
    """One way to hold a quantized matrix in a graph."""

    @property
    def name(self) -> str:
        """The registry's name."""

    @property
    def readers(self) -> str:
        """Who runs it."""

    @property
    def by_rows(self) -> bool:
        """Whether rows of a matrix lie one after another, so that each can be written alone."""

    @property
    def lacks_tables(self) -> str | None:
        """Why tables that are looked up stay as they are; None where they are held."""

    def lacks_filters(self, format: Uniform) -> str | None:
        """Why filters of Conv stay as they are, where others get `format`; None where they are held."""

    def refuses(self, matrix: GraphMatrix) -> str | None:
        """Why `matrix` cannot be held, as a phrase that follows its name; None where it can."""

    def needs(self, matrix: GraphMatrix) -> Needs:
        """What a graph with `matrix` has to state."""

    def slots(self, matrix: GraphMatrix) -> Slots:
        """The initializers that hold `matrix`."""

    def pack(self, matrix: GraphMatrix, fields: Fields) -> Arrays:
        """Stored fields, of whole rows where `by_rows` and else of all, as bytes of those initializers."""

    def unpack(self, held: Held, file: OnnxFile) -> Fields:
        """The fields of the matrix's format."""

    def before(self, matrix: GraphMatrix, parts: Parts) -> list[Any]:
        """Nodes that stand before all products with `matrix`."""

    def product(self, product: Product, matrix: GraphMatrix, parts: Parts, names: Names) -> list[Any]:
        """The nodes that take the place of `product`."""

    def find(self, file: OnnxFile) -> tuple[dict[str, Held], dict[str, str]]:
        """Name -> matrix that the graph holds in this dialect, and name -> why no format here is what it holds."""

    def product_of(self, node: Any, values: Mapping[str, Held]) -> Product | None:
        """`node` as a product with one of `values`, by name of codes or decoded value; None where it is none."""

    def decodes(self, node: Any, values: Mapping[str, Held]) -> bool:
        """Whether `node` only makes one of `values`."""


def require_held(dialect: GraphDialect, matrices: list[GraphMatrix]) -> None:
    """Raise CheckpointError, naming the first matrix, and how many there are, that `dialect` cannot hold."""
    refused = [(matrix.name, why) for matrix in matrices if (why := dialect.refuses(matrix))]
    if refused:
        name, why = refused[0]
        more = f" ({len(refused)} matrices in all)" if len(refused) > 1 else ""
        raise CheckpointError(f"tensor {name} {why}{more}.")


def name_of_codes(tensor: str, taken: Mapping[str, object]) -> str:
    """The name of the matrix whose codes are called `tensor`.

    >>> name_of_codes("up.weight_Q4", {}), name_of_codes("up_quantized", {"up": 1})
    ('up.weight', 'up_quantized')
    """
    found = _ENDINGS.search(tensor)
    name = tensor[: found.start()] if found and found.end() == len(tensor) and found.start() else tensor
    return tensor if name in taken else name


def uniform_matrix(matrix: GraphMatrix) -> Uniform | None:
    """The facts of a matrix's format, where it is one of whole numbers with plain scales."""
    return uniform(matrix.format)


def as_bytes(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """The bytes of `array`, one after another."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
