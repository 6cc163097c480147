"""The stranger's reading of a written graph with rounded values: what each node reads, by equations of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fewbits.verification.onnx_numbers import View

Doubles = npt.NDArray[np.float64]
_TYPES: Mapping[int, str] = {1: "<f4", 2: "u1", 3: "i1", 6: "<i4", 7: "<i8", 10: "<f2"}
"""TensorProto.DataType of what codes, scales and zero points are in."""
QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


@dataclass(frozen=True)
class Rounding:
    """What a value goes through: codes of 8 bits at a scale."""

    scale: float
    zero: int
    dynamic: bool = False
    """Whether both are found at run time."""


@dataclass(frozen=True)
class Codes:
    """A constant that is decoded: scale * (code - zero)."""

    codes: npt.NDArray[np.int64]
    scale: Doubles
    """As it stands beside the codes."""

    @property
    def numbers(self) -> Doubles:
        """What it stands for."""
        return self.codes * self.scale


@dataclass(frozen=True)
class Read:
    """One input of a node: a value of the source, perhaps rounded, or a constant that is codes."""

    name: str
    rounding: Rounding | None = None
    held: Codes | None = None
    tensors: frozenset[str] = frozenset()
    exact: Doubles | None = None
    """A constant in floats that lies there in another shape."""
    divided: str = ""
    """What the value is called once its columns are divided, before it is rounded."""
    by: Doubles | None = None
    """(columns,): what they are divided by."""

    @property
    def numbers(self) -> Callable[[], Doubles] | None:
        """The decoded constant; None where it is a value."""
        held = self.held
        return None if held is None else lambda: held.numbers

    @property
    def held_shape(self) -> tuple[int, ...]:
        """The shape in which scales stand beside codes."""
        assert self.held is not None
        return self.held.scale.shape

    def half_steps(self, shape: tuple[int, ...]) -> Doubles:
        """Half a step beside every number."""
        assert self.held is not None
        return np.broadcast_to(self.held.scale / 2, shape)

    def at_end(self) -> npt.NDArray[np.bool_]:
        """Whether a code is the largest of its kind, where numbers may be cut off."""
        assert self.held is not None
        sizes = np.abs(self.held.codes)
        axes = tuple(range(1, sizes.ndim))
        if self.held.scale.size == 1:
            return np.asarray(sizes == sizes.max(initial=0))
        side = int(np.argmax([n > 1 for n in self.held.scale.shape]))
        axes = tuple(place for place in range(sizes.ndim) if place != side)
        return np.asarray(sizes == sizes.max(axis=axes, keepdims=True, initial=0))


@dataclass(frozen=True)
class NodeMeaning:
    """A node of the source as it was written, perhaps as several."""

    node: Any
    operator: str
    domain: str
    inputs: tuple[Read, ...]
    nodes: tuple[Any, ...]
    own_attributes: bool = False
    """Whether its attributes are another operator's."""


