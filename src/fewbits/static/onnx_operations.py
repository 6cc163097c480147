"""Operations of torch that stay as they are, as ONNX nodes: on floats, on sizes, and those that move codes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch

from fewbits.static.building import geometry
from fewbits.static.folding import NORM
from fewbits.static.onnx_graph import OnnxGraph, Translation, refuse
from fewbits.static.operators import LIMITS, averaged, keeps, pooled, windows
from fewbits.static.program import Ref, Step


def _plain(kind: str, count: int = 1, **attributes: Any) -> Translation:
    """A node of the same name and with the same inputs."""
    return lambda graph, step: graph.node(kind, [graph.of(each) for each in step.args[:count]], **attributes)


def _arithmetic(kind: str) -> Translation:
    """A sum, difference, product or quotient of two; torch's `alpha` scales the second."""

    def translated(graph: OnnxGraph, step: Step) -> str:
        one, other = graph.of(step.args[0]), graph.of(step.args[1])
        alpha = dict(step.kwargs).get("alpha", 1)
        if set(dict(step.kwargs)) - {"alpha"} or not step.floating:
            raise refuse(step)
        return graph.node(kind, [one, other if alpha == 1 else graph.node("Mul", [other, graph.single(alpha)])])

    return translated


def _sizes(kind: str) -> Translation:
    """Arithmetic on sizes."""

    def translated(graph: OnnxGraph, step: Step) -> str:
        given = [graph.of(each) if isinstance(each, Ref) else graph.numbers(each) for each in step.args]
        return graph.node(kind, given)

    return translated


def _size(graph: OnnxGraph, step: Step) -> str:
    shape = graph.node("Shape", [graph.of(step.args[0])])
    return graph.node("Gather", [shape, graph.numbers(step.args[1])], axis=0)


def _item(graph: OnnxGraph, step: Step) -> str:
    source, place = step.args[0].name, step.args[1]
    if source in graph.splits:
        return _cut(graph, *graph.splits[source], place)
    if place != 0 or source not in graph.values:
        raise refuse(step)
    return graph.values[source]


def _cut(graph: OnnxGraph, whole: str, sizes: int | tuple[int, ...], dim: int, place: int) -> str:
    """One part of what is split into parts of one size, the last one shorter, or of several sizes."""
    begin = place * sizes if isinstance(sizes, int) else sum(sizes[:place])
    size = sizes if isinstance(sizes, int) else sizes[place]
    return graph.node("Slice", [whole, *(graph.numbers(each) for each in (begin, begin + size, dim))])


def _linear(graph: OnnxGraph, step: Step) -> str:
    turned = graph.node("Transpose", [graph.of(step.args[1])], perm=[1, 0])
    product = graph.node("MatMul", [graph.of(step.args[0]), turned])
    bias = step.args[2] if len(step.args) > 2 else None
    return product if bias is None else graph.node("Add", [product, graph.of(bias)])


def _convolution(graph: OnnxGraph, step: Step) -> str:
    stride, padding, dilation, groups = geometry(step)
    inputs = [graph.of(each) for each in step.args[:3] if each is not None]
    return graph.node(
        "Conv", inputs, strides=list(stride), pads=list(padding) * 2, dilations=list(dilation), group=groups
    )


def _gelu(graph: OnnxGraph, step: Step) -> str:
    """X / 2 (1 + erf(x / sqrt 2)), or with the hyperbolic tangent in its place (arXiv:1606.08415)."""
    x = graph.of(step.args[0])
    if dict(step.kwargs).get("approximate", "none") == "none":
        bent = graph.node("Erf", [graph.node("Div", [x, graph.single(math.sqrt(2.0))])])
    else:
        cubed = graph.node("Mul", [graph.node("Mul", [x, x]), graph.node("Mul", [x, graph.single(0.044715)])])
        inner = graph.node("Mul", [graph.node("Add", [x, cubed]), graph.single(math.sqrt(2.0 / math.pi))])
        bent = graph.node("Tanh", [inner])
    return graph.node("Mul", [graph.node("Mul", [x, graph.single(0.5)]), graph.node("Add", [bent, graph.single(1.0)])])


def _silu(graph: OnnxGraph, step: Step) -> str:
    x = graph.of(step.args[0])
    return graph.node("Mul", [x, graph.node("Sigmoid", [x])])


def _limit(graph: OnnxGraph, step: Step) -> str:
    low, high = LIMITS[step.op](step)
    bounds = ["" if math.isinf(each) else graph.single(each) for each in (low, high)]
    return graph.node("Clip", [graph.of(step.args[0]), *bounds])


