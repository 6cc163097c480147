"""BatchNormalization behind a convolution, put into its filter and bias: exact, and nothing is left to compute.

y = g * (w * x + b - m) / sqrt(v + eps) + s  =  (w * g / d) * x + (b - m) * g / d + s,  d = sqrt(v + eps).
Source: Jacob et al. 2018, arXiv:1712.05877, section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fewbits.checkpoints.onnx.graphs import attributes
from fewbits.checkpoints.onnx.products import STANDARD
from fewbits.onnx_activations.graph import Array, Facts, Graph

NORMALIZES = "BatchNormalization"
FOLDED = "_folded"
"""How the name of a filter ends that took a normalization in."""
_EPSILON = 1e-5


@dataclass(frozen=True)
class Folded:
    """One normalization that went into the convolution before it."""

    node: str
    """The value that it made."""
    weight: str
    """The filter's name in the source."""


def fold_normalizations(graph: Graph) -> tuple[Folded, ...]:
    """Fold what can be folded in `graph`, which is changed; a new filter has the old one's name with an ending."""
    facts = Facts.of(graph)
    found, gone, unused = [], set(), set[str]()
    for node in graph.model.graph.node:
        conv = _convolution(node, facts)
        if conv is None:
            continue
        numbers = [facts.numbers(name) for name in (conv.input[1], *node.input[1:5])]
        bias = facts.numbers(conv.input[2]) if len(conv.input) > 2 and conv.input[2] else None
        weight, shift = folded_numbers(numbers, bias, float(attributes(node).get("epsilon", _EPSILON)))
        unused |= {*conv.input[1:], *node.input[:5]}
        found.append(Folded(node.output[0], conv.input[1]))
        new = f"{conv.input[1]}{FOLDED}"
        names = [graph.add(new, weight), graph.add(f"{new}_bias", shift)]
        first = conv.input[0]
        del conv.input[:]
        conv.input.extend([first, *names])
        gone.add(node.output[0])
        conv.output[0] = node.output[0]
    graph.set_nodes(n for n in graph.model.graph.node if n.op_type != NORMALIZES or n.output[0] not in gone)
    graph.drop_unused(unused)
    return tuple(found)


def folded_numbers(numbers: list[Array | None], bias: Array | None, epsilon: float) -> tuple[Array, Array]:
    """Filter and bias in float32 of filter, gain, shift, mean and variance; worked out in float64."""
    weight, gain, shift, mean, variance = (each.astype(np.float64) for each in numbers if each is not None)
    scale = gain / np.sqrt(variance + epsilon)
    start = 0.0 if bias is None else bias.astype(np.float64)
    turned = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    return turned.astype(np.float32), ((start - mean) * scale + shift).astype(np.float32)


def _convolution(node: Any, facts: Facts) -> Any | None:
    """The Conv into which `node` goes; None where it is no such node, or others see what lies between."""
    if node.op_type != NORMALIZES or node.domain not in STANDARD or len(node.input) != 5:
        return None
    if attributes(node).get("training_mode", 0) or sum(map(bool, node.output)) != 1:
        return None
    between = node.input[0]
    conv = facts.makers.get(between)
    if conv is None or conv.op_type != "Conv" or conv.domain not in STANDARD or facts.users[between] != 1:
        return None
    if between in facts.hidden or between in facts.outputs:
        return None
    constants = (*conv.input[1:], *node.input[1:5])
    return conv if all(facts.is_float(name) for name in constants if name) else None
