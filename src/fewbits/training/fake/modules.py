"""torch's modules whose weight and inputs are rounded as they will be stored: prepared, and trained as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch.nn.functional import embedding, linear

from fewbits.training.fake.inputs import DynamicInputs, StaticInputs
from fewbits.training.fake.matrix import FakeMatrix


class Prepared(torch.nn.Module):
    """What they share: `weight` stays the float parameter that is trained, under its own name."""

    fake_inputs: DynamicInputs | StaticInputs | None
    shared_fake: tuple[FakeMatrix, ...]
    """That of the module which this one shares its weight with."""

    @property
    def fake(self) -> FakeMatrix:
        """What makes the stored numbers of the weight."""
        if self.shared_fake:
            return self.shared_fake[0]
        found = self.get_submodule("fake_weight")
        assert isinstance(found, FakeMatrix)
        return found

    def matrix_of(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight as a matrix (rows, cols), with gradients."""
        return weight.reshape(len(weight), -1)

    def take(self, matrix: torch.Tensor) -> None:
        """Let the weight be `matrix` (rows, cols)."""
        weight = self.get_parameter("weight")
        weight.copy_(matrix.reshape(weight.shape))

    def rounded_weight(self) -> torch.Tensor:
        """The numbers that the weight will be stored as, in its own shape."""
        weight = self.get_parameter("weight")
        found: torch.Tensor = self.fake(self.matrix_of(weight))
        return found.reshape(weight.shape).to(weight.dtype)

    def rounded_inputs(self, x: torch.Tensor) -> torch.Tensor:
        """Inputs as the converted module gets them."""
        if self.fake_inputs is None:
            return x
        found: torch.Tensor = self.fake_inputs(x)
        return found


class Linear(Prepared, torch.nn.Linear):
    """`torch.nn.Linear`, rounded."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Outputs for `input` (..., in_features)."""
        return linear(self.rounded_inputs(input), self.rounded_weight(), self.bias)


class Conv1d(Prepared, torch.nn.Conv1d):
    """`torch.nn.Conv1d`, rounded."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Outputs for `input` (samples, in_channels, length)."""
        found: torch.Tensor = self._conv_forward(self.rounded_inputs(input), self.rounded_weight(), self.bias)
        return found


class Conv2d(Prepared, torch.nn.Conv2d):
    """`torch.nn.Conv2d`, rounded."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Outputs for `input` (samples, in_channels, height, width)."""
        found: torch.Tensor = self._conv_forward(self.rounded_inputs(input), self.rounded_weight(), self.bias)
        return found


class Embedding(Prepared, torch.nn.Embedding):
    """`torch.nn.Embedding`, rounded."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Rows for ids of any shape."""
        return embedding(
            input, self.rounded_weight(), self.padding_idx, None, 2.0, self.scale_grad_by_freq, self.sparse
        )


class Conv1D(Prepared):
    """transformers' Conv1D, a linear module that keeps (inputs, outputs), rounded."""

    bias: torch.Tensor
    nf: int

    def matrix_of(self, weight: torch.Tensor) -> torch.Tensor:
        """(outputs, inputs)."""
        return weight.T.contiguous()

    def take(self, matrix: torch.Tensor) -> None:
        """(outputs, inputs)."""
        self.get_parameter("weight").copy_(matrix.T)

    def rounded_weight(self) -> torch.Tensor:
        """(inputs, outputs)."""
        weight = self.get_parameter("weight")
        found: torch.Tensor = self.fake(self.matrix_of(weight))
        return found.T.to(weight.dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs for `x` (..., inputs)."""
        return self.rounded_inputs(x) @ self.rounded_weight() + self.bias


KINDS: Mapping[type, type[Prepared]] = MappingProxyType(
    {torch.nn.Linear: Linear, torch.nn.Conv1d: Conv1d, torch.nn.Conv2d: Conv2d, torch.nn.Embedding: Embedding}
)
"""torch's class -> ours."""


def kind_of(module: torch.nn.Module) -> type[Prepared] | None:
    """What `module` becomes; None for what is not prepared."""
    if type(module).__name__ == "Conv1D" and type(module).__module__.startswith("transformers."):
        return Conv1D
    return KINDS.get(type(module))


def prepare_module(
    module: torch.nn.Module,
    fake: FakeMatrix,
    inputs: DynamicInputs | StaticInputs | None,
    *,
    shared: bool,
) -> None:
    """Make one of ours of `module` where it stands; of modules with one weight the first holds `fake`."""
    kind = kind_of(module)
    assert kind is not None, "who calls this has asked before"
    module.__dict__["plain_class"] = type(module)
    module.__class__ = kind
    module.__dict__["shared_fake"] = (fake,) if shared else ()
    if not shared:
        module.add_module("fake_weight", fake)
    module.add_module("fake_inputs", inputs)


def unprepare(module: Prepared) -> None:
    """Let `module` be torch's own again, its weight as it was trained."""
    for name in ("fake_weight", "fake_inputs"):
        module._modules.pop(name, None)
    plain = module.__dict__.pop("plain_class")
    module.__dict__.pop("shared_fake")
    module.__class__ = plain


def prepared_in(network: Any) -> Iterator[tuple[str, Prepared]]:
    """Prepared modules, by name; none of what is no module."""
    if not isinstance(network, torch.nn.Module):
        return
    for name, module in network.named_modules():
        if isinstance(module, Prepared):
            yield name, module
