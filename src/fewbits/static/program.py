"""A network as a list of steps: what `torch.export` found, small enough to be rewritten, measured, run and pickled."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from fewbits.errors import StaticError

Shape = tuple[int | None, ...]
"""Sizes of a tensor; None where a size differs from run to run."""

Apply = Callable[["Step", tuple[Any, ...], dict[str, Any]], Any]


@dataclass(frozen=True)
class Ref:
    """Stands for an input, a constant or the result of a step, by its name."""

    name: str


@dataclass(frozen=True)
class Step:
    """One operation: `op` is "aten.relu.default" or the like, "operator.mul" on sizes, or "layer.NAME" of ours."""

    name: str
    op: str
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...] = ()
    shape: Shape | None = None
    """Of its result; None where that is no tensor."""
    where: str = ""
    """The module that it comes from."""
    floating: bool = False
    """Whether its result is a tensor of floats."""

    def reads(self) -> tuple[str, ...]:
        """The names of all that it reads, in order, each once.

        >>> Step("y", "aten.add.Tensor", (Ref("a"), (Ref("b"), 1))).reads()
        ('a', 'b')
        """
        return tuple(dict.fromkeys(refs((self.args, self.kwargs))))


@dataclass(frozen=True)
class Input:
    """One tensor that the network is called with."""

    name: str
    shape: Shape
    dtype: torch.dtype


@dataclass(frozen=True)
class Program:
    """Steps in the order in which they run; `structure` is how outputs hang together, as pytree writes it."""

    inputs: tuple[Input, ...]
    steps: tuple[Step, ...]
    outputs: tuple[Any, ...]
    structure: str

    def users(self) -> dict[str, list[Step]]:
        """Name -> the steps that read it."""
        found: dict[str, list[Step]] = {}
        for step in self.steps:
            for name in step.reads():
                found.setdefault(name, []).append(step)
        return found

    def given(self) -> frozenset[str]:
        """The names that are outputs."""
        return frozenset(refs(self.outputs))


def refs(argument: Any) -> list[str]:
    """The names in an argument, at any depth."""
    if isinstance(argument, Ref):
        return [argument.name]
    if isinstance(argument, tuple | list):
        return [name for each in argument for name in refs(each)]
    return []


def substituted(argument: Any, replace: Callable[[Ref], Any]) -> Any:
    """An argument with every name replaced, at any depth."""
    if isinstance(argument, Ref):
        return replace(argument)
    if isinstance(argument, tuple):
        return tuple(substituted(each, replace) for each in argument)
    return argument


@cache
def operation(op: str) -> Callable[..., Any]:
    """What `op` names; raises StaticError where this torch has no such operation."""
    space, *path = op.split(".")
    found: Any = operator if space == "operator" else getattr(torch.ops, space)
    for part in path:
        found = getattr(found, part, None)
    if found is None:
        raise StaticError(f"this torch ({torch.__version__}) has no operation {op}; import what defines it.")
    call: Callable[..., Any] = found
    return call


def apply(step: Step, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run one step in torch."""
    return operation(step.op)(*args, **kwargs)


def run(
    program: Program,
    inputs: Sequence[torch.Tensor],
    constants: Mapping[str, torch.Tensor],
    apply: Apply = apply,
) -> tuple[Any, ...]:
    """The outputs for `inputs`, step by step through `apply`; what no later step reads is let go."""
    values: dict[str, Any] = dict(constants)
    values |= {each.name: given for each, given in zip(program.inputs, inputs, strict=True)}
    last = last_reads(program)
    for step in program.steps:
        args = substituted(step.args, lambda ref: values[ref.name])
        kwargs = {key: substituted(value, lambda ref: values[ref.name]) for key, value in step.kwargs}
        values[step.name] = apply(step, args, kwargs)
        del args, kwargs
        for name in last.get(step.name, ()):
            del values[name]
    found = substituted(program.outputs, lambda ref: values[ref.name])
    assert isinstance(found, tuple)
    return found


@cache
def last_reads(program: Program) -> dict[str, tuple[str, ...]]:
    """Step -> the names that it is the last one to read, and its own where nobody does."""
    last = {step.name: step.name for step in program.steps}
    last |= {name: step.name for step in program.steps for name in step.reads()}
    found: dict[str, tuple[str, ...]] = {}
    for name, step in last.items():
        if name not in program.given():
            found[step] = (*found.get(step, ()), name)
    return found


def alive(program: Program) -> Program:
    """The program without steps whose results nobody reads."""
    wanted, steps = set(program.given()), []
    for step in reversed(program.steps):
        if step.name in wanted:
            steps.append(step)
            wanted |= set(step.reads())
    return Program(program.inputs, tuple(reversed(steps)), program.outputs, program.structure)
