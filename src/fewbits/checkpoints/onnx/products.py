"""Nodes with a constant matrix: what MatMul, Gemm, Conv and Gather do with it, said in one way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from fewbits.checkpoints.onnx.graphs import attributes

STANDARD = ("", "ai.onnx")
"""Domains of the standard operators."""
MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class Product:
    """`output` = `input` times the matrix `weight`, of which a row makes one output, plus `bias`.

    Where `weight` is `looked_up`, `output` is the rows of it that `input` numbers.
    """

    node: Any
    input: str
    weight: str
    transposed: bool
    """Whether the constant lies in the graph with its columns as rows."""
    bias: str
    """"" where nothing is added."""
    output: str
    looked_up: bool = False

    @property
    def place(self) -> int:
        """Which input of a standard operator the matrix is."""
        return 0 if self.looked_up else 1


def _matmul(node: Any) -> Product | None:
    if len(node.input) != 2 or node.input[0] == node.input[1]:
        return None
    return Product(node, node.input[0], node.input[1], True, "", node.output[0])


def _gemm(node: Any) -> Product | None:
    told = attributes(node)
    if told.get("transA", 0) or told.get("alpha", 1.0) != 1.0 or told.get("beta", 1.0) != 1.0:
        return None
    if len(node.input) < 2 or node.input[1] in (node.input[0], *node.input[2:]):
        return None
    bias = node.input[2] if len(node.input) > 2 else ""
    return Product(node, node.input[0], node.input[1], not told.get("transB", 0), bias, node.output[0])


def _conv(node: Any) -> Product | None:
    """A filter of Conv, (outputs, inputs of its group, sides), whose rows are outputs."""
    if len(node.input) < 2 or node.input[1] in (node.input[0], *node.input[2:]):
        return None
    return Product(
        node, node.input[0], node.input[1], False, node.input[2] if len(node.input) > 2 else "", node.output[0]
    )


def _gather(node: Any) -> Product | None:
    if len(node.input) != 2 or node.input[0] == node.input[1] or attributes(node).get("axis", 0):
        return None
    return Product(node, node.input[1], node.input[0], False, "", node.output[0], looked_up=True)


_KINDS: Mapping[str, Callable[[Any], Product | None]] = MappingProxyType(
    {"MatMul": _matmul, "Gemm": _gemm, "Conv": _conv, "Gather": _gather}
)


def product_of(node: Any) -> Product | None:
    """`node` as something done with a matrix; None for other nodes, and for Gemm that scales or turns its input."""
    if node.domain not in STANDARD or node.op_type not in _KINDS or len(node.output) != 1:
        return None
    return _KINDS[node.op_type](node)
