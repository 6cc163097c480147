"""A device that is not there: tensors that are not on the CPU and refuse what a GPU refuses, computed on the CPU.

Code that makes a tensor without a device, or mixes devices, fails here as it would beside a GPU; so does what CUDA has
no kernel for, and arithmetic on integers whose result CUDA and a CPU disagree on. Rounding stays that of the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from devices.refusals import refuse_arguments, refuse_inexact, refuse_numbers

DEVICE = torch.device("meta")
"""The name that such tensors give as their device: torch without CUDA cannot even index a tensor called cuda."""

Seen = Callable[[str], object]


class Elsewhere(torch.Tensor):
    """A tensor whose numbers are those of `held`, a CPU tensor, and whose device is `DEVICE`."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> Elsewhere:
        """The tensor that shows `held` as if it were elsewhere: views and changes in place reach the same numbers."""
        make = torch.Tensor._make_wrapper_subclass
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset()}
        made = make(cls, held.size(), dtype=held.dtype, device=DEVICE, **layout)
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run `func` on what is held."""
        return _run(func, args, kwargs or {})

    def __repr__(self, *, tensor_contents: object = None) -> str:
        """The numbers, and that they are not here."""
        return f"Elsewhere({self.held})"

    def __format__(self, how: str) -> str:
        """A single number as Python writes it."""
        return format(self.held, how)

    def tolist(self) -> Any:
        """The numbers; torch copies them from any device."""
        return self.held.tolist()


class _OtherDevice(TorchDispatchMode):
    """Makes tensors elsewhere wherever that is asked for, and tells `seen` the name of all that is done there."""

    def __init__(self, seen: Seen | None) -> None:
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run `func`, here or elsewhere."""
        return _run(func, args, kwargs or {}, self.seen)


@contextmanager
def other_device(seen: Seen | None = None) -> Iterator[torch.device]:
    """The device that is not there, for as long as the context lasts; `seen` is told each operation done there.

    >>> with other_device() as device:
    ...     x = torch.ones(2, device=device)
    ...     x + torch.ones(2)
    Traceback (most recent call last):
    RuntimeError: aten.add.Tensor: a tensor on a device meets one on the CPU, of shape (2,)
    """
    make = torch.tensor

    def tensor(data: Any, *, device: torch.device | None = None, **options: Any) -> torch.Tensor:
        """Torch makes no numbers of lists on this device: they are made here and moved, as they are for a GPU."""
        return make(data, **options).to(device)

    with patch("torch.tensor", tensor), _OtherDevice(seen):
        yield DEVICE


def _run(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], seen: Seen | None = None) -> Any:
    """What `func` makes of the tensors that are held: elsewhere, if that was asked for or if its arguments are."""
    tensors = [x for x in _each((*args, *kwargs.values())) if isinstance(x, torch.Tensor)]
    given = any(isinstance(x, Elsewhere) for x in tensors)
    device = kwargs.get("device")
    there = given if device is None else torch.device(device) == DEVICE
    plain, named = _held(args), {name: _held(value) for name, value in kwargs.items()}
    if any(x.device == DEVICE and not isinstance(x, Elsewhere) for x in tensors):
        raise RuntimeError(f"{func}: torch made a tensor without numbers; make it in another way")
    if given:
        refuse_arguments(func, tensors, args)
        refuse_numbers(func, plain, named)
    if seen is not None and there:
        seen(str(func))
    result = func(*plain, **named | ({} if device is None else {"device": torch.device("cpu")}))
    if given:
        refuse_inexact(func, plain, named, result)
    for before, held in zip(args, plain, strict=True):
        if result is held and held is not None:  # changed in place
            return before
    return _shown(result) if there else result


def _each(arguments: Iterable[Any]) -> Iterator[Any]:
    """Arguments, those in lists too."""
    for x in arguments:
        if isinstance(x, list | tuple):
            yield from _each(x)
        else:
            yield x


def _held(x: Any) -> Any:
    """What is held, in lists too."""
    if isinstance(x, list | tuple):
        return type(x)(_held(part) for part in x)
    return x.held if isinstance(x, Elsewhere) else x


def _shown(x: Any) -> Any:
    """Tensors as tensors elsewhere, in lists too."""
    if isinstance(x, list | tuple):
        return tuple(_shown(part) for part in x) if isinstance(x, tuple) else [_shown(part) for part in x]
    return Elsewhere(x) if isinstance(x, torch.Tensor) else x
