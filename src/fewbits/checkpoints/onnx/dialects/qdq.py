"""QDQ: codes, scales and zero points in front of a standard operator, decoded by DequantizeLinear.

    x             INT4, UINT4, INT8, UINT8, INT2 or UINT2, as the matrix lies in the graph
    x_scale       FLOAT or FLOAT16: one, one per output, or one per group of columns
    x_zero_point  as x; without it 0 is zero

w = scale * (code - zero). Source: the ONNX specification, operator DequantizeLinear, versions 13, 19, 21 and 25.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from fewbits.checkpoints.dialects.uniform import Uniform, uniform_of
from fewbits.checkpoints.onnx.dialects.base import (
    Arrays,
    GraphMatrix,
    Held,
    Needs,
    Parts,
    Slots,
    name_of_codes,
    uniform_matrix,
)
from fewbits.checkpoints.onnx.dialects.lookups import gather
from fewbits.checkpoints.onnx.elements import FLOAT, FLOAT16, INT2, INT4, INT8, UINT2, UINT4, UINT8, type_name
from fewbits.checkpoints.onnx.file import OnnxFile
from fewbits.checkpoints.onnx.graphs import Names, all_nodes, whole_numbers
from fewbits.checkpoints.onnx.products import STANDARD, Product, product_of
from fewbits.formats import Fields
from fewbits.formats.fields import pack_bits, unpack_bits

OPERATOR = "DequantizeLinear"
_SIGNED = {2: INT2, 4: INT4, 8: INT8}
_UNSIGNED = {2: UINT2, 4: UINT4, 8: UINT8}
_BITS = {kind: bits for kinds in (_SIGNED, _UNSIGNED) for bits, kind in kinds.items()}
_SCALES = {"f32": FLOAT, "f16": FLOAT16}
_NUMPY = {"f32": "<f4", "f16": "<f2"}
Codes = npt.NDArray[np.uint8]


class QDQ:
    """Whole numbers of 2, 4 or 8 bits, a scale per group of columns, per row or per tensor, as the graph computes."""

    name = "qdq"
    readers = "ONNX Runtime and whatever runs ONNX's standard operators"
    by_rows = False
    lacks_tables = "a table in qdq would be decoded whole for every row that is looked up; matmulnbits holds it"

    def lacks_filters(self, format: Uniform) -> str | None:
        """Groups lie along one side."""
        return "a filter has one scale per output or for all, as int8_row_sym has" if format.group else None

    def refuses(self, matrix: GraphMatrix) -> str | None:
        """All but such formats."""
        found = uniform_matrix(matrix)
        if found is not None and found.group and len(matrix.dims) > 2:
            return "is a filter of Conv, which has one scale per output or for all, such as int8_row_sym"
        if found is None or found.bits not in _SIGNED or found.scale not in _SCALES:
            return (
                f"is {matrix.format}, and DequantizeLinear holds whole numbers of 2, 4 or 8 bits, such as "
                "int8_row_sym, int4_g32_sym or uint4_g32_asym"
            )
        return None

    def needs(self, matrix: GraphMatrix) -> Needs:
        """The first version whose DequantizeLinear has these types, and scales per group."""
        found = uniform_of(matrix)
        opset = 21 if found.group or found.bits == 4 else 19 if found.scale == "f16" else 13
        opset = 25 if found.bits == 2 else opset
        return Needs(opset, {21: 10, 25: 13}.get(opset, 0), "")

    def slots(self, matrix: GraphMatrix) -> Slots:
        """Codes as the matrix lies in the graph, scales, and zero points where there are any."""
        found = uniform_of(matrix)
        kind = (_SIGNED if found.signed or found.symmetric else _UNSIGNED)[found.bits]
        lines = _lines(matrix, found)
        slots: Slots = {"codes": (kind, matrix.dims), "scale": (_SCALES[found.scale], lines)}
        return slots if found.symmetric else slots | {"zero": (kind, lines)}

    def pack(self, matrix: GraphMatrix, fields: Fields) -> Arrays:
        """Codes and zero points of all rows in the order of the graph, packed one after another."""
        cols, found = matrix.shape[1], uniform_of(matrix)
        codes = fields["codes"] if found.signed or not found.symmetric else _signed(found, fields["codes"], cols)
        packed: Arrays = {"codes": _packed(unpack_bits(codes, found.bits, cols), found.bits, matrix)}
        packed["scale"] = _turned(fields["scale"], matrix)
        if not found.symmetric:
            groups = fields["scale"].shape[1]
            packed["zero"] = _packed(unpack_bits(fields["zero"], found.bits, groups), found.bits, matrix)
        return packed

    def unpack(self, held: Held, file: OnnxFile) -> Fields:
        """The fields of all rows."""
        matrix, found = held.matrix, uniform_of(held.matrix)
        rows, cols = matrix.shape
        codes = _unpacked(file.payload(held.tensors["codes"]), found.bits, (rows, cols), matrix)
        lines = (1, 1) if found.per_tensor else (rows, found.groups(cols))
        scale = _back(file.payload(held.tensors["scale"]).view(_NUMPY[found.scale]), lines, matrix)
        fields: Fields = {"codes": pack_bits(codes, found.bits), "scale": scale}
        if not found.symmetric:
            zero = np.zeros(lines, np.uint8)
            if "zero" in held.tensors:
                zero = _unpacked(file.payload(held.tensors["zero"]), found.bits, lines, matrix)
            fields["zero"] = pack_bits(zero, found.bits)
        return fields

    def before(self, matrix: GraphMatrix, parts: Parts) -> list[Any]:
        """One node that decodes the matrix for all its products."""
        from onnx import helper

        found = uniform_of(matrix)
        told: dict[str, int] = {}
        if found.group:
            told = {"axis": 0 if matrix.transposed else 1, "block_size": found.group}
        elif not found.per_tensor:
            told = {"axis": 1 if matrix.transposed else 0}
        node = helper.make_node(OPERATOR, list(parts.tensors.values()), [parts.decoded], name=parts.decoded)
        node.attribute.extend(helper.make_attribute(name, number) for name, number in told.items())
        return [node]

    def product(self, product: Product, matrix: GraphMatrix, parts: Parts, names: Names) -> list[Any]:
        """The node as it was with the decoded matrix; MatMul, and Add, in place of one that decodes by itself."""
        from onnx import NodeProto, helper

        if product.node.domain in STANDARD:
            node = NodeProto()
            node.CopyFrom(product.node)
            node.input[product.place] = parts.decoded
            return [node]
        if product.looked_up:
            return [gather(product, parts.decoded)]
        output = names.new(f"{product.output}_product") if product.bias else product.output
        old = product.node
        told = {"name": old.name or None, "doc_string": old.doc_string or None}
        made = helper.make_node("MatMul", [product.input, parts.decoded], [output], **told)
        made.metadata_props.extend(old.metadata_props)
        if not product.bias:
            return [made]
        return [
            made,
            helper.make_node("Add", [output, product.bias], [product.output], name=names.new(f"{old.name}_bias")),
        ]

    def find(self, file: OnnxFile) -> tuple[dict[str, Held], dict[str, str]]:
        """Every constant of two sides or more that a DequantizeLinear decodes."""
        found: dict[str, Held] = {}
        strange: dict[str, str] = {}
        ways = _ways(file)
        for node in all_nodes(file.model.graph):
            tensor = file.initializers.get(node.input[0]) if _is_own(node) and len(node.input) > 1 else None
            if tensor is None or len(tensor.dims) < 2 or tensor.data_type not in _BITS or not all(tensor.dims):
                continue
            if node.input[0] in strange or any(each.tensors["codes"] is tensor for each in found.values()):
                continue
            name = name_of_codes(tensor.name, found)
            transposed, looked_up = ways.get(node.output[0], (False, False))
            held = _held(name, node, file, transposed=transposed, looked_up=looked_up)
            if isinstance(held, str):
                strange[tensor.name] = held
            else:
                found[name] = held
        return found, strange

    def product_of(self, node: Any, values: Mapping[str, Held]) -> Product | None:
        """A standard product with a decoded value."""
        product = product_of(node)
        if product is None or product.weight not in values:
            return None
        name = values[product.weight].matrix.name
        return replace(product, weight=name)

    def decodes(self, node: Any, values: Mapping[str, Held]) -> bool:
        """DequantizeLinear of a matrix."""
        return _is_own(node) and node.output[0] in values


def _is_own(node: Any) -> bool:
    return bool(node.op_type == OPERATOR and node.domain in (*STANDARD, "com.microsoft") and len(node.output) == 1)


def _lines(matrix: GraphMatrix, found: Uniform) -> tuple[int, ...]:
    """The shape of scales."""
    rows, cols = matrix.shape
    if found.per_tensor:
        return ()
    if not found.group:
        return (rows,)
    groups = cols // found.group
    return (groups, rows) if matrix.transposed else (rows, groups)


def _signed(found: Uniform, packed: Codes, count: int) -> Codes:
    """Counted codes as two's complement."""
    return np.bitwise_xor(packed, pack_bits(np.full((1, count), found.middle, np.uint8), found.bits))


