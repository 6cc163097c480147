"""MatMulNBits, ONNX Runtime's operator for products with few bits: codes, scales and zero points row by row.

    B            UINT8 (rows, groups, group * bits / 8)    codes counted from the lowest, the first in the lowest bits
    scales       FLOAT or FLOAT16, as the graph computes (rows, groups)
    zero_points  UINT8 (rows, groups * bits / 8 rounded up); without it the middle code is zero

w = scale * (code - zero). Tables whose rows are looked up have the same codes (lookups.py).
Source: ONNX Runtime's documentation of its contributed operators, com.microsoft.MatMulNBits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fewbits.checkpoints.dialects.uniform import Uniform, uniform_name, uniform_of
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
from fewbits.checkpoints.onnx.dialects.lookups import held_table, is_lookup, lookup, typed_fields
from fewbits.checkpoints.onnx.elements import FLOAT, FLOAT16, UINT8, type_name
from fewbits.checkpoints.onnx.file import OnnxFile
from fewbits.checkpoints.onnx.graphs import Names, all_nodes, whole_numbers
from fewbits.checkpoints.onnx.products import MICROSOFT, Product
from fewbits.checkpoints.quoting import quoted
from fewbits.errors import CheckpointError
from fewbits.formats import Fields
from fewbits.formats.fields import packed_bytes

BITS = (2, 4, 8)
GROUPS = (16, 32, 64, 128, 256)
OPERATOR = "MatMulNBits"
_SCALES = {"f32": FLOAT, "f16": FLOAT16}
_G_IDX, _BIAS = 4, 5


class MatMulNBits:
    """Whole numbers of 2, 4 or 8 bits in groups of 16, 32, 64, 128 or 256 columns, scales as the graph computes."""

    name = "matmulnbits"
    readers = "ONNX Runtime"
    by_rows = True
    lacks_tables = None

    def lacks_filters(self, format: Uniform) -> str | None:
        """There is no such Conv."""
        return "filters of Conv are held by --dialect qdq alone"

    def refuses(self, matrix: GraphMatrix) -> str | None:
        """All but such formats, and filters."""
        if len(matrix.dims) > 2:
            return "is a filter of Conv, which --dialect qdq alone holds"
        found = uniform_matrix(matrix)
        if found is None or found.bits not in BITS or found.group not in GROUPS or found.scale not in _SCALES:
            return (
                f"is {matrix.format}, and MatMulNBits holds whole numbers of 2, 4 or 8 bits in groups of 16, 32, 64, "
                "128 or 256 columns, such as int4_g32_sym or uint4_g32_asym; --dialect qdq holds int8_row_sym and "
                "int8_tensor_sym too"
            )
        return None

    def needs(self, matrix: GraphMatrix) -> Needs:
        """Any version of the standard operators."""
        return Needs(0, 0, MICROSOFT)

    def slots(self, matrix: GraphMatrix) -> Slots:
        """Codes, scales, zero points where they are not all in the middle."""
        (rows, cols), found = matrix.shape, uniform_of(matrix)
        groups, bytes_ = cols // found.group, found.group * found.bits // 8
        slots: Slots = {
            "codes": (UINT8, (rows, groups * bytes_) if matrix.looked_up else (rows, groups, bytes_)),
            "scale": (_SCALES[found.scale], (rows, groups)),
        }
        zero = {} if found.symmetric else {"zero": (UINT8, (rows, packed_bytes(groups, found.bits)))}
        return slots | zero

    def pack(self, matrix: GraphMatrix, fields: Fields) -> Arrays:
        """The same bits, counted from the lowest code."""
        cols, found = matrix.shape[1], uniform_of(matrix)
        packed = {"codes": found.counted(fields["codes"], cols), "scale": fields["scale"]}
        return packed if found.symmetric else packed | {"zero": found.counted(fields["zero"], cols // found.group)}

    def unpack(self, held: Held, file: OnnxFile) -> Fields:
        """Codes, scales and zero points as the format stores them."""
        (rows, cols), found = held.matrix.shape, uniform_of(held.matrix)
        if held.tensors["codes"].data_type != UINT8:
            return typed_fields(held, file)
        codes = file.payload(held.tensors["codes"]).reshape(rows, -1)
        scale = file.payload(held.tensors["scale"]).view({"f32": "<f4", "f16": "<f2"}[found.scale])
        fields: Fields = {"codes": found.counted(codes, cols), "scale": scale.reshape(rows, -1)}
        if not found.symmetric:
            zero = file.payload(held.tensors["zero"]).reshape(rows, -1)
            fields["zero"] = found.counted(zero, cols // found.group)
        return fields

    def before(self, matrix: GraphMatrix, parts: Parts) -> list[Any]:
        """Nothing: the operator decodes by itself."""
        return []

    def product(self, product: Product, matrix: GraphMatrix, parts: Parts, names: Names) -> list[Any]:
        """The operator, and an Add where Gemm has added something; for a table the one that looks up."""
        from onnx import helper

        if product.looked_up:
            return [lookup(product, matrix, parts)]
        (rows, cols), found, node = matrix.shape, uniform_of(matrix), product.node
        output = names.new(f"{product.output}_product") if product.bias else product.output
        made = helper.make_node(
            OPERATOR,
            [product.input, *parts.tensors.values()],
            [output],
            name=node.name or None,
            doc_string=node.doc_string or None,
            domain=MICROSOFT,
            K=cols,
            N=rows,
            bits=found.bits,
            block_size=found.group,
        )
        made.metadata_props.extend(node.metadata_props)
        if not product.bias:
            return [made]
        name = names.new(f"{node.name}_bias") if node.name else None
        return [made, helper.make_node("Add", [output, product.bias], [product.output], name=name)]

    def find(self, file: OnnxFile) -> tuple[dict[str, Held], dict[str, str]]:
        """Every such operator whose codes are an initializer; one of several that share them.

        Codes by which something multiplies are no table, whatever looks them up.
        """
        found: dict[str, Held] = {}
        strange: dict[str, str] = {}
        seen: set[str] = set()
        for node in all_nodes(file.model.graph):
            if not _is_own(node) or len(node.input) < 3 or node.input[1] in seen:
                continue
            seen.add(node.input[1])
            name = name_of_codes(node.input[1], found)
            if node.input[1] not in file.initializers:
                continue
            why = _strange(node, file)
            if why:
                strange[node.input[1]] = why
            else:
                found[name] = _held(name, node, file)
        for node in filter(is_lookup, all_nodes(file.model.graph)):
            codes = node.input[0]
            if codes in seen or codes not in file.initializers:
                continue
            seen.add(codes)
            name = name_of_codes(codes, found)
            held = held_table(name, node, file)
            if isinstance(held, str):
                strange[codes] = held
            else:
                found[name] = held
        return found, strange

    def product_of(self, node: Any, values: Mapping[str, Held]) -> Product | None:
        """The operator itself."""
        if is_lookup(node) and node.input[0] in values:
            return Product(
                node, node.input[1], values[node.input[0]].matrix.name, False, "", node.output[0], looked_up=True
            )
        if not _is_own(node) or len(node.input) < 3 or node.input[1] not in values:
            return None
        bias = node.input[_BIAS] if len(node.input) > _BIAS else ""
        return Product(node, node.input[0], values[node.input[1]].matrix.name, True, bias, node.output[0])

    def decodes(self, node: Any, values: Mapping[str, Held]) -> bool:
        """Never."""
        return False


def _is_own(node: Any) -> bool:
    return bool(node.op_type == OPERATOR and node.domain == MICROSOFT and len(node.output) == 1)


def _optional(node: Any, place: int) -> str:
    return node.input[place] if len(node.input) > place else ""


def _strange(node: Any, file: OnnxFile) -> str | None:
    """Why no format here is what the operator holds."""
    told = whole_numbers(node)
    cols, size, bits = told.get("K", 0), told.get("block_size", 0), told.get("bits", 4)
    if _optional(node, _G_IDX):
        return "has columns in an order of their own (g_idx), of which ONNX Runtime's readers are too few to be read"
    if bits not in BITS or size not in GROUPS:
        return f"has {quoted(bits)} bits in groups of {quoted(size)} columns, which is not read here"
    if cols % size:
        return f"has {cols} columns, which groups of {size} do not divide"
    zero = _optional(node, 3)
    if node.input[2] not in file.initializers or (zero and zero not in file.initializers):
        return "has scales or zero points that are worked out at run time"
    if zero and file.initializers[zero].data_type != UINT8:
        return "has zero points that are no whole numbers"
    return None


def _held(name: str, node: Any, file: OnnxFile) -> Held:
    """The matrix of an operator; raises CheckpointError where its initializers are of other sizes than it says."""
    told = whole_numbers(node)
    rows, cols, size, bits = told.get("N", 0), told.get("K", 0), told["block_size"], told.get("bits", 4)
    tensors = {"codes": file.initializers[node.input[1]], "scale": file.initializers[node.input[2]]}
    if zero := _optional(node, 3):
        tensors["zero"] = file.initializers[zero]
    scale = {kind: word for word, kind in _SCALES.items()}.get(tensors["scale"].data_type)
    where = f"tensor {quoted(tensors['codes'].name)} in {file.path}"
    if rows < 1 or cols < 1 or scale is None:
        raise CheckpointError(f"{where} is read as {quoted(rows)} x {quoted(cols)} numbers; the file is damaged.")
    symmetric = not zero
    format_name = uniform_name(bits, size, symmetric=symmetric, scale=scale, signed=symmetric)
    matrix = GraphMatrix(name, format_name, (rows, cols), transposed=True, dims=(cols, rows))
    wanted = MatMulNBits().slots(matrix)
    for part, (kind, dims) in wanted.items():
        tensor = tensors[part]
        if tensor.data_type != kind or np.prod(tensor.dims, dtype=object) != np.prod(dims, dtype=object):
            raise CheckpointError(
                f"tensor {quoted(tensor.name)} in {file.path} is {type_name(tensor.data_type)} "
                f"{quoted(list(tensor.dims))} and its node calls for {type_name(kind)} {list(dims)}; the file is "
                "damaged."
            )
    return Held(matrix, tensors, node.input[1])
