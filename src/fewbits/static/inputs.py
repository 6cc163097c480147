"""Calibration sets: batches of tensors by position or by name, checked before anything is measured."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from fewbits.errors import CalibrationError


@dataclass(frozen=True)
class Batch:
    """What the network is called with once: tensors by position, or by name."""

    args: tuple[torch.Tensor, ...] = ()
    kwargs: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def tensors(self) -> list[torch.Tensor]:
        """All of them, those by position first."""
        return [*self.args, *self.kwargs.values()]

    def samples(self) -> int:
        """The size of the first dimension of the first one."""
        first = self.tensors()[0]
        return int(first.shape[0]) if first.dim() else 1

    def repeated(self) -> Batch:
        """The batch, twice where it is one sample: `torch.export` takes a size of 1 for one that never changes."""
        if self.samples() != 1:
            return self
        twice = [torch.cat([each, each]) if each.dim() and each.shape[0] == 1 else each for each in self.tensors()]
        named = dict(zip(self.kwargs, twice[len(self.args) :], strict=True))
        return Batch(tuple(twice[: len(self.args)]), named)


def collected(module: torch.nn.Module, calibration: Iterable[Any]) -> list[Batch]:
    """The batches of a calibration set, all alike but for their number of samples.

    Raises CalibrationError for what is no batch, for names, shapes and numbers of type that differ, for NaN, and for
    less than two samples.
    """
    if isinstance(calibration, torch.Tensor | Mapping | str):
        raise CalibrationError(
            f"the calibration set is a {type(calibration).__name__}; expected an iterable of batches: put it in a list."
        )
    batches = [_batch(given, place) for place, given in enumerate(calibration)]
    if not batches:
        raise CalibrationError("the calibration set is empty; ranges are measured on batches of inputs.")
    names = _parameters(module, batches[0])
    for place, batch in enumerate(batches):
        _require_names(batch, names, place, module)
        _require_alike(batch, batches[0], names, place)
        _require_finite(batch, names, place)
    if sum(batch.samples() for batch in batches) < 2:
        raise CalibrationError(
            "the calibration set is one batch of one sample, which says nothing about ranges; give a hundred or more."
        )
    return batches


def _batch(given: Any, place: int) -> Batch:
    if isinstance(given, torch.Tensor):
        return Batch((given,))
    if isinstance(given, Mapping) and given and all(isinstance(each, torch.Tensor) for each in given.values()):
        return Batch((), dict(given))
    if isinstance(given, tuple | list) and given and all(isinstance(each, torch.Tensor) for each in given):
        return Batch(tuple(given))
    raise CalibrationError(
        f"batch {place} of the calibration set is {_described(given)}; expected a tensor, a tuple of tensors, or a "
        "mapping from the names of the network's inputs to tensors."
    )


def _described(given: Any) -> str:
    """What a batch is, in a few words."""
    kind = type(given).__name__
    if isinstance(given, Mapping):
        odd = next((f"{key!r} is a {type(v).__name__}" for key, v in given.items() if not _is_tensor(v)), "empty")
        return f"a {kind} in which {odd}" if odd != "empty" else f"an empty {kind}"
    if isinstance(given, tuple | list):
        kinds = ", ".join(type(each).__name__ for each in given)
        return f"a {kind} of ({kinds})"
    return f"a {kind}"


def _is_tensor(given: Any) -> bool:
    return isinstance(given, torch.Tensor)


def _parameters(module: torch.nn.Module, batch: Batch) -> list[str]:
    """The names of the inputs, as the network's forward has them; of those that it takes as *args, their numbers."""
    kinds = inspect.signature(module.forward).parameters.values()
    open_ended = any(each.kind is each.VAR_POSITIONAL for each in kinds)
    names = [each.name for each in kinds if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    names += [each.name for each in kinds if each.kind is each.KEYWORD_ONLY]
    extra = range(len(names), len(batch.args)) if open_ended else range(0)
    return [*names, *map(str, extra)]


def _require_names(batch: Batch, names: Sequence[str], place: int, module: torch.nn.Module) -> None:
    known = ", ".join(names)
    unknown = next((name for name in batch.kwargs if name not in names), None)
    if unknown is not None:
        raise CalibrationError(
            f"batch {place} of the calibration set has {unknown!r}; {type(module).__name__} expects {known}."
        )
    if len(batch.args) > len(names):
        raise CalibrationError(
            f"batch {place} of the calibration set has {len(batch.args)} tensors; {type(module).__name__} expects "
            f"{known}. Of a data loader that gives labels too, pass the inputs alone: (x for x, _ in loader)."
        )


def named(batch: Batch, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """The tensors of a batch by name."""
    return {**dict(zip(names, batch.args, strict=False)), **batch.kwargs}


def _require_alike(batch: Batch, first: Batch, names: Sequence[str], place: int) -> None:
    own, wanted = named(batch, names), named(first, names)
    if list(own) != list(wanted) or len(batch.args) != len(first.args):
        raise CalibrationError(
            f"batch {place} of the calibration set has {', '.join(own)}; expected {', '.join(wanted)} as in batch 0."
        )
    for name, tensor in own.items():
        if tensor.dtype != wanted[name].dtype:
            raise CalibrationError(
                f"{name} in batch {place} of the calibration set is {tensor.dtype}; expected {wanted[name].dtype}, as "
                "in batch 0."
            )
        if tensor.shape[1:] != wanted[name].shape[1:] or tensor.dim() != wanted[name].dim():
            raise CalibrationError(
                f"{name} in batch {place} of the calibration set has the shape {tuple(tensor.shape)}; expected "
                f"{tuple(wanted[name].shape)} as in batch 0, but for the number of samples."
            )


def _require_finite(batch: Batch, names: Sequence[str], place: int) -> None:
    for name, tensor in named(batch, names).items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise CalibrationError(
                f"{name} in batch {place} of the calibration set holds NaN or infinite numbers; expected finite ones."
            )