def _turned(array: npt.NDArray[Any], matrix: GraphMatrix) -> npt.NDArray[Any]:
    """Numbers (rows, n) in the order of the graph."""
    return np.ascontiguousarray(array.T) if matrix.transposed else array


def _packed(codes: Codes, bits: int, matrix: GraphMatrix) -> Codes:
    """Codes (rows, n) in the order of the graph, as one string of bytes."""
    return pack_bits(_turned(codes, matrix).reshape(1, -1), bits).reshape(-1)


def _back(array: npt.NDArray[Any], lines: tuple[int, int], matrix: GraphMatrix) -> npt.NDArray[Any]:
    """Numbers in the order of the graph as (rows, n)."""
    return np.ascontiguousarray(array.reshape(lines[::-1]).T) if matrix.transposed else array.reshape(lines)


def _unpacked(data: Codes, bits: int, lines: tuple[int, int], matrix: GraphMatrix) -> Codes:
    """The codes of one string of bytes as (rows, n)."""
    return _back(unpack_bits(np.ascontiguousarray(data).reshape(1, -1), bits, prod(lines)), lines, matrix)


def _ways(file: OnnxFile) -> dict[str, tuple[bool, bool]]:
    """Value -> whether it has its columns as rows, by the first product with it; or whether it is only looked up."""
    found: dict[str, tuple[bool, bool]] = {}
    products = [each for node in all_nodes(file.model.graph) if (each := product_of(node)) is not None]
    for product in sorted(products, key=lambda each: each.looked_up):
        found.setdefault(product.weight, (product.transposed, product.looked_up))
    return found


