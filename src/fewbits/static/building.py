"""From a plan to the program of codes: layers of ours in place of operations, codes and floats made where one is asked
for, each once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import torch

from fewbits.static.affine import Affine
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
    Quantize,
)
from fewbits.static.module import LAYER
from fewbits.static.operators import (
    ADD,
    EMBEDDING,
    JOIN,
    LIMITS,
    MOVES,
    PRODUCTS,
    averaged,
    keeps,
    pooled,
    windows,
)
from fewbits.static.planning import Constants, Plan, target
from fewbits.static.program import Program, Ref, Step, alive, refs, substituted
from fewbits.static.weights import WeightFormat, rounded, with_bias

SIZE = "aten.sym_size.int"


@dataclass(frozen=True)
class Built:
    """The program of codes, its layers by key, the constants that it reads, and the key of each step's layer."""

    program: Program
    layers: Mapping[str, torch.nn.Module]
    constants: Constants
    keys: Mapping[str, str]


def build(
    program: Program,
    constants: Constants,
    names: Mapping[str, str],
    plan: Plan,
    codes: Mapping[str, Affine],
    form: WeightFormat,
) -> Built:
    """The program of codes; `names` are those of layers, `codes` how values are rounded, `form` how weights are."""
    return _Builder(program, constants, names, plan, codes, form).built()


@dataclass
class _Builder:
    program: Program
    constants: Constants
    names: Mapping[str, str]
    plan: Plan
    codes: Mapping[str, Affine]
    form: WeightFormat
    steps: list[Step] = field(default_factory=list)
    layers: dict[str, torch.nn.Module] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    made: set[str] = field(default_factory=set)

    def built(self) -> Built:
        """Every step in its form, and only what is read."""
        merged = set(self.plan.tails.values())
        for step in self.program.steps:
            if step.name not in merged:
                self._add(step)
        outputs = substituted(self.program.outputs, self._as_float)
        result = alive(Program(self.program.inputs, tuple(self.steps), outputs, self.program.structure))
        places = {name: f"c{i}" for i, name in enumerate(self.constants)}
        read = dict.fromkeys(n for s in result.steps for n in s.reads() if n in self.constants)
        read |= dict.fromkeys(n for n in refs(result.outputs) if n in self.constants)
        steps = tuple(replace(s, args=_placed(s.args, places), kwargs=_placed(s.kwargs, places)) for s in result.steps)
        result = replace(result, steps=steps, outputs=_placed(result.outputs, places))
        return Built(result, self.layers, {places[name]: self.constants[name] for name in read}, self.keys)

    def _add(self, step: Step) -> None:
        """Add a step in the form that the plan says."""
        makers = self._maker(step)
        if makers is None:
            self._add_as_it_is(step)
            return
        reads, make = makers
        layer = make(self, step)
        tail = self.plan.tail(step)
        inputs = tuple(self._as_codes(ref) for ref in reads) if step.op != EMBEDDING else reads
        self._add_layer(replace(step, name=tail, args=inputs, kwargs=()), layer, self.names.get(step.name, tail))
        self.keys[step.name] = self.steps[-1].op.removeprefix(LAYER)

    def _maker(self, step: Step) -> tuple[tuple[Ref, ...], Make] | None:
        """What a layer in place of `step` reads, and what makes it; None where the operation stays."""
        if step.op == EMBEDDING and step.name not in self.plan.reasons:
            return (step.args[1],), MAKERS[EMBEDDING]
        if step.name not in self.plan.whole or step.op in MOVES:
            return None
        if step.op == JOIN:
            return tuple(step.args[0]), MAKERS[JOIN]
        if step.op == ADD:
            return tuple(step.args), MAKERS[ADD]
        kind = "limit" if step.op in LIMITS else step.op
        return step.args[:1], MAKERS.get(kind, _average)

    def _add_as_it_is(self, step: Step) -> None:
        """Add an operation of torch: on codes where it moves codes, else on floats."""
        if step.op == SIZE:
            self.steps.append(step)
            return
        moves = step.name in self.plan.coded
        if moves:
            self.made.add(step.name)
            self.steps.append(replace(step, args=(self._as_codes(step.args[0]), *step.args[1:])))
            return
        args = substituted(step.args, self._as_float)
        kwargs = tuple((key, substituted(value, self._as_float)) for key, value in step.kwargs)
        self.steps.append(replace(step, args=args, kwargs=kwargs))

    def _add_layer(self, step: Step, layer: torch.nn.Module, name: str) -> None:
        key = name.replace(".", "_").replace("/", "_") or "layer"
        if key in self.layers:
            key = f"{key}_{step.name.replace('/', '_')}"
        self.layers[key] = layer
        self.steps.append(replace(step, op=f"{LAYER}{key}"))
        if step.name in self.codes and not self._floats(layer):
            self.made.add(step.name)

    @staticmethod
    def _floats(layer: torch.nn.Module) -> bool:
        return isinstance(layer, Dequantize | Embedding) or not getattr(layer, "coded", True)

    def _as_codes(self, ref: Ref) -> Ref:
        """Where the codes of a value are; made if it is a float."""
        if ref.name in self.made:
            return ref
        name = f"{ref.name}/codes"
        if name not in self.made:
            affine = self.codes[ref.name]
            self.made.add(name)
            self._add_layer(Step(name, "", (ref,), (), self._shape(ref.name)), Quantize(affine), name)
        return Ref(name)

    def _as_float(self, ref: Ref) -> Ref:
        """Where the floats of a value are; made if it is in codes."""
        if ref.name not in self.made:
            return ref
        name = f"{ref.name}/floats"
        if name not in {step.name for step in self.steps}:
            shape = self._shape(ref.name)
            self._add_layer(Step(name, "", (ref,), (), shape, "", True), Dequantize(self.codes[ref.name]), name)
        return Ref(name)

    def _shape(self, name: str) -> Any:
        shapes = {each.name: each.shape for each in self.program.inputs}
        return shapes.get(name) or next((s.shape for s in self.program.steps if s.name == name), None)


