"""The products of packed matrices as operations of torch, which compile, export and autograd know.

Operations take the stored fields as tensors. What is made of them for this processor is a cache beside them: it is made
when a product is first asked for, and made anew when a field is another tensor or has been written to. Writing that
torch does not count (through numpy or `.data`) is not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from fewbits.kernels.made import Made
from fewbits.layers.decoded import decoded_product
from fewbits.layers.products import EXACT, Product, require_known
from fewbits.layers.stored import StoredWeight
from fewbits.layers.tiles import Tiles

_MATRIX = "Tensor[] fields, str format, str names, int rows, int cols"


_products = Made[Product]()
_tiles = Made[Tiles]()
"""The same of what reads tiles, which holds no numbers of its own."""


def _weight(fields: Sequence[torch.Tensor], format: str, names: str, rows: int, cols: int) -> StoredWeight:
    return StoredWeight.of(format, (rows, cols), dict(zip(names.split(","), fields, strict=True)))


def product_of(fields: Sequence[torch.Tensor], format: str, names: str, rows: int, cols: int) -> Product:
    """The matrix of these fields, ready to be multiplied on the CPU: from the cache, or made now."""
    return _products.of(fields, lambda: Product.of(_weight(fields, format, names, rows, cols), torch.get_num_threads()))


def tiles_of(fields: Sequence[torch.Tensor], format: str, names: str, rows: int, cols: int) -> Tiles:
    """The matrix of these fields, ready to be decoded tile by tile on the CPU; takes no memory."""
    return _tiles.of(fields, lambda: Tiles.of(_weight(fields, format, names, rows, cols)))


def forget(fields: Sequence[torch.Tensor]) -> None:
    """Let go of what was made of these fields."""
    _products.forget(fields)
    _tiles.forget(fields)


def _linear(
    x: torch.Tensor,
    bias: torch.Tensor | None,
    fields: Sequence[torch.Tensor],
    format: str,
    names: str,
    rows: int,
    cols: int,
    inputs: str,
) -> torch.Tensor:
    """Outputs (..., rows) for `x` (..., cols), which is taken as `inputs` says; in the type of `x`."""
    require_known(inputs)
    tokens = x.detach().reshape(-1, cols)
    if x.device.type != "cpu":
        out = decoded_product(_weight(fields, format, names, rows, cols), tokens, inputs, bias)
    else:
        own = None if bias is None else bias.detach().float()
        product = product_of(fields, format, names, rows, cols)
        out = product(tokens.float(), inputs, own, torch.get_num_threads())
    return out.to(x.dtype).reshape(*x.shape[:-1], rows)


def multiply(x: torch.Tensor, bias: torch.Tensor | None, fields: Sequence[torch.Tensor], *rest: Any) -> torch.Tensor:
    """`linear` without torch's dispatch, which takes longer than a small product, where nobody would see it.

    That is for plain tensors whose gradients nobody wants, outside of compilers, exports and other modes.
    """
    grad = torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad))
    traced = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    watched = traced or torch.compiler.is_compiling() or is_in_torch_dispatch_mode()
    if grad or watched or type(x) is not torch.Tensor or x.device.type != "cpu":
        return linear(x, bias, fields, *rest)
    return _linear(x, bias, fields, *rest)


def _linear_grad(
    grad: torch.Tensor, fields: Sequence[torch.Tensor], format: str, names: str, rows: int, cols: int
) -> torch.Tensor:
    """`grad` (..., rows) of outputs as that of inputs (..., cols), tile by tile: no whole matrix is decoded."""
    tokens = _floats(grad.detach().reshape(-1, rows))
    if grad.device.type == "cpu":
        out = tiles_of(fields, format, names, rows, cols).multiply_back(tokens)
    else:
        out = tokens.new_zeros(len(tokens), cols)
        for start, stop, numbers in _weight(fields, format, names, rows, cols).slabs():
            out += tokens[:, start:stop] @ numbers.to(tokens)
    return out.to(grad.dtype).reshape(*grad.shape[:-1], cols)


def _linear_floats(
    x: torch.Tensor,
    bias: torch.Tensor | None,
    fields: Sequence[torch.Tensor],
    format: str,
    names: str,
    rows: int,
    cols: int,
) -> torch.Tensor:
    """Outputs (..., rows) for `x` (..., cols), multiplied as floats of its type with the numbers that are stored."""
    tokens = _floats(x.detach().reshape(-1, cols))
    own = None if bias is None else bias.detach().to(tokens.dtype)
    if x.device.type == "cpu":
        out = tiles_of(fields, format, names, rows, cols).multiply(tokens, own)
    else:
        out = decoded_product(_weight(fields, format, names, rows, cols), tokens, EXACT, own)
    return out.to(x.dtype).reshape(*x.shape[:-1], rows)


def _floats(tokens: torch.Tensor) -> torch.Tensor:
    """In a type that tiles have: bfloat16 where it is that, else float32."""
    return tokens if tokens.dtype == torch.bfloat16 else tokens.float()


linear: Callable[..., torch.Tensor] = torch.library.custom_op(
    "fewbits::linear", _linear, mutates_args=(), schema=f"(Tensor x, Tensor? bias, {_MATRIX}, str inputs) -> Tensor"
)
linear_floats: Callable[..., torch.Tensor] = torch.library.custom_op(
    "fewbits::linear_floats", _linear_floats, mutates_args=(), schema=f"(Tensor x, Tensor? bias, {_MATRIX}) -> Tensor"
)
linear_grad: Callable[..., torch.Tensor] = torch.library.custom_op(
    "fewbits::linear_grad", _linear_grad, mutates_args=(), schema=f"(Tensor grad, {_MATRIX}) -> Tensor"
)


def _linear_shape(x: torch.Tensor, bias: Any, fields: Any, format: str, names: str, rows: int, *_: Any) -> torch.Tensor:
    return x.new_empty(*x.shape[:-1], rows)


def _grad_shape(grad: torch.Tensor, fields: Any, format: str, names: str, rows: int, cols: int) -> torch.Tensor:
    return grad.new_empty(*grad.shape[:-1], cols)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    _, bias, fields, *matrix = inputs
    ctx.save_for_backward(*fields)
    ctx.matrix, ctx.bias, ctx.others = matrix[:4], None if bias is None else bias.dtype, len(matrix)


def _backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    """Rounding of inputs counts as none (Bengio et al. 2013, arXiv:1308.3432, straight through)."""
    wants_x, wants_bias = ctx.needs_input_grad[:2]
    x = linear_grad(grad, list(ctx.saved_tensors), *ctx.matrix) if wants_x else None
    bias = grad.flatten(0, -2).float().sum(0).to(ctx.bias) if wants_bias else None
    return x, bias, [None] * len(ctx.saved_tensors), *[None] * ctx.others


torch.library.register_fake("fewbits::linear", _linear_shape)
torch.library.register_fake("fewbits::linear_floats", _linear_shape)
torch.library.register_fake("fewbits::linear_grad", _grad_shape)
torch.library.register_autograd("fewbits::linear", _backward, setup_context=_keep)
torch.library.register_autograd("fewbits::linear_floats", _backward, setup_context=_keep)
