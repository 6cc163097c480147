"""An ONNX graph that grows node by node: constants once each, unique names, sizes that are known when it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fewbits.errors import StaticError
from fewbits.static.affine import KINDS, Affine
from fewbits.static.program import Ref, Shape, Step

OPSET = 19
"""Scales per channel need 13, LayerNormalization 17; from 19 on onnx' own evaluator has all of it."""


@dataclass
class OnnxGraph:
    """Nodes and constants so far, by the messages of the onnx package."""

    helper: Any
    """The module `onnx.helper`."""
    numpy_helper: Any
    nodes: list[Any] = field(default_factory=list)
    constants: dict[str, Any] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)
    """Value of the program -> its name in the graph."""
    splits: dict[str, tuple[str, int | tuple[int, ...], int]] = field(default_factory=dict)
    """Value that is several tensors -> what is cut, the size of each part or all sizes, and the dimension."""

    def node(self, kind: str, inputs: Sequence[str], *, name: str = "", **attributes: Any) -> str:
        """Add a node with one result, and return the result's name."""
        result = name or f"{kind}_{len(self.nodes)}"
        self.nodes.append(self.helper.make_node(kind, list(inputs), [result], name=result, **attributes))
        return result

    def constant(self, array: npt.NDArray[Any] | np.generic | torch.Tensor, name: str = "") -> str:
        """Add a constant, and return its name; without a name, equal ones are the same one."""
        plain = array.detach().cpu().numpy() if isinstance(array, torch.Tensor) else np.asarray(array)
        key = name or f"const_{plain.dtype}_{'x'.join(map(str, plain.shape))}_{plain.tobytes().hex()[:64]}_{plain.size}"
        if name or plain.nbytes <= 32:
            if key not in self.constants:
                self.constants[key] = self.numpy_helper.from_array(
                    np.ascontiguousarray(plain).reshape(plain.shape), key
                )
            return key
        return self.constant(plain, f"constant_{len(self.constants)}")

    def numbers(self, *whole: int) -> str:
        """A constant (n,) int64."""
        return self.constant(np.array(whole, np.int64))

    def single(self, number: float) -> str:
        """A constant () float32."""
        return self.constant(np.float32(number))

    def of(self, argument: Any) -> str:
        """The name of what a step reads: a value, or a number as a constant."""
        return self.values[argument.name] if isinstance(argument, Ref) else self.single(float(argument))

    def code(self, code: int, affine: Affine) -> str:
        """A constant () uint8. Codes of int8 are written 128 higher, the zero point too: they mean the same numbers.

        ONNX Runtime multiplies int8 by instructions that saturate at 16 bits on processors without VNNI, and uint8 by
        uint8 exactly.
        """
        return self.constant(np.uint8(code - KINDS.get(affine.kind).low))

    def affine(self, affine: Affine) -> tuple[str, str]:
        """Constants for scale and zero point."""
        return self.single(affine.scale), self.code(affine.zero, affine)

    def dequantized(self, codes: str, affine: Affine) -> str:
        """Floats of codes."""
        return self.node("DequantizeLinear", [codes, *self.affine(affine)])

    def sizes(self, parts: Sequence[Any], shape: Shape | None) -> str:
        """A shape (n,) int64: constant where at most one size is known when the graph runs alone."""
        if shape is not None and sum(size is None for size in shape) <= 1:
            return self.numbers(*(-1 if size is None else size for size in shape))
        given = [self.of(part) if isinstance(part, Ref) else self.numbers(int(part)) for part in parts]
        return self.node("Concat", given, axis=0)


Translation = Callable[[OnnxGraph, Step], str]


def refuse(step: Step) -> StaticError:
    """The sentence for an operation that has no ONNX form here."""
    return StaticError(
        f"{step.op} ({step.where or step.name}) has no translation to ONNX here, so the graph cannot be written; "
        "the torch module runs it."
    )