def _held(name: str, node: Any, file: OnnxFile, *, transposed: bool, looked_up: bool) -> Held | str:
    """The matrix that a node decodes, or why no format here is what it holds."""
    tensors = _constants(node, file)
    if isinstance(tensors, str):
        return tensors
    codes, scale, zero = tensors
    dims = tuple(codes.dims)
    turned = transposed and len(dims) == 2
    shape = (dims[1], dims[0]) if turned else (dims[0], prod(dims[1:]))
    word = {kind: word for word, kind in _SCALES.items()}.get(scale.data_type)
    if word is None:
        return f"has scales of the type {type_name(scale.data_type)}, which is not read here"
    told = whole_numbers(node)
    scope = _scope(told, dims, tuple(scale.dims), turned=turned)
    if scope is None:
        return "has scales along the wrong side, or groups that do not divide it"
    if zero is not None and (tuple(zero.dims) != tuple(scale.dims) or zero.data_type != codes.data_type):
        return "has zero points of another shape or type than its scales and codes"
    bits = _BITS[codes.data_type]
    signed = codes.data_type in _SIGNED.values()
    symmetric = signed and (zero is None or not file.payload(zero).any())
    words = [f"{'' if signed else 'u'}int{bits}", scope, "sym" if symmetric else "asym"]
    format_name = "_".join(words + ([] if word == "f32" else [word]))
    matrix = GraphMatrix(name, format_name, shape, transposed=turned, dims=dims, looked_up=looked_up)
    parts = {"codes": codes, "scale": scale} | ({} if symmetric or zero is None else {"zero": zero})
    return Held(matrix, parts, node.output[0])


def _constants(node: Any, file: OnnxFile) -> tuple[Any, Any, Any] | str:
    """Codes, scales and zero points (None where there are none) of a node, where they are constants."""
    zero = node.input[2] if len(node.input) > 2 else ""
    if node.input[1] not in file.initializers or (zero and zero not in file.initializers):
        return "has scales or zero points that are worked out at run time"
    if whole_numbers(node).get("output_dtype", 0) not in (0, file.initializers[node.input[1]].data_type):
        return "is decoded to another type than that of its scales"
    return file.initializers[node.input[0]], file.initializers[node.input[1]], file.initializers.get(zero)


def _scope(told: Mapping[str, int], dims: tuple[int, ...], lines: tuple[int, ...], *, turned: bool) -> str | None:
    """Which numbers share a scale, as a format's name says it; None where none says it."""
    row_side = len(dims) - 1 if turned else 0
    if prod(lines) == 1 and len(lines) < 2:
        return "tensor"
    axis, size = told.get("axis", 1), told.get("block_size", 0)
    axis += len(dims) if axis < 0 else 0
    if not size:
        return "row" if axis == row_side and lines == (dims[row_side],) else None
    if len(dims) != 2 or axis != 1 - row_side or dims[axis] % size or size < 2:
        return None
    wanted = tuple(side // size if at == axis else side for at, side in enumerate(dims))
    return f"g{size}" if lines == wanted else None
