"""What CUDA refuses, or answers otherwise than a CPU does; each as a function that raises.

`func` is the operation of ATen that torch is about to run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

WIDE = (torch.uint16, torch.uint32, torch.uint64)
"""Types that CUDA stores and converts, but has nearly no kernels for."""

_STORING = {"_to_copy", "copy_", "clone", "empty", "empty_like", "empty_strided", "detach", "alias", "lift_fresh"}
_STORING |= {"view", "_unsafe_view", "reshape", "as_strided", "expand", "permute", "transpose", "t", "slice", "select"}
_STORING |= {"squeeze", "unsqueeze", "unbind", "split", "split_with_sizes"}
_SHIFTS = {"__lshift__", "__rshift__", "__ilshift__", "__irshift__", "bitwise_left_shift", "bitwise_right_shift"}
_INDEXING = {"index", "index_put", "index_put_"}
_TAKING_SINGLES = {"masked_fill", "masked_fill_", "index_put", "index_put_"}

INEXACT = frozenset(
    {
        *("pow", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "ldexp", "rsqrt", "tanh", "sigmoid"),
        *("sum", "mean", "nansum", "prod", "cumsum", "cumprod", "var", "std", "linalg_vector_norm", "logsumexp"),
        *("mm", "bmm", "addmm", "dot", "mv", "scatter_add", "index_add", "addcmul", "addcdiv", "lerp"),
    }
)
"""What each device rounds in its own way or adds in its own order, and products that it adds without rounding them."""


def name_of(func: Any) -> str:
    """The operation without its overload: `add` of aten.add.Tensor."""
    return str(func.overloadpacket.__name__)


def refuse_arguments(func: Any, tensors: list[torch.Tensor], args: tuple[Any, ...]) -> None:
    """Raise NotImplementedError where `func` computes with unsigned numbers of more than 8 bits, and RuntimeError where
    tensors on the CPU meet tensors elsewhere.

    CUDA takes single numbers in operations by element, indices that lie on the CPU, and copies both ways.
    """
    name = name_of(func)
    for x in tensors:
        if x.dtype in WIDE and name not in _STORING:
            raise NotImplementedError(f"{func}: CUDA need not have a kernel for {x.dtype}; compute with int32 or int64")
    if name == "copy_":
        return
    indices = list(args[1]) if name in _INDEXING and args[0].device.type != "cpu" else []
    for x in tensors:
        if x.device.type != "cpu" or any(x is index for index in indices):
            continue
        if x.dim() > 0 or not _takes_singles(func) or (x is args[0] and _writes(func)):
            raise RuntimeError(f"{func}: a tensor on a device meets one on the CPU, of shape {tuple(x.shape)}")


def _takes_singles(func: Any) -> bool:
    return torch.Tag.pointwise in func.tags or name_of(func) in _TAKING_SINGLES


def _writes(func: Any) -> bool:
    """Whether the first argument is changed in place."""
    first = func._schema.arguments[0].alias_info
    return first is not None and bool(first.is_write)


def refuse_numbers(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raise ArithmeticError where integers would come out that each device makes otherwise.

    A float that its integer type cannot hold is one such case, a shift by less than 0 or by the whole width another.
    """
    name = name_of(func)
    if name == "_to_copy":
        _refuse_conversion(func, args[0], kwargs.get("dtype"))
    elif name == "copy_":
        _refuse_conversion(func, args[1], args[0].dtype)
    elif name in _SHIFTS:
        width = torch.iinfo(torch.result_type(args[0], args[1])).bits
        by = torch.as_tensor(args[1])
        if not bool(((by >= 0) & (by < width)).all()):
            raise ArithmeticError(f"{func}: a shift by less than 0, or by {width} bits or more, is not defined")


def _refuse_conversion(func: Any, x: torch.Tensor, dtype: torch.dtype | None) -> None:
    if dtype is None or dtype.is_floating_point or dtype is torch.bool or not x.is_floating_point():
        return
    whole, limits = x.double().trunc(), torch.iinfo(dtype)
    # Both ends are powers of two, or next to one that float64 rounds to: the upper one is left out there.
    if not bool(((whole >= limits.min) & (whole < float(limits.max) + 1.0)).all()):
        raise ArithmeticError(f"{func}: a number that {dtype} cannot hold is not the same integer on every device")


def refuse_inexact(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> None:
    """Raise ArithmeticError where floats come out that may be others on CUDA; squares are the same.

    CUDA divides by a single number by multiplying with its inverse, which is the same for powers of two only.
    """
    name = name_of(func).rstrip("_")
    if not isinstance(result, torch.Tensor) or not result.is_floating_point():
        return
    if name in INEXACT and not (name == "pow" and isinstance(args[1], int | float) and args[1] == 2):
        raise ArithmeticError(f"{func}: floats that are not the same on every device; see formats/exact.py")
    if kwargs.get("alpha", 1) != 1:
        raise ArithmeticError(f"{func}: a product and a sum that may be rounded once; take one after the other")
    if name == "div" and _is_single(args[1]) and abs(math.frexp(float(args[1]))[0]) != 0.5:
        raise ArithmeticError(f"{func}: CUDA multiplies with the inverse of {float(args[1])}; see exact.divided")


def _is_single(x: Any) -> bool:
    """Whether `x` is a plain number, or as good as one."""
    return not isinstance(x, torch.Tensor) or x.dim() == 0
