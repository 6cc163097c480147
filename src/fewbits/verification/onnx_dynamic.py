"""The stranger's reading of products whose scales are found at run time: several nodes that are one product.

y = Cast(MatMulInteger(codes, w, zero)) * (scale * w_scales) + bias,   codes, scale, zero = DynamicQuantizeLinear(x)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fewbits.verification.onnx_meanings import Codes, NodeMeaning, Read, Rounding
from fewbits.verification.onnx_numbers import View

_OPERATORS: Mapping[str, str] = {"MatMul": "MatMulInteger", "Gemm": "MatMulInteger", "Conv": "ConvInteger"}
_ARRAYS: Mapping[int, str] = {1: "<f4", 2: "u1", 3: "i1"}
_LSTM_INPUTS = 8


def lstm_meaning(view: View, node: Any, source: Any, read: Callable[[str], Read]) -> NodeMeaning | None:
    """DynamicQuantizeLSTM as the LSTM that `source` was: codes lie turned, with a scale per direction and output."""
    if source.op_type != "LSTM" or node.op_type != "DynamicQuantizeLSTM" or node.domain != "com.microsoft":
        return None
    inputs = [read(name) for name in node.input[: len(source.input)]]
    for place, first in ((1, _LSTM_INPUTS), (2, _LSTM_INPUTS + 2)):
        codes, scale, zero = (_array(view, name) for name in (node.input[place], *node.input[first : first + 2]))
        if scale.shape != (codes.shape[0], codes.shape[2]) or zero.shape != scale.shape or zero.any():
            raise ValueError("scales do not stand beside their gates")
        held = Codes(codes.transpose(0, 2, 1).astype(np.int64), scale.astype(np.float64)[:, :, None])
        names = frozenset((node.input[place], *node.input[first : first + 2]))
        inputs[place] = Read(node.input[place], None, held, names)
    if any(node.input[len(source.input) : _LSTM_INPUTS]):
        raise ValueError("it has inputs that LSTM had not")
    return NodeMeaning(node, "LSTM", source.domain, tuple(inputs), (node,))


def lookup_meaning(view: View, makers: Mapping[str, Any], node: Any, source: Any) -> NodeMeaning | None:
    """Rows of codes times their scales, as the lookup that `source` was."""
    if source.op_type != "Gather" or node.op_type != "Mul":
        return None
    cast, scales = (makers.get(name) for name in node.input)
    codes = makers.get(cast.input[0]) if cast is not None and cast.op_type == "Cast" else None
    if codes is None or scales is None or (codes.op_type, scales.op_type) != ("Gather", "Gather"):
        return None
    if codes.input[1] != scales.input[1] or codes.attribute or scales.attribute or _number(cast, "to") != 1:
        raise ValueError(f"{node.output[0]!r} is no lookup")
    names = (codes.input[0], scales.input[0])
    table, lines = (_array(view, name) for name in names)
    if lines.shape != (table.shape[0], 1):
        raise ValueError("scales do not stand beside their rows")
    held = Codes(table.astype(np.int64), lines.astype(np.float64))
    inputs = (Read(names[0], None, held, frozenset(names)), Read(codes.input[1]))
    return NodeMeaning(codes, "Gather", source.domain, inputs, (node, cast, scales, codes), own_attributes=True)


def dynamic_meaning(view: View, makers: Mapping[str, Any], node: Any, source: Any) -> NodeMeaning | None:
    """`node` as the end of a product that `source` was; None where it is none. Raises ValueError where it is askew."""
    if source.op_type not in _OPERATORS or node.op_type not in ("Mul", "Add"):
        return None
    product = makers.get(node.input[0]) if node.op_type == "Add" else node
    bias = node.input[1] if node.op_type == "Add" else ""
    cast = makers.get(product.input[0]) if product is not None and product.op_type == "Mul" else None
    integer = makers.get(cast.input[0]) if cast is not None and cast.op_type == "Cast" else None
    if product is None or cast is None or integer is None or integer.op_type != _OPERATORS[source.op_type]:
        return None
    step, rounds = makers[product.input[1]], makers[integer.input[0]]
    codes, scale, zero = rounds.output
    if rounds.op_type != "DynamicQuantizeLinear" or step.op_type != "Mul" or _number(cast, "to") != 1:
        raise ValueError(f"{node.output[0]!r} is no product of whole numbers")
    if (integer.input[0], step.input[0]) != (codes, scale) or integer.input[2] != zero:
        raise ValueError(f"{node.output[0]!r} has the scale or zero point of another value")
    constants = {integer.input[1], step.input[1], *integer.input[3:]}
    weight = Read(integer.input[1], None, _held(view, integer, step, source), frozenset(constants))
    inputs = [Read(rounds.input[0], Rounding(0.0, 0, dynamic=True)), weight]
    if bias:
        inputs.append(_bias(view, bias, source))
    nodes = (node, product, cast, integer, step, rounds)
    return NodeMeaning(integer, source.op_type, source.domain, tuple(inputs), nodes, source.op_type == "Gemm")


def _held(view: View, integer: Any, step: Any, source: Any) -> Codes:
    """The constant as the source's product has it."""
    codes = _array(view, integer.input[1]).astype(np.int64)
    if len(integer.input) > 3:
        codes = codes - int(_array(view, integer.input[3]).reshape(()))
    scale = _array(view, step.input[1]).astype(np.float64)
    sides = codes.ndim
    if source.op_type == "Conv":
        if scale.size > 1 and scale.shape != (1, codes.shape[0], *[1] * (sides - 2)):
            raise ValueError("scales do not stand beside their channels")
        return Codes(codes, scale.reshape(-1, *[1] * (sides - 1)))
    if scale.size > 1 and scale.shape != (codes.shape[1],):
        raise ValueError("scales do not stand beside their outputs")
    scale = scale.reshape(1, -1)
    if source.op_type == "Gemm":
        if _number(source, "transA") or _number(source, "alpha", 1) != 1 or _number(source, "beta", 1) != 1:
            raise ValueError("a Gemm that turns or scales its input is no product alone")
        if _number(source, "transB"):
            return Codes(codes.T, scale.T)
    return Codes(codes, scale)


def _bias(view: View, name: str, source: Any) -> Read:
    """What is added; of Conv the same numbers beside the channels."""
    if source.op_type != "Conv":
        return Read(name)
    array = _array(view, name)
    if array.shape[:1] != (1,) or array.size != array.shape[1]:
        raise ValueError("a bias does not stand beside its channels")
    return Read(name, exact=array.reshape(-1).astype(np.float64), tensors=frozenset({name}))


def _array(view: View, name: str) -> Any:
    tensor = view.constants[name]
    data = np.ascontiguousarray(view.bytes_of(tensor))
    return data.view(_ARRAYS[tensor.data_type]).reshape(tuple(tensor.dims))


def _number(node: Any, name: str, default: float = 0) -> float:
    return next((each.f if each.type == 1 else each.i for each in node.attribute if each.name == name), default)
