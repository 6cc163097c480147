"""torch's LSTM and GRU over packed matrices: inputs of all steps are multiplied at once, states step by step.

Equations are those of torch.nn.LSTM and torch.nn.GRU (Hochreiter and Schmidhuber 1997; Cho et al. 2014,
arXiv:1406.1078, with the reset gate behind the product).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch.nn.utils.rnn import PackedSequence

from fewbits.errors import KernelError
from fewbits.layers.matrix import PackedMatrix
from fewbits.layers.products import WIDE

State = tuple[torch.Tensor, ...]
"""The states (batch, width) of one direction of one layer: (hidden,) or (hidden, cell)."""
Run = Callable[[torch.Tensor, int, str, State], tuple[torch.Tensor, State]]


class Recurrent(torch.nn.RNNBase):
    """What LSTM and GRU share: `matrices` holds a packed matrix in the place of each weight that was quantized.

    Weights are decoded when they are read. Packed sequences are refused with a KernelError.
    """

    matrices: torch.nn.ModuleDict
    inputs: dict[str, str]
    """Weight -> how what it multiplies is taken (products.py)."""

    def __getattr__(self, name: str) -> Any:
        matrices = self.__dict__.get("_modules", {}).get("matrices", {})
        if name in matrices:
            return matrices[name].numbers().to(self.get_buffer("weight_like").dtype)
        return super().__getattr__(name)

    def flatten_parameters(self) -> None:
        """There is nothing that cuDNN could use."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        torch.nn.Module.__setstate__(self, state)  # type: ignore[no-untyped-call]

    def _multiply(self, name: str, x: torch.Tensor, bias: str) -> torch.Tensor:
        own = getattr(self, bias) if bias and self.bias else None
        if name in self.matrices:
            matrix = self.matrices[name]
            assert isinstance(matrix, PackedMatrix)
            return matrix.multiply(x, self.inputs[name], own)
        return torch.nn.functional.linear(x, getattr(self, name), own)

    def _directions(self) -> tuple[str, ...]:
        return ("", "_reverse") if self.bidirectional else ("",)

    def _require_padded(self, x: Any) -> None:
        if isinstance(x, PackedSequence):
            raise KernelError(
                f"a quantized {type(self).__name__} takes no packed sequence; pad it (torch.nn.utils.rnn."
                "pad_packed_sequence) and look at the outputs of each sequence's own length."
            )
        if x.dim() not in (2, 3) or x.shape[-1] != self.input_size:
            raise KernelError(
                f"a quantized {type(self).__name__} takes (steps, batch, {self.input_size}) or (steps, "
                f"{self.input_size}), with batch_first (batch, steps, {self.input_size}), not {tuple(x.shape)}."
            )

    def _layers(self, x: torch.Tensor, states: State, run: Run) -> tuple[torch.Tensor, State]:
        """Outputs (steps, batch, widths of all directions) and last states (layers x directions, batch, width)."""
        last: list[State] = []
        for layer in range(self.num_layers):
            if layer and self.dropout:
                x = torch.nn.functional.dropout(x, self.dropout, self.training)
            outputs = []
            for direction in self._directions():
                at = len(last)
                out, state = run(x, layer, direction, tuple(each[at] for each in states))
                outputs.append(out)
                last.append(state)
            x = torch.cat(outputs, -1)
        return x, tuple(torch.stack(each) for each in zip(*last, strict=True))

    def _steps(
        self, x: torch.Tensor, layer: int, direction: str, state: State, step: Callable[..., State]
    ) -> tuple[torch.Tensor, State]:
        """All steps of one direction of one layer."""
        place = f"l{layer}{direction}"
        given = self._multiply(f"weight_ih_{place}", x, f"bias_ih_{place}")
        outputs = []
        for own in given.flip(0) if direction else given:
            state = step(own, state, place)
            outputs.append(state[0])
        out = torch.stack(outputs)
        return out.flip(0) if direction else out, state

    def _run(self, x: torch.Tensor, states: Any, widths: tuple[int, ...], step: Callable[..., State]) -> Any:
        """Outputs and last states for inputs as torch's module takes them."""
        self._require_padded(x)
        batched = x.dim() == 3
        steps = x.unsqueeze(1) if not batched else x.transpose(0, 1) if self.batch_first else x
        count = self.num_layers * len(self._directions())
        if states is None:
            given = tuple(x.new_zeros(count, steps.shape[1], width) for width in widths)
        else:
            given = tuple(each if batched else each.unsqueeze(1) for each in states)
        run = lambda own, layer, direction, state: self._steps(own, layer, direction, state, step)
        out, last = self._layers(steps, given, run)
        if not batched:
            return out.squeeze(1), tuple(each.squeeze(1) for each in last)
        return out.transpose(0, 1) if self.batch_first else out, last


class LSTM(Recurrent, torch.nn.LSTM):
    """`torch.nn.LSTM` over packed matrices."""

    def forward(self, input: torch.Tensor, hx: State | None = None) -> tuple[torch.Tensor, State]:  # type: ignore[override]
        """Outputs, and the last (hidden, cell) states."""
        widths = (self.proj_size or self.hidden_size, self.hidden_size)
        out, last = self._run(input, hx, widths, self._step)
        return out, last

    def _step(self, given: torch.Tensor, state: State, place: str) -> State:
        hidden, cell = state
        gates = given + self._multiply(f"weight_hh_{place}", hidden, f"bias_hh_{place}")
        enter, stay, new, leave = gates.chunk(4, -1)
        cell = stay.sigmoid() * cell + enter.sigmoid() * new.tanh()
        hidden = leave.sigmoid() * cell.tanh()
        return (self._multiply(f"weight_hr_{place}", hidden, "") if self.proj_size else hidden), cell


class GRU(Recurrent, torch.nn.GRU):
    """`torch.nn.GRU` over packed matrices."""

    def forward(self, input: torch.Tensor, hx: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        """Outputs, and the last hidden states."""
        out, last = self._run(input, None if hx is None else (hx,), (self.hidden_size,), self._step)
        return out, last[0]

    def _step(self, given: torch.Tensor, state: State, place: str) -> State:
        hidden = state[0]
        own = self._multiply(f"weight_hh_{place}", hidden, f"bias_hh_{place}")
        (reset, update, new), (reset_own, update_own, new_own) = given.chunk(3, -1), own.chunk(3, -1)
        update = (update + update_own).sigmoid()
        new = (new + (reset + reset_own).sigmoid() * new_own).tanh()
        return ((1 - update) * new + update * hidden,)


RECURRENT: Mapping[type, type[Recurrent]] = MappingProxyType({torch.nn.LSTM: LSTM, torch.nn.GRU: GRU})
"""torch's class -> ours; subclasses may compute otherwise and stay."""


def pack_recurrent(module: torch.nn.Module, name: str, matrix: PackedMatrix, inputs: str = WIDE) -> None:
    """Put `matrix` in the place of the weight `name` of an LSTM or a GRU, which becomes one of ours where it stands."""
    if type(module) in RECURRENT:
        like = module.get_parameter(name).detach().new_empty(0)
        module.__class__ = RECURRENT[type(module)]
        module._flat_weights_names, module._flat_weights, module._flat_weight_refs = [], [], []  # type: ignore[assignment]
        module.register_buffer("weight_like", like, persistent=False)
        module.matrices, module.inputs = torch.nn.ModuleDict(), {}  # type: ignore[assignment]
    assert isinstance(module, Recurrent)
    device = module._parameters.pop(name).device  # type: ignore[union-attr]
    module.matrices[name] = matrix.to(device)
    module.inputs[name] = inputs