def _softmax(graph: OnnxGraph, step: Step) -> str:
    return graph.node("Softmax", [graph.of(step.args[0])], axis=int(step.args[1]))


def _layer_norm(graph: OnnxGraph, step: Step) -> str:
    x, dims, *rest = step.args
    stated: tuple[Any, ...] = (*rest, *(None, None, 1e-5)[len(rest) :])
    weight, bias, epsilon = stated[0], stated[1], stated[2]
    scale = graph.of(weight) if weight is not None else graph.constant(torch.ones(dims))
    inputs = [graph.of(x), scale, *([graph.of(bias)] if bias is not None else [])]
    return graph.node("LayerNormalization", inputs, axis=-len(dims), epsilon=float(epsilon))


def _norm(graph: OnnxGraph, step: Step) -> str:
    x, weight, bias, mean, variance = step.args[:5]
    if weight is None or bias is None:
        raise refuse(step)
    inputs = [graph.of(each) for each in (x, weight, bias, mean, variance)]
    return graph.node("BatchNormalization", inputs, epsilon=float(step.args[6]))


def _permute(graph: OnnxGraph, step: Step) -> str:
    order = [dim % len(step.args[1]) for dim in step.args[1]]
    return graph.node("Transpose", [graph.of(step.args[0])], perm=order)


def _transpose(graph: OnnxGraph, step: Step) -> str:
    dims = len(step.shape or ())
    order, (one, other) = list(range(dims)), ([0, 1] if len(step.args) == 1 else step.args[1:])
    order[one], order[other] = order[other], order[one]
    return graph.node("Transpose", [graph.of(step.args[0])], perm=order)


def _view(graph: OnnxGraph, step: Step) -> str:
    return graph.node("Reshape", [graph.of(step.args[0]), graph.sizes(step.args[1], step.shape)])


def _reshaped(graph: OnnxGraph, step: Step) -> str:
    """Dimensions of one, put in or taken out: a new shape of the same numbers."""
    if sum(size is None for size in step.shape or ()) > 1:
        raise refuse(step)
    return graph.node("Reshape", [graph.of(step.args[0]), graph.sizes((), step.shape)])


def _expand(graph: OnnxGraph, step: Step) -> str:
    """Expand takes 1 for a size that stays as it is, where torch says -1."""
    parts = [graph.of(each) if isinstance(each, Ref) else graph.numbers(abs(each)) for each in step.args[1]]
    return graph.node("Expand", [graph.of(step.args[0]), graph.node("Concat", parts, axis=0)])


def _select(graph: OnnxGraph, step: Step) -> str:
    index = graph.constant(torch.tensor(step.args[2]))
    return graph.node("Gather", [graph.of(step.args[0]), index], axis=int(step.args[1]))


def _slice(graph: OnnxGraph, step: Step) -> str:
    x, *rest = step.args
    stated: tuple[Any, ...] = (*rest, *(0, None, None, 1)[len(rest) :])
    dim, start, end, pace = stated
    if any(isinstance(each, Ref) for each in (start, end, pace)):
        raise refuse(step)
    last = 2**63 - 1
    bounds = [start or 0, last if end is None else end, dim, pace]
    return graph.node("Slice", [graph.of(x), *(graph.numbers(each) for each in bounds)])


def _split(graph: OnnxGraph, step: Step) -> str:
    x, sizes, *rest = step.args
    graph.splits[step.name] = graph.of(x), sizes, int(rest[0]) if rest else 0
    return graph.of(x)


def _cat(graph: OnnxGraph, step: Step) -> str:
    dim = int(step.args[1]) if len(step.args) > 1 else 0
    return graph.node("Concat", [graph.of(each) for each in step.args[0]], axis=dim)


def _mean(graph: OnnxGraph, step: Step) -> str:
    dims = averaged(step)
    if dims is None:
        raise refuse(step)
    return graph.node("ReduceMean", [graph.of(step.args[0]), graph.numbers(*dims)], keepdims=int(keeps(step)))


def _average_pool(graph: OnnxGraph, step: Step) -> str:
    if not pooled(step):
        raise refuse(step)
    size, stride = windows(step)
    return graph.node("AveragePool", [graph.of(step.args[0])], kernel_shape=list(size), strides=list(stride))


def _max_pool(graph: OnnxGraph, step: Step) -> str:
    dims = 2 if step.op == "aten.max_pool2d.default" else 1
    size, *rest = step.args[1:]
    stated: tuple[Any, ...] = (*rest, *((), (0,), (1,), False)[len(rest) :])
    stride, padding, dilation, ceiling = stated

    def each(given: Any) -> list[int]:
        return list(given) * dims if len(given) == 1 else list(given)

    return graph.node(
        "MaxPool",
        [graph.of(step.args[0])],
        kernel_shape=each(size),
        strides=each(stride or size),
        pads=each(padding) * 2,
        dilations=each(dilation),
        ceil_mode=int(ceiling),
    )


