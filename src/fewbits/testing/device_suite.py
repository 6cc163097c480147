"""What every format must do on a device beside the CPU: what it does on the CPU, without the native module.

`other_device` is a device for machines that have none; a real one, where floats may be rounded otherwise, may choose
other codes at times.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import numpy as np

from fewbits.errors import FormatError
from fewbits.formats.base import Fields, Format, Params
from fewbits.kernels.module import native_module
from fewbits.lazy import LazyModule
from fewbits.methods import METHODS
from fewbits.qtensor import QTensor
from fewbits.testing.device_choices import Choices, equal, same_bits
from fewbits.testing.expect import expect
from fewbits.testing.inputs import matrices, normal
from fewbits.testing.vector_laws import VectorGrid

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

ROWS, SPANS = 2, 3
FOR_TENSORS = ("ordinary", "heavy-tailed", "far from zero", "zero", "subnormal", "huge")
"""The matrices for formats whose rows share something: one at a time, where others are given all in one."""

_NATIVE = "fewbits.kernels._native"


def check_device(format: Format, device: torch.device | str, *, differing: float = 0.0) -> None:
    """Compare `format` on `device` with itself on the CPU: decoding bit by bit, choices but for a share `differing`.

    Raises AssertionError naming the law and the input, or what torch raises where devices are mixed.
    """
    chosen = Choices(format.name, torch.empty(0, device=device).device, differing)
    with _no_native_module():
        for name, w in _inputs(format):
            chosen.where = f"{format.name} on {name} numbers on {device}"
            _check_fits(format, w, chosen)
            _check_methods(format, w, chosen)
            params = format.fit(w)
            _check_decoding(format, format.encode(w, params), params, chosen)
            _check_columns(format, w, params, chosen)
        chosen.expect_few()
        chosen.where = f"{format.name} on random bytes on {device}"
        for seed in range(3):
            _check_random_fields(format, seed, chosen)


@contextmanager
def _no_native_module() -> Iterator[None]:
    """Whoever asks for the native module gets an error."""
    before = sys.modules.get(_NATIVE)
    sys.modules[_NATIVE] = None  # type: ignore[assignment]  # this is how Python is told that an import must fail
    native_module.cache_clear()
    try:
        yield
    finally:
        del sys.modules[_NATIVE]
        if before is not None:
            sys.modules[_NATIVE] = before


def _inputs(format: Format) -> Iterator[tuple[str, torch.Tensor]]:
    # Searches for vectors take long, and rows are alone: of those, one row per kind will do.
    hard = matrices(ROWS if format.vector == 1 else 1, SPANS * max(format.span, 11), format.largest)
    if format.rows == 1:
        yield "all kinds of", torch.cat(list(hard.values()))
    else:
        yield from ((name, hard[name]) for name in FOR_TENSORS)


def _check_fits(format: Format, w: torch.Tensor, chosen: Choices) -> None:
    """Fit and encode by importance, at given codes, and with what rows share."""
    importance, moved = normal(1, w.shape[1], 77)[0].square(), w.to(chosen.device)
    wanted = _encoded(format, w, importance)
    chosen.compare(_encoded(format, moved, importance.to(chosen.device)), wanted, "encoded by importance")
    codes = wanted.codes.to(chosen.device)
    refit = QTensor(format, wanted.codes, format.fit(w, codes=wanted.codes))
    chosen.compare(QTensor(format, codes, format.fit(moved, codes=codes)), refit, "fitted to codes")
    shared, shared_there = format.prepare([w]), format.prepare([moved])
    if shared is not None and shared_there is not None:
        for name, array in shared_there.arrays.items():
            expect(array.device == chosen.device, f"{chosen.where}: what rows share, {name}, is not on the device")
        found, wanted = (_encoded(format, x, None, s) for x, s in ((moved, shared_there), (w, shared)))
        chosen.compare(found, wanted, "encoded with what rows share")


def _encoded(format: Format, w: torch.Tensor, importance: torch.Tensor | None, like: Params | None = None) -> QTensor:
    weights = None if importance is None else format.weights(w, importance)
    params = format.fit(w, importance=weights, like=like)
    return QTensor(format, format.encode(w, params, importance=weights), params)


def _check_methods(format: Format, w: torch.Tensor, chosen: Choices) -> None:
    """A method that is one fit and one encoding chooses what it chooses on the CPU, and it survives storage."""
    for name in METHODS:
        method = METHODS.get(name)
        if method.codec_is_enough:
            found, wanted = (method.solve(x, format, {}) for x in (w.to(chosen.device), w))
            chosen.compare(found, wanted, f"method {name}")
            found, wanted = (QTensor.from_fields(format, q.fields(), wanted.shape) for q in (found, wanted))
            chosen.compare(found.to(chosen.device), wanted, f"method {name}, read from fields and moved")


def _check_decoding(format: Format, codes: torch.Tensor, params: Params, chosen: Choices) -> None:
    """The same codes and parameters mean the same numbers, to the last bit."""
    wanted = format.decode(codes, params)
    found = format.decode(codes.to(chosen.device), params.to(chosen.device))
    expect(found.device == chosen.device, f"{chosen.where}: decoded numbers are not on the device")
    expect(same_bits(found.cpu(), wanted), f"{chosen.where}: codes decode to other numbers than on the CPU")


def _check_columns(format: Format, w: torch.Tensor, params: Params, chosen: Choices) -> None:
    """Grids of some columns, by slices and by index arrays, which may lie on the device or on the CPU."""
    vectors = w.shape[1] // format.vector
    by_vector = torch.arange(w.shape[1]).reshape(vectors, -1)
    index = by_vector[(torch.arange(vectors) * 5 + 3) % vectors].flatten()
    some = slice(format.vector, (vectors - 1) * format.vector)
    for cols, there in ((some, some), (index, index.to(chosen.device)), (index, index)):
        grid, grid_there = format.grid(params, cols), format.grid(params.to(chosen.device), there)
        x = w[:, cols]
        codes, found = grid.nearest(x), grid_there.nearest(x.to(chosen.device))
        expect(found.device == chosen.device, f"{chosen.where}: codes of some columns are not on the device")
        different = int((~equal(found.cpu(), codes)).sum())
        expect(different <= chosen.differing * codes.numel(), f"{chosen.where}: columns {cols} get other codes")
        value = grid_there.value(codes.to(chosen.device)).cpu()
        expect(same_bits(value, grid.value(codes)), f"{chosen.where}: columns {cols} mean other numbers")
    if format.vector > 1:
        one, other = (cast(VectorGrid, g) for g in (grid, grid_there))
        same = torch.equal(one.examples(), other.examples().cpu())
        same = same and torch.equal(one.alternatives(5), other.alternatives(5).cpu())
        expect(same, f"{chosen.where}: vectors have other codes")


def _check_random_fields(format: Format, seed: int, chosen: Choices) -> None:
    """Whatever a file brings means the same numbers."""
    shape = (2 * max(format.rows, 1) + 1, SPANS * max(format.span, 11))
    try:
        codes, params = format.from_fields(_random_fields(format, shape, seed), shape)
    except FormatError:
        return  # the bytes are no codes
    _check_decoding(format, codes, params, chosen)


def _random_fields(format: Format, shape: tuple[int, int], seed: int) -> Fields:
    generator = np.random.default_rng(seed)
    return {
        name: generator.integers(0, 256, (*dims, np.dtype(dtype).itemsize), np.uint8).view(dtype)[..., 0]
        for name, (dtype, dims) in format.shapes(*shape).items()
    }
