"""Rotations of a vector space by Hadamard matrices with random signs: fast, and exact to float error."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fewbits.errors import TransformError
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

Signs = npt.NDArray[np.int8]

SLAB = 2048
"""Rows that are turned at once, in float64."""


@dataclass(frozen=True)
class Rotation:
    """R = diag(signs) H / sqrt(size), H a Hadamard matrix: an orthogonal matrix that spreads every number evenly.

    H is a product of [[1, 1], [1, -1]] and of one matrix that has no such factor; signs are drawn from `seed`. Raises
    TransformError where no matrix of this size is known.

    >>> import torch
    >>> r = Rotation(24, seed=1).turned(torch.eye(24))
    >>> torch.allclose(r @ r.T, torch.eye(24), atol=1e-6), bool((r.abs() - 24**-0.5 < 1e-6).all())
    (True, True)
    """

    size: int
    seed: int

    def __post_init__(self) -> None:
        odd_part(self.size)

    def turned(self, w: torch.Tensor) -> torch.Tensor:
        """W R (rows, cols) or (cols,), in blocks of `size` columns; computed in float64, in the type of `w`."""
        slabs = [self._turned(slab) for slab in torch.split(w.reshape(-1, w.shape[-1]), SLAB)]
        return torch.cat(slabs).reshape(w.shape)

    def _turned(self, w: torch.Tensor) -> torch.Tensor:
        odd = odd_part(self.size)
        x = w.double().reshape(len(w), -1, self.size) * torch.from_numpy(self._signs()).to(w.device)
        x = x.reshape(len(w), -1, odd, self.size // odd)
        x = _doubled(x)
        if odd > 1:
            x = torch.einsum("rbik,ij->rbjk", x, torch.from_numpy(hadamard(odd)).to(x))
        turned: torch.Tensor = (x.reshape(w.shape) / self.size**0.5).to(w.dtype)
        return turned

    def _signs(self) -> npt.NDArray[np.float64]:
        return np.where(np.random.default_rng(self.seed).integers(0, 2, self.size) == 1, 1.0, -1.0)


def _doubled(x: torch.Tensor) -> torch.Tensor:
    """(..., 2^k) times Sylvester's matrix: sums and differences of halves of halves (the fast transform)."""
    width = x.shape[-1]
    step = 1
    while step < width:
        pairs = x.reshape(*x.shape[:-1], width // (2 * step), 2, step)
        x = torch.stack([pairs[..., 0, :] + pairs[..., 1, :], pairs[..., 0, :] - pairs[..., 1, :]], -2)
        x = x.reshape(*x.shape[:-3], width)
        step *= 2
    return x


def odd_part(size: int) -> int:
    """The size of the matrix that `size` needs beside doublings: 1, or the smallest known one.

    >>> odd_part(4096), odd_part(5120), odd_part(3584), odd_part(896)
    (1, 20, 28, 28)
    >>> odd_part(52)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    fewbits.errors.TransformError: 52 is a width the transform cannot rotate: no Hadamard matrix of that size is ...
    """
    candidates = [size >> k for k in range(size.bit_length()) if size % (1 << k) == 0]
    for candidate in reversed(candidates):
        if candidate == 1 or _construction(candidate):
            return candidate
    raise TransformError(
        f"{size} is a width the transform cannot rotate: no Hadamard matrix of that size is known here; take another "
        "transform, or leave this one out."
    )


@cache
def hadamard(size: int) -> Signs:
    """A Hadamard matrix (size, size) of 1 and -1 that is no doubling of a smaller one (Paley 1933, lemmas 2 and 3).

    >>> h = hadamard(12).astype(int)
    >>> bool((h @ h.T == 12 * np.eye(12)).all())
    True
    """
    kind = _construction(size)
    q = size - 1 if kind == 1 else size // 2 - 1
    core = np.zeros((q + 1, q + 1), np.int8)
    core[1:, 1:] = _residues(q)
    core[0, 1:] = 1
    core[1:, 0] = -1 if kind == 1 else 1
    if kind == 1:
        return _signs_of(core + np.eye(q + 1, dtype=np.int8))
    pairs, alone = np.array([[1, 1], [1, -1]], np.int8), np.array([[1, -1], [-1, -1]], np.int8)
    return _signs_of(np.kron(core, pairs) + np.kron(np.eye(q + 1, dtype=np.int8), alone))


def _signs_of(matrix: npt.NDArray[Any]) -> Signs:
    assert bool((np.abs(matrix) == 1).all()), "a Hadamard matrix holds 1 and -1 alone"
    signs: Signs = matrix.astype(np.int8)
    return signs


def _residues(q: int) -> Signs:
    """(q, q): 1 where row - column is a square modulo q, -1 where it is none, 0 where it is 0."""
    kinds = np.full(q, -1, np.int8)
    kinds[np.arange(1, q) ** 2 % q] = 1
    kinds[0] = 0
    place = np.arange(q)
    found: Signs = kinds[(place[:, None] - place[None, :]) % q]
    return found


def _construction(size: int) -> int:
    """1 or 2, the construction by a prime that makes a matrix of `size`; 0 where none of them does."""
    if size % 4 == 0 and _is_prime(size - 1):
        return 1
    half = size // 2 - 1
    return 2 if size % 4 == 0 and half % 4 == 1 and _is_prime(half) else 0


def _is_prime(n: int) -> bool:
    return n > 2 and all(n % d for d in range(2, int(n**0.5) + 1))