@dataclass
class Written:
    """A written graph: nodes by the values of the source that they make."""

    view: View
    makers: dict[str, Any]
    pairs: dict[str, tuple[Any, Any]]
    """Value behind DequantizeLinear -> that node, and the QuantizeLinear before it."""
    routed: set[str]
    """Values of the source that all their users see rounded."""
    source_values: set[str] = field(default_factory=set)
    parameters: set[str] = field(default_factory=set)
    """Names of scales, zero points and factors."""
    _helpers: list[Any] = field(default_factory=list)

    @staticmethod
    def of(view: View, source_values: set[str]) -> Written:
        """The written graph beside the values of its source."""
        makers = {name: node for node in view.model.graph.node for name in node.output if name}
        pairs = {}
        for node in view.model.graph.node:
            before = makers.get(node.input[0]) if node.op_type == DEQUANTIZE else None
            # Codes that are values of the source itself would be its own.
            if before is not None and before.op_type == QUANTIZE and before.output[0] not in source_values:
                pairs[node.output[0]] = (node, before)
        return Written(view, makers, pairs, {name for name in pairs if name in source_values}, source_values)

    def maker_of(self, name: str) -> Any | None:
        """The node that makes a value of the source."""
        return self.makers.get(self.pairs[name][1].input[0] if name in self.routed else name)

    def meaning(self, node: Any) -> NodeMeaning:
        """What a node reads."""
        return NodeMeaning(node, node.op_type, node.domain, tuple(map(self.read, node.input)), (node,))

    def read(self, name: str) -> Read:
        """One input of a node."""
        if name in self.pairs:
            decodes, codes = self.pairs[name]
            self._helpers += [decodes, codes]
            value = name if name in self.routed else codes.input[0]
            divides = self._divides(value)
            if divides is None:
                return Read(value, self._rounding(decodes, codes))
            by = 1 / self._array(self.view.constants[divides.input[1]]).astype(np.float64)
            self._helpers.append(divides)
            self.parameters.add(divides.input[1])
            return Read(divides.input[0], self._rounding(decodes, codes), divided=value, by=by)
        maker = self.makers.get(name)
        if maker is not None and maker.op_type == DEQUANTIZE and maker.input[0] in self.view.constants:
            self._helpers.append(maker)
            return Read(name, None, self._codes(maker), frozenset(each for each in maker.input if each))
        shaped = self._shaped(maker)
        return shaped or Read(name)

    def _divides(self, value: str) -> Any | None:
        """The Mul by a row of constants that makes `value`, which the source does not have."""
        maker = self.makers.get(value)
        if maker is None or value in self.source_values or (maker.op_type, maker.domain) != ("Mul", ""):
            return None
        held = self.view.constants.get(maker.input[1])
        return maker if held is not None and held.data_type == 1 and len(held.dims) == 1 else None

    def _shaped(self, maker: Any) -> Read | None:
        """A constant that is decoded row by row, and then brought into its shape."""
        rows = self.makers.get(maker.input[0]) if maker is not None and maker.op_type == "Reshape" else None
        if rows is None or rows.op_type != DEQUANTIZE or rows.input[0] not in self.view.constants:
            return None
        if maker.input[1] not in self.view.constants:
            return None
        self._helpers += [rows, maker]
        held, shape = self._codes(rows), self._array(self.view.constants[maker.input[1]]).tolist()
        scale = np.broadcast_to(held.scale, held.codes.shape)[..., :1].reshape(*shape[:-1], 1)
        names = frozenset((*rows.input, maker.input[1]))
        return Read(maker.output[0], None, Codes(held.codes.reshape(shape), scale), names)

    def routed_roundings(self) -> Iterator[tuple[str, Rounding]]:
        """Values that all their users see rounded."""
        for name in self.routed:
            self._helpers += self.pairs[name]
            yield name, self._rounding(*self.pairs[name])

    def helpers(self) -> list[Any]:
        """Nodes that round and decode, of those that were met."""
        return self._helpers

    def _rounding(self, decodes: Any, codes: Any) -> Rounding:
        """The scale and the zero point that both nodes have."""
        if list(decodes.input[1:]) != list(codes.input[1:]) or len(codes.input) != 3:
            raise ValueError(f"{codes.output[0]!r} is not decoded as it was coded")
        if decodes.domain not in ("", "ai.onnx") or len(decodes.attribute) + len(codes.attribute):
            raise ValueError(f"{codes.output[0]!r} is coded in another way")
        scale, zero = (self.view.constants[name] for name in codes.input[1:])
        if (scale.data_type, zero.data_type) != (1, 2) or list(scale.dims) != [] or list(zero.dims) != []:
            raise ValueError(f"{codes.output[0]!r} has no single scale in float32 and zero point of 8 bits")
        self.parameters |= set(codes.input[1:])
        return Rounding(float(self._array(scale)), int(self._array(zero)))

    def _codes(self, node: Any) -> Codes:
        """A constant as DequantizeLinear decodes it."""
        tensor, scale = (self.view.constants[name] for name in node.input[:2])
        codes = self._array(tensor).astype(np.int64)
        axis = next((each.i for each in node.attribute if each.name == "axis"), 1) % max(1, codes.ndim)
        by = self._array(scale).astype(np.float64)
        if len(node.input) > 2 and node.input[2]:
            codes = codes - spread(self._array(self.view.constants[node.input[2]]).astype(np.int64), axis, codes)
        if any(each.name not in ("axis",) for each in node.attribute):
            raise ValueError(f"{node.output[0]!r} is decoded in another way")
        return Codes(codes, np.asarray(spread(by, axis, codes), np.float64))

    def _array(self, tensor: Any) -> npt.NDArray[Any]:
        data = np.ascontiguousarray(self.view.bytes_of(tensor))
        return data.view(_TYPES[tensor.data_type]).reshape(tuple(tensor.dims))


def spread(numbers: npt.NDArray[Any], axis: int, codes: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """One number, or one per index of side `axis`, as they stand beside `codes`."""
    if numbers.size == 1 and numbers.ndim < 2:
        return numbers.reshape([1] * codes.ndim)
    if numbers.shape != (codes.shape[axis],):
        raise ValueError("scales do not fit codes")
    return numbers.reshape([-1 if side == axis else 1 for side in range(codes.ndim)])
