"""torch's modules with a packed matrix for a weight: all else, bias and forward included, is what it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

import torch

from fewbits.layers.matrix import PackedMatrix
from fewbits.layers.products import WIDE

_without_numbers: ContextVar[bool] = ContextVar("without_numbers", default=False)


@contextmanager
def without_numbers() -> Iterator[None]:
    """Meanwhile `weight` is zeros of no memory: for libraries that read it for its shape, type and device alone."""
    token = _without_numbers.set(True)
    try:
        yield
    finally:
        _without_numbers.reset(token)


class Packed(torch.nn.Module):
    """What they share: `weight` is decoded from `matrix` whenever it is read, in the numbers it had."""

    matrix: PackedMatrix
    shape_of_weight: tuple[int, ...]
    inputs: str = WIDE
    """How inputs are taken: `int16_group`, `exact`, or a rounding of activations."""
    floats: bool = False
    """Whether products are those of floats, the matrix decoded tile by tile: for many tokens, and in less memory."""

    @property
    def weight(self) -> torch.Tensor:
        """The numbers that are stored, in the weight's own shape."""
        if _without_numbers.get():
            return self.like.new_zeros(1).expand(self.shape_of_weight)
        return self.matrix.numbers().reshape(self.shape_of_weight).to(self.like.dtype)

    def rounded(self, x: torch.Tensor) -> torch.Tensor:
        """Inputs under the static range that training gave the module, where it has one."""
        rounding = self._modules.get("rounding")
        return x if rounding is None else rounding(x)

    @property
    def like(self) -> torch.Tensor:
        """Empty; what the weight would be now, had it been converted with the rest of the network."""
        return self.get_buffer("weight_like")

    def product(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Outputs (..., rows) of the matrix for `x` (..., cols)."""
        multiply = self.matrix.multiply_floats if self.floats else self.matrix.multiply
        return multiply(x, self.inputs, bias)


class Linear(Packed, torch.nn.Linear):  # type: ignore[override]  # weight is read, not written
    """`torch.nn.Linear` over a packed matrix (out_features, in_features), which multiplies without being decoded."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Outputs for `input` (..., in_features)."""
        return self.product(self.rounded(input), self.bias)


class Conv1d(Packed, torch.nn.Conv1d):  # type: ignore[override]
    """`torch.nn.Conv1d` over a packed matrix (out_channels, in_channels / groups x width)."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """What torch's makes of the decoded weight."""
        return super().forward(self.rounded(input))


class Conv2d(Packed, torch.nn.Conv2d):  # type: ignore[override]
    """`torch.nn.Conv2d` over a packed matrix (out_channels, in_channels / groups x height x width)."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """What torch's makes of the decoded weight."""
        return super().forward(self.rounded(input))


class Embedding(Packed, torch.nn.Embedding):  # type: ignore[override]
    """`torch.nn.Embedding` over a packed matrix (num_embeddings, embedding_dim): what is looked up is decoded."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Rows for ids of any shape."""
        ids, places = torch.unique(input, return_inverse=True)
        return self.matrix.rows(ids).to(self.like.dtype)[places]


class Conv1D(Packed):
    """transformers' Conv1D, a linear module that keeps (inputs, outputs), over a packed matrix (outputs, inputs)."""

    bias: torch.Tensor
    nf: int

    @property
    def weight(self) -> torch.Tensor:
        """The numbers that are stored, (inputs, outputs)."""
        if _without_numbers.get():
            return self.like.new_zeros(1).expand(self.shape_of_weight)
        return self.matrix.numbers().T.to(self.like.dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs for `x` (..., inputs)."""
        return self.product(self.rounded(x), self.bias)


KINDS: Mapping[type, type[Packed]] = MappingProxyType(
    {torch.nn.Linear: Linear, torch.nn.Conv1d: Conv1d, torch.nn.Conv2d: Conv2d, torch.nn.Embedding: Embedding}
)
"""torch's class -> ours; subclasses may compute otherwise and stay."""


def kind_of(module: torch.nn.Module) -> type[Packed] | None:
    """What `module` becomes; None for what is no layer with one matrix, or changes it as it is called."""
    if type(module).__name__ == "Conv1D" and type(module).__module__.startswith("transformers."):
        return Conv1D
    if isinstance(module, torch.nn.Embedding) and module.max_norm is not None:
        return None
    return KINDS.get(type(module))


def pack_module(module: torch.nn.Module, matrix: PackedMatrix, inputs: str = WIDE) -> None:
    """Put `matrix` in the place of the weight of `module`, which becomes one of ours where it stands."""
    kind, weight = kind_of(module), module.get_parameter("weight")
    assert kind is not None, "who calls this has asked before"
    del module._parameters["weight"]
    module.__class__ = kind
    module.shape_of_weight = tuple(weight.shape)  # type: ignore[assignment]
    module.inputs = inputs  # type: ignore[assignment]
    module.register_buffer("weight_like", weight.detach().new_empty(0), persistent=False)
    module.matrix = matrix.to(weight.device)
