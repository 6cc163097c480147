"""The result: a torch module that runs a program of codes, with a record of how it came to be."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch.utils import _pytree as pytree

from fewbits.errors import StaticError
from fewbits.static.program import Program, Step, apply, run
from fewbits.static.record import Record

LAYER = "layer."


@cache
def structure(text: str) -> Any:
    """How outputs hang together, read once."""
    return pytree.treespec_loads(text)


class StaticModule(torch.nn.Module):
    """A quantized network. Its layers, and the constants of what stays in float, are in `state_dict` under `layers` and
    `constants`; it can be pickled and exported with `torch.export` like any module, and is not trained.
    """

    def __init__(
        self,
        program: Program,
        layers: Mapping[str, torch.nn.Module],
        constants: Mapping[str, torch.Tensor],
        record: Record,
    ) -> None:
        super().__init__()
        self.program, self.record = program, record
        self.layers = torch.nn.ModuleDict(layers)
        self.constants = torch.nn.Module()
        for name, tensor in constants.items():
            self.constants.register_buffer(name, tensor.clone())
        self.eval()

    def forward(self, *args: torch.Tensor, **kwargs: torch.Tensor) -> Any:
        """What the network answers, in the form in which the module that was quantized answers."""
        constants = dict(self.constants.named_buffers())
        outputs = run(self.program, self._ordered(args, kwargs), constants, self.apply_step)
        return pytree.tree_unflatten(list(outputs), structure(self.program.structure))

    def apply_step(self, step: Step, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one step: a layer of ours, or an operation of torch."""
        if step.op.startswith(LAYER):
            return self.layers[step.op.removeprefix(LAYER)](*args)
        return apply(step, args, kwargs)

    def _ordered(self, args: tuple[torch.Tensor, ...], kwargs: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """The inputs in the program's order; raises StaticError where they are not those it was measured with."""
        rest = [each.name for each in self.program.inputs[len(args) :]]
        if len(args) + len(kwargs) != len(self.program.inputs) or set(rest) != set(kwargs):
            expected = ", ".join(each.name for each in self.program.inputs)
            raise StaticError(
                f"this network was quantized with the inputs {expected}; it got {len(args)} by position and "
                f"{', '.join(kwargs) or 'none'} by name."
            )
        tensors = [*args, *(kwargs[name] for name in rest)]
        for each, tensor in zip(self.program.inputs, tensors, strict=True):
            fits = tensor.dim() == len(each.shape) and all(
                wanted is None or wanted == size for wanted, size in zip(each.shape, tensor.shape, strict=True)
            )
            if not fits or tensor.dtype != each.dtype:
                wanted = ", ".join("any" if size is None else str(size) for size in each.shape)
                raise StaticError(
                    f"{each.name} is {tensor.dtype} of shape {tuple(tensor.shape)}; this network was quantized for "
                    f"{each.dtype} of shape ({wanted})."
                )
        return tensors
