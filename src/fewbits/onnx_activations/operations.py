"""What integers can compute: operators for which ONNX Runtime has a kernel between DequantizeLinear and QuantizeLinear.

Three kinds. A product multiplies by a constant matrix, or two values by each other. Something that follows (Add,
Concat, pooling) computes on codes only where its inputs are codes already. Something that moves (MaxPool, Reshape,
Transpose) hands codes on as they are, so that its output has its input's scale.
Source: ONNX Runtime's selectors of nodes between DequantizeLinear and QuantizeLinear, tried in tests/peers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import Any

from fewbits.checkpoints.onnx.products import STANDARD, Product, product_of
from fewbits.onnx_activations.graph import Facts

PRODUCT, FOLLOWS, MOVES = "product", "follows", "moves"


@dataclass(frozen=True)
class Operation:
    """A node that can compute with whole numbers."""

    node: Any
    kind: str
    """PRODUCT, FOLLOWS or MOVES."""
    places: tuple[int, ...]
    """Which inputs are rounded values."""
    weight: str = ""
    """The constant that it multiplies by; "" where it multiplies two values."""
    axis: int = 0
    """The side of that constant which has its outputs."""
    bias: str = ""
    rounds_output: bool = False
    """Whether its kernel gives codes alone, so that its output has to be rounded too."""

    @property
    def output(self) -> str:
        """Its first output, by which it is known."""
        return str(self.node.output[0])

    @property
    def values(self) -> tuple[str, ...]:
        """The names of its rounded inputs."""
        return tuple(self.node.input[place] for place in self.places)


def operation_of(node: Any, facts: Facts) -> Operation | str | None:
    """`node` as an operation, why it is none though it multiplies, or None for what computes in floats anyway."""
    find = _KINDS.get(node.op_type) if node.domain in STANDARD else None
    return find(node, facts) if find else None


def _weighted(node: Any, facts: Facts) -> Operation | str | None:
    """A product with a constant."""
    product = product_of(node)
    if product is None:
        return "it has alpha, beta or transA, or its factors are one value"
    if product.weight not in facts.constants:
        return "its matrix is worked out at run time"
    if not facts.is_float(product.weight):
        return "its matrix is not in float32"
    dims = facts.dims(product.weight)
    if not prod(dims) or (len(dims) > 2) != (node.op_type == "Conv"):
        return "its matrix has other than two sides"
    why = _bias(product, dims, facts)
    if why:
        return why
    axis = len(dims) - 1 if product.transposed else 0
    return Operation(node, PRODUCT, (0,), product.weight, axis, product.bias, rounds_output=node.op_type == "Conv")


def _bias(product: Product, dims: tuple[int, ...], facts: Facts) -> str:
    """Why a bias cannot become whole numbers."""
    if not product.bias:
        return ""
    outputs = dims[-1] if product.transposed else dims[0]
    if not facts.is_float(product.bias):
        return "its bias is no constant in float32"
    return "" if facts.dims(product.bias) in ((outputs,), (1, outputs)) else "its bias is not one number per output"


def _matmul(node: Any, facts: Facts) -> Operation | str | None:
    """A product with a constant, or of two values."""
    one, other = node.input
    if one in facts.constants:
        return "its matrix is the first factor"
    if other in facts.constants:
        if facts.ranks.get(one) == 1:
            return "it multiplies a vector"
        return _weighted(node, facts)
    return "its factors are one value" if one == other else Operation(node, PRODUCT, (0, 1))


def _follows(node: Any, facts: Facts) -> Operation | None:
    """All of its inputs are values."""
    places = tuple(range(len(node.input)))
    if any(not name or name in facts.constants for name in node.input) or len(node.output) != 1:
        return None
    return Operation(node, FOLLOWS, places, rounds_output=True)


def _pair(node: Any, facts: Facts) -> Operation | None:
    """Add or Mul of two different values."""
    return None if node.input[0] == node.input[1] else _follows(node, facts)


def _moves(node: Any, facts: Facts) -> Operation | None:
    """The first input is a value, the others say how it is moved."""
    if node.input[0] in facts.constants or sum(map(bool, node.output)) != 1:
        return None
    return Operation(node, MOVES, (0,), rounds_output=True)


def _pools(node: Any, facts: Facts) -> Operation | None:
    """MaxPool takes codes from version 12 on."""
    return _moves(node, facts) if facts.graph.opset >= 12 else None


def _stays(why: str) -> Callable[[Any, Facts], str]:
    return lambda node, facts: why


_KINDS: Mapping[str, Callable[[Any, Facts], Operation | str | None]] = MappingProxyType(
    {
        "Conv": _weighted,
        "Gemm": _weighted,
        "MatMul": _matmul,
        "Add": _pair,
        "Mul": _pair,
        "Concat": _follows,
        "AveragePool": _follows,
        "GlobalAveragePool": _follows,
        "Sigmoid": _follows,
        "LeakyRelu": _follows,
        "MaxPool": _pools,
        "Reshape": _moves,
        "Flatten": _moves,
        "Transpose": _moves,
        "Squeeze": _moves,
        "Unsqueeze": _moves,
        "ConvTranspose": _stays("ONNX Runtime has no integer kernel for it"),
        "Einsum": _stays("ONNX Runtime has no integer kernel for it"),
        "LSTM": _stays("recurrent layers compute in floats; their matrices are stored in 8 bits"),
        "GRU": _stays("recurrent layers compute in floats; their matrices are stored in 8 bits"),
        "RNN": _stays("recurrent layers compute in floats"),
    }
)

ABSORBED = frozenset({"Relu", "Clip"})
"""What a rounded output does by itself: its lowest code is 0, or the range ends where Clip ends."""