Make = Callable[[_Builder, Step], torch.nn.Module]


def _placed(argument: Any, places: Mapping[str, str]) -> Any:
    return substituted(argument, lambda ref: Ref(places.get(ref.name, ref.name)))


def _target(builder: _Builder, step: Step) -> Any:
    tail = builder.plan.tail(step)
    return target(tail, builder.plan, builder.codes[tail])


def _linear(builder: _Builder, step: Step) -> torch.nn.Module:
    source, weight, bias = _parts(builder, step)
    whole, numbers = with_bias(weight, bias, builder.form, source.scale)
    coded = step.name in builder.plan.coded
    return Linear(source, whole, numbers, _target(builder, step) if coded else None)


def _convolution(builder: _Builder, step: Step) -> torch.nn.Module:
    source, weight, bias = _parts(builder, step)
    whole, numbers = with_bias(weight, bias, builder.form, source.scale)
    return Convolution(source, whole, numbers, _target(builder, step), geometry(step))


def _parts(builder: _Builder, step: Step) -> tuple[Affine, torch.Tensor, torch.Tensor | None]:
    weight, bias = operands(step, builder.constants)
    return builder.codes[step.args[0].name], weight, bias


def operands(step: Step, constants: Constants) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight and bias of a product."""
    bias = step.args[2] if len(step.args) > 2 else None
    return constants[step.args[1].name], constants[bias.name] if isinstance(bias, Ref) else None


def geometry(step: Step) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int]:
    """Stride, padding, dilation and groups of a convolution, written out."""
    dims = PRODUCTS[step.op]
    stated = [*step.args[3:], *[(1,), (0,), (1,), 1][len(step.args[3:]) :]]

    def each(given: Any) -> tuple[int, ...]:
        numbers = (given,) if isinstance(given, int) else tuple(given)
        return numbers * dims if len(numbers) == 1 else numbers

    return each(stated[0]), each(stated[1]), each(stated[2]), int(stated[3])


def _add(builder: _Builder, step: Step) -> torch.nn.Module:
    return Add([builder.codes[ref.name] for ref in step.args], _target(builder, step))


def _join(builder: _Builder, step: Step) -> torch.nn.Module:
    dim = int(step.args[1]) if len(step.args) > 1 else 0
    return Concatenate([builder.codes[ref.name] for ref in step.args[0]], _target(builder, step), dim)


def _average(builder: _Builder, step: Step) -> torch.nn.Module:
    source, aim = builder.codes[step.args[0].name], _target(builder, step)
    if pooled(step):
        return AveragePool(source, aim, *windows(step))
    dims, shape = averaged(step), builder._shape(step.args[0].name)
    assert dims is not None
    count = 1
    for dim in dims:
        count *= shape[dim]
    return Average(source, aim, dims, keeps(step), count)


def _limit(builder: _Builder, step: Step) -> torch.nn.Module:
    return Limit(_target(builder, step))


def _embedding(builder: _Builder, step: Step) -> torch.nn.Module:
    return Embedding(rounded(builder.constants[step.args[0].name], builder.form))


MAKERS: Mapping[str, Make] = MappingProxyType(
    {
        "aten.linear.default": _linear,
        "aten.conv1d.default": _convolution,
        "aten.conv2d.default": _convolution,
        ADD: _add,
        JOIN: _join,
        "limit": _limit,
        EMBEDDING: _embedding,
    }
)
"""Operation -> what makes the layer in its place; means are told apart by what they are over."""
