"""GatherBlockQuantized, ONNX Runtime's operator that looks rows of few bits up in a table: the codes of MatMulNBits.

    data         UINT8 (rows, cols * bits / 8), codes counted from the lowest; or INT4 or UINT4 (rows, cols)
    scales       FLOAT or FLOAT16, as the graph computes (rows, groups)
    zero_points  as data; without it the middle code of UINT8 is zero, and 0 of the others

w = scale * (code - zero). Source: ONNX Runtime's documentation of its contributed operators, GatherBlockQuantized.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fewbits.checkpoints.dialects.uniform import uniform_name, uniform_of
from fewbits.checkpoints.onnx.dialects.base import GraphMatrix, Held, Parts
from fewbits.checkpoints.onnx.elements import FLOAT, FLOAT16, INT4, UINT4, UINT8, type_name
from fewbits.checkpoints.onnx.file import OnnxFile
from fewbits.checkpoints.onnx.graphs import whole_numbers
from fewbits.checkpoints.onnx.products import MICROSOFT, Product
from fewbits.checkpoints.quoting import quoted
from fewbits.formats import Fields
from fewbits.formats.fields import pack_bits, packed_bytes, unpack_bits

OPERATOR = "GatherBlockQuantized"
_BITS, _GROUPS = (2, 4, 8), (16, 32, 64, 128, 256)
_SCALES = {FLOAT: "f32", FLOAT16: "f16"}


def is_lookup(node: Any) -> bool:
    """Whether `node` is the operator, with codes and scales."""
    return bool(node.op_type == OPERATOR and node.domain == MICROSOFT and len(node.output) == 1 and len(node.input) > 2)


def lookup(product: Product, matrix: GraphMatrix, parts: Parts) -> Any:
    """The operator in place of Gather."""
    from onnx import helper

    found, node = uniform_of(matrix), product.node
    codes, *others = parts.tensors.values()
    made = helper.make_node(
        OPERATOR,
        [codes, product.input, *others],
        [product.output],
        name=node.name or None,
        doc_string=node.doc_string or None,
        domain=MICROSOFT,
        bits=found.bits,
        block_size=found.group,
        gather_axis=0,
        quantize_axis=1,
    )
    made.metadata_props.extend(node.metadata_props)
    return made


def gather(product: Product, table: str) -> Any:
    """The standard operator in place of this one, on a decoded table."""
    from onnx import helper

    node = product.node
    made = helper.make_node(
        "Gather",
        [table, product.input],
        [product.output],
        name=node.name or None,
        doc_string=node.doc_string or None,
    )
    made.metadata_props.extend(node.metadata_props)
    return made


def held_table(name: str, node: Any, file: OnnxFile) -> Held | str:
    """The matrix of an operator, or why no format here is what it holds."""
    told, data = whole_numbers(node), file.initializers[node.input[0]]
    zero_name = node.input[3] if len(node.input) > 3 else ""
    if node.input[2] not in file.initializers or (zero_name and zero_name not in file.initializers):
        return "has scales or zero points that are worked out at run time"
    scale, zero = file.initializers[node.input[2]], file.initializers.get(zero_name)
    bits, size = told.get("bits", 4), told.get("block_size", 128)
    if told.get("gather_axis", 0) or told.get("quantize_axis", 1) not in (1, -1) or len(data.dims) != 2:
        return "is looked up along another side than its rows, or has groups along another one than its columns"
    if data.data_type not in (UINT8, INT4, UINT4) or bits not in _BITS or size not in _GROUPS:
        return f"has {quoted(bits)} bits in groups of {quoted(size)} columns, which is not read here"
    each = 8 // bits if data.data_type == UINT8 else 1
    rows, cols = data.dims[0], data.dims[1] * each
    if scale.data_type not in _SCALES or cols % size or list(scale.dims) != [rows, cols // size]:
        return f"has scales of the type {type_name(scale.data_type)} {quoted(list(scale.dims))}, which do not fit it"
    width = packed_bytes(cols // size, bits) if data.data_type == UINT8 else cols // size
    if zero is not None and (zero.data_type != data.data_type or list(zero.dims) != [rows, width]):
        return "has zero points of another shape or type than its scales and codes"
    signed = data.data_type != UINT4 and (data.data_type == INT4 or zero is None)
    symmetric = zero is None and data.data_type != UINT4
    format_name = uniform_name(bits, size, symmetric=symmetric, scale=_SCALES[scale.data_type], signed=signed)
    matrix = GraphMatrix(name, format_name, (rows, cols), dims=(rows, cols), looked_up=True)
    tensors = {"codes": data, "scale": scale} | ({} if zero is None else {"zero": zero})
    return Held(matrix, tensors, node.input[0])


def typed_fields(held: Held, file: OnnxFile) -> Fields:
    """The fields of a table in INT4 or UINT4, whose codes are packed one after another, whole rows or not."""
    (rows, cols), found = held.matrix.shape, uniform_of(held.matrix)
    lines = {"codes": (rows, cols), "zero": (rows, found.groups(cols))}
    fields: Fields = {"scale": _scales(held, file, lines["zero"])}
    for part, shape in lines.items():
        if part == "zero" and found.symmetric:
            continue
        numbers = np.zeros(shape, np.uint8)
        if part in held.tensors:
            data = np.ascontiguousarray(file.payload(held.tensors[part])).reshape(1, -1)
            numbers = unpack_bits(data, found.bits, rows * shape[1]).reshape(shape)
        fields[part] = pack_bits(numbers, found.bits)
    return fields


def _scales(held: Held, file: OnnxFile, lines: tuple[int, int]) -> Any:
    kind = {"f32": "<f4", "f16": "<f2"}[uniform_of(held.matrix).scale]
    return file.payload(held.tensors["scale"]).view(kind).reshape(lines)
