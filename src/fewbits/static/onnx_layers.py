"""Layers of codes as ONNX nodes: DequantizeLinear, the operation on floats, QuantizeLinear; runtimes fuse them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from fewbits.static.affine import KINDS
from fewbits.static.layers import (
    Add,
    Average,
    AveragePool,
    Concatenate,
    Convolution,
    Dequantize,
    Embedding,
    Limit,
    Linear,
    Product,
    Quantize,
    Target,
)
from fewbits.static.onnx_graph import OnnxGraph
from fewbits.static.program import Step
from fewbits.static.weights import PAIR, largest_pair

LayerTranslation = Callable[[OnnxGraph, Any, Step], str]


def _quantized(graph: OnnxGraph, floats: str, target: Target, name: str) -> str:
    """Codes of floats, within their bounds: bounds come behind, so that a product and its rounding stay neighbours."""
    affine, kind = target.affine, KINDS.get(target.affine.kind)
    if (target.low, target.high) == (kind.low, kind.high):
        return graph.node("QuantizeLinear", [floats, *graph.affine(affine)], name=name)
    return _bounded(graph, graph.node("QuantizeLinear", [floats, *graph.affine(affine)]), target, name)


def _bounded(graph: OnnxGraph, codes: str, target: Target, name: str) -> str:
    bounds = [graph.code(code, target.affine) for code in (target.low, target.high)]
    return graph.node("Clip", [codes, *bounds], name=name)


def _quantize(graph: OnnxGraph, layer: Quantize, step: Step) -> str:
    return _quantized(graph, graph.of(step.args[0]), layer.target, step.name)


def _dequantize(graph: OnnxGraph, layer: Dequantize, step: Step) -> str:
    return graph.dequantized(graph.of(step.args[0]), layer.source)


def _weight(graph: OnnxGraph, layer: Product, name: str, *, turned: bool = False) -> str:
    """The weight in floats, rows first, or turned.

    Codes stay int8, ONNX Runtime's fastest way, where no two neighbours add up to more than fits the 16 bits in which
    processors without VNNI add two products with uint8: `weights.py` sees to that. Others are uint8 around 128.
    """
    codes, scale = layer.part("codes"), layer.part("weight_scale")
    zero = 0 if int(largest_pair(codes.int()).max()) <= PAIR else 128
    kind = np.uint8 if zero else np.int8
    raised = (codes.to(torch.int16) + zero).numpy().astype(kind)
    held = graph.constant(raised.T if turned else raised, f"{name}.codes")
    if len(scale) == 1:
        return graph.node("DequantizeLinear", [held, graph.constant(scale[0]), graph.constant(kind(zero))])
    zeros = graph.constant(np.full(len(scale), zero, kind), f"{name}.zeros")
    place = int(turned) * (codes.dim() - 1)
    return graph.node("DequantizeLinear", [held, graph.constant(scale, f"{name}.scale"), zeros], axis=place)


def _bias(graph: OnnxGraph, layer: Product, name: str) -> str:
    """The bias in floats, out of whole numbers in the scale of the sums."""
    scale = (layer.part("weight_scale") * layer.part("scale")).expand(len(layer.part("bias"))).contiguous()
    held = graph.constant(layer.part("bias"), f"{name}.bias")
    if len(layer.part("weight_scale")) == 1:
        return graph.node("DequantizeLinear", [held, graph.constant(scale[0]), graph.constant(np.int32(0))])
    zeros = graph.constant(np.zeros(len(scale), np.int32), f"{name}.bias_zeros")
    return graph.node("DequantizeLinear", [held, graph.constant(scale, f"{name}.bias_scale"), zeros], axis=0)


def _linear(graph: OnnxGraph, layer: Linear, step: Step) -> str:
    x, name = graph.dequantized(graph.of(step.args[0]), layer.source), step.op
    if len(step.shape or ()) == 2:
        floats = graph.node("Gemm", [x, _weight(graph, layer, name), _bias(graph, layer, name)], transB=1)
    else:
        product = graph.node("MatMul", [x, _weight(graph, layer, name, turned=True)])
        floats = graph.node("Add", [product, _bias(graph, layer, name)])
    return _quantized(graph, floats, layer.target, step.name) if layer.coded else floats


def _convolution(graph: OnnxGraph, layer: Convolution, step: Step) -> str:
    inputs = [
        graph.dequantized(graph.of(step.args[0]), layer.source),
        _weight(graph, layer, step.op),
        _bias(graph, layer, step.op),
    ]
    floats = graph.node(
        "Conv",
        inputs,
        strides=layer.stride,
        pads=layer.padding * 2,
        dilations=layer.dilation,
        group=layer.groups,
        kernel_shape=list(layer.part("codes").shape[2:]),
    )
    return _quantized(graph, floats, layer.target, step.name)


def _parts(graph: OnnxGraph, layer: Any, step: Step) -> list[str]:
    """What a layer puts together, in floats."""
    pairs = zip(step.args, layer.sources, strict=True)
    return [graph.dequantized(graph.of(ref), source) for ref, source in pairs]


def _add(graph: OnnxGraph, layer: Add, step: Step) -> str:
    return _quantized(graph, graph.node("Add", _parts(graph, layer, step)), layer.target, step.name)


def _concatenate(graph: OnnxGraph, layer: Concatenate, step: Step) -> str:
    floats = graph.node("Concat", _parts(graph, layer, step), axis=layer.dim)
    return _quantized(graph, floats, layer.target, step.name)


def _average(graph: OnnxGraph, layer: Average, step: Step) -> str:
    [x] = _parts(graph, layer, step)
    dims = len(step.shape or ()) + (0 if layer.kept else len(layer.dims))
    axes = sorted(dim % dims for dim in layer.dims)
    if axes != list(range(2, dims)):
        floats = graph.node("ReduceMean", [x, graph.numbers(*axes)], keepdims=int(layer.kept))
        return _quantized(graph, floats, layer.target, step.name)
    found = _quantized(graph, graph.node("GlobalAveragePool", [x]), layer.target, f"{step.name}/pooled")
    return found if layer.kept else graph.node("Squeeze", [found, graph.numbers(*axes)])


def _average_pool(graph: OnnxGraph, layer: AveragePool, step: Step) -> str:
    [x] = _parts(graph, layer, step)
    floats = graph.node("AveragePool", [x], kernel_shape=layer.size, strides=layer.stride)
    return _quantized(graph, floats, layer.target, step.name)


def _limit(graph: OnnxGraph, layer: Limit, step: Step) -> str:
    return _bounded(graph, graph.of(step.args[0]), layer.target, step.name)


def _embedding(graph: OnnxGraph, layer: Embedding, step: Step) -> str:
    ids, scale = graph.of(step.args[0]), layer.part("weight_scale")
    rows = graph.node("Gather", [graph.constant(layer.part("codes"), f"{step.op}.codes"), ids], axis=0)
    floats = graph.node("Cast", [rows], to=1)
    if len(scale) == 1:
        return graph.node("Mul", [floats, graph.single(float(scale))])
    scales = graph.constant(scale[:, None].contiguous(), f"{step.op}.scale")
    return graph.node("Mul", [floats, graph.node("Gather", [scales, ids], axis=0)])


LAYERS: Mapping[type[torch.nn.Module], LayerTranslation] = MappingProxyType(
    {
        Quantize: _quantize,
        Dequantize: _dequantize,
        Linear: _linear,
        Convolution: _convolution,
        Add: _add,
        Concatenate: _concatenate,
        Average: _average,
        AveragePool: _average_pool,
        Limit: _limit,
        Embedding: _embedding,
    }
)
"""Class of a layer -> its nodes."""