def _attention(graph: OnnxGraph, step: Step) -> str:
    """softmax(q k^T / sqrt(width) + mask) v; a mask of yes and no is not written."""
    query, key, value, *rest = step.args
    mask, dropped, causal = [*rest, *[None, 0.0, False][len(rest) :]][:3]
    width = (step.shape or (None,))[-1]
    words = dict(step.kwargs)
    if mask is not None or causal or dropped or width is None or words.get("enable_gqa"):
        raise refuse(step)
    scale = words.get("scale") or float(width) ** -0.5
    turned = graph.node("Transpose", [graph.of(key)], perm=_last_two(step))
    scores = graph.node("Mul", [graph.node("MatMul", [graph.of(query), turned]), graph.single(scale)])
    return graph.node("MatMul", [graph.node("Softmax", [scores], axis=-1), graph.of(value)])


def _last_two(step: Step) -> list[int]:
    """The order that turns the last two dimensions."""
    dims = len(step.shape or ())
    return [*range(dims - 2), dims - 1, dims - 2]


def _embedding(graph: OnnxGraph, step: Step) -> str:
    return graph.node("Gather", [graph.of(step.args[0]), graph.of(step.args[1])], axis=0)


OPERATIONS: Mapping[str, Translation] = MappingProxyType(
    {
        "aten.relu.default": _plain("Relu"),
        "aten.sigmoid.default": _plain("Sigmoid"),
        "aten.tanh.default": _plain("Tanh"),
        "aten.sqrt.default": _plain("Sqrt"),
        "aten.exp.default": _plain("Exp"),
        "aten.neg.default": _plain("Neg"),
        "aten.abs.default": _plain("Abs"),
        "aten.hardswish.default": _plain("HardSwish"),
        "aten.hardsigmoid.default": _plain("HardSigmoid", alpha=1.0 / 6.0, beta=0.5),
        "aten.matmul.default": _plain("MatMul", 2),
        "aten.bmm.default": _plain("MatMul", 2),
        "aten.pow.Tensor_Scalar": _plain("Pow", 2),
        "aten.add.Tensor": _arithmetic("Add"),
        "aten.sub.Tensor": _arithmetic("Sub"),
        "aten.mul.Tensor": _arithmetic("Mul"),
        "aten.div.Tensor": _arithmetic("Div"),
        "aten.sym_size.int": _size,
        "operator.mul": _sizes("Mul"),
        "operator.add": _sizes("Add"),
        "operator.sub": _sizes("Sub"),
        "operator.floordiv": _sizes("Div"),
        "operator.getitem": _item,
        "aten.linear.default": _linear,
        "aten.conv1d.default": _convolution,
        "aten.conv2d.default": _convolution,
        "aten.gelu.default": _gelu,
        "aten.silu.default": _silu,
        "aten.hardtanh.default": _limit,
        "aten.clamp.default": _limit,
        "aten.clamp_min.default": _limit,
        "aten.softmax.int": _softmax,
        "aten._softmax.default": _softmax,
        "aten.layer_norm.default": _layer_norm,
        NORM: _norm,
        "aten.permute.default": _permute,
        "aten.transpose.int": _transpose,
        "aten.t.default": _transpose,
        "aten.view.default": _view,
        "aten.reshape.default": _view,
        "aten._unsafe_view.default": _view,
        "aten.flatten.using_ints": _reshaped,
        "aten.unsqueeze.default": _reshaped,
        "aten.squeeze.dim": _reshaped,
        "aten.squeeze.dims": _reshaped,
        "aten.squeeze.default": _reshaped,
        "aten.expand.default": _expand,
        "aten.select.int": _select,
        "aten.slice.Tensor": _slice,
        "aten.split_with_sizes.default": _split,
        "aten.split.Tensor": _split,
        "aten.cat.default": _cat,
        "aten.mean.dim": _mean,
        "aten.adaptive_avg_pool2d.default": _mean,
        "aten.adaptive_avg_pool1d.default": _mean,
        "aten.avg_pool2d.default": _average_pool,
        "aten.max_pool1d.default": _max_pool,
        "aten.max_pool2d.default": _max_pool,
        "aten.scaled_dot_product_attention.default": _attention,
        "aten.embedding.default": _embedding,
    }
)
"""torch's operation -> its nodes; what is not here is refused by name."""
