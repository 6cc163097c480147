"""What a transform does to a model: edits of named tensors, which leave every output of the model as it was."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from fewbits.errors import TransformError
from fewbits.lazy import LazyModule
from fewbits.transforms.rotation import Rotation

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")


class Edit(Protocol):
    """One tensor that becomes another."""

    @property
    def tensor(self) -> str:
        """The tensor's name."""

    def applied(self, w: torch.Tensor) -> torch.Tensor:
        """The new numbers, (rows, cols) or (rows,), in place of `w`."""

    def moved(self, hessian: torch.Tensor) -> torch.Tensor:
        """The Hessian (cols, cols) of the inputs that belong to the new numbers."""


@dataclass(frozen=True)
class ScaledRows:
    """Rows, or the numbers of a bias or of a norm's gain, times `factor` (rows,)."""

    tensor: str
    factor: torch.Tensor

    def applied(self, w: torch.Tensor) -> torch.Tensor:
        """(rows, cols) or (rows,)."""
        factor = self.factor.to(w)
        return w * (factor[:, None] if w.ndim == 2 else factor)

    def moved(self, hessian: torch.Tensor) -> torch.Tensor:
        """The inputs stay."""
        return hessian


@dataclass(frozen=True)
class ScaledColumns:
    """Columns times `factor` (cols,): the inputs are divided by it elsewhere."""

    tensor: str
    factor: torch.Tensor

    def applied(self, w: torch.Tensor) -> torch.Tensor:
        """(rows, cols)."""
        return w * self.factor.to(w)

    def moved(self, hessian: torch.Tensor) -> torch.Tensor:
        """Divided by the factors of both columns."""
        factor = self.factor.to(hessian)
        return hessian / factor / factor[:, None]


@dataclass(frozen=True)
class RotatedRows:
    """R^T W, and R^T b: outputs y become y R, in blocks of as many rows as R has."""

    tensor: str
    rotation: Rotation

    def applied(self, w: torch.Tensor) -> torch.Tensor:
        """(rows, cols) or (rows,)."""
        return self.rotation.turned(w.T).T.contiguous() if w.ndim == 2 else self.rotation.turned(w)

    def moved(self, hessian: torch.Tensor) -> torch.Tensor:
        """The inputs stay."""
        return hessian


@dataclass(frozen=True)
class RotatedColumns:
    """W R: inputs x have become x R, in blocks of as many columns as R has."""

    tensor: str
    rotation: Rotation

    def applied(self, w: torch.Tensor) -> torch.Tensor:
        """(rows, cols)."""
        return self.rotation.turned(w)

    def moved(self, hessian: torch.Tensor) -> torch.Tensor:
        """R^T H R."""
        return self.rotation.turned(self.rotation.turned(hessian).T).T


@dataclass(frozen=True)
class Filled:
    """`value` everywhere: a gain that others have taken over is 1."""

    tensor: str
    value: float

    def applied(self, w: torch.Tensor) -> torch.Tensor:
        """Shaped like `w`."""
        return torch.full_like(w, self.value)

    def moved(self, hessian: torch.Tensor) -> torch.Tensor:
        """The inputs stay."""
        return hessian


@dataclass(frozen=True)
class Edits:
    """Steps in their order, what was untied before them, and what the configuration has to say then.

    >>> import torch
    >>> edits = Edits((ScaledRows("up", torch.tensor([0.5])), ScaledColumns("down", torch.tensor([2.0]))))
    >>> edits.apply({"up": torch.ones(1, 2), "down": torch.ones(1, 1)})
    {'up': tensor([[0.5000, 0.5000]]), 'down': tensor([[2.]])}
    """

    steps: tuple[Edit, ...] = ()
    untied: Mapping[str, str] = field(default_factory=dict)
    """Tensor that gets numbers of its own -> the one whose numbers it had."""
    configuration: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the model's configuration, as they have to be then."""
    remarks: tuple[str, ...] = ()
    """What a user should know, a phrase each."""

    def __add__(self, other: Edits) -> Edits:
        """These, then the others."""
        remarks = (*self.remarks, *(r for r in other.remarks if r not in self.remarks))
        return Edits(
            (*self.steps, *other.steps),
            {**self.untied, **other.untied},
            {**self.configuration, **other.configuration},
            remarks,
        )

    def apply(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """All `weights` by name, those edited as new tensors in float32, or float64 where they were.

        Raises TransformError where a tensor is missing; `only` makes edits of those that are there.
        """
        result = dict(weights)
        for name, source in self.untied.items():
            result[name] = _wide(result.get(name, _found(result, source)))
        for edit in self.steps:
            result[edit.tensor] = edit.applied(_wide(_found(result, edit.tensor)))
        return result

    def only(self, names: Iterable[str]) -> Edits:
        """The edits of some tensors, for who reads a model piece by piece; a tensor's source stays with it."""
        wanted = set(names)
        untied = {name: source for name, source in self.untied.items() if name in wanted}
        steps = tuple(edit for edit in self.steps if edit.tensor in wanted)
        return Edits(steps, untied, self.configuration, self.remarks)

    def hessian(self, name: str, hessian: torch.Tensor) -> torch.Tensor:
        """The Hessian (cols, cols) of the inputs of the tensor `name` after the edits, from the one before."""
        for edit in self.steps:
            if edit.tensor == name:
                hessian = edit.moved(hessian)
        return hessian


def _found(weights: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    if name not in weights:
        raise TransformError(f"a transform edits {name}, which is not among the {len(weights)} tensors given.")
    return weights[name]


def _wide(w: torch.Tensor) -> torch.Tensor:
    return w if w.dtype is torch.float64 else w.float()
