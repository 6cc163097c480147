"""Rotations: orthogonal, the same as the matrix they stand for, for every width that models have."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewbits.errors import TransformError
from fewbits.transforms.rotation import Rotation, hadamard, odd_part

WIDTHS = (576, 768, 896, 960, 1024, 1152, 1536, 2048, 2304, 2560, 3072, 3584, 3840, 4096, 5120, 6144, 6656, 7168, 8192)


def kronecker(size: int, seed: int) -> np.ndarray:  # type: ignore[type-arg]
    """diag(signs) (M x D) / sqrt(size), D the doublings, written out (float64)."""
    odd = odd_part(size)
    matrix = np.ones((1, 1)) if odd == 1 else hadamard(odd).astype(np.float64)
    while len(matrix) < size:
        matrix = np.kron(matrix, [[1.0, 1.0], [1.0, -1.0]])
    signs = np.where(np.random.default_rng(seed).integers(0, 2, size) == 1, 1.0, -1.0)
    whole: np.ndarray = signs[:, None] * matrix / size**0.5  # type: ignore[type-arg]
    return whole


@pytest.mark.parametrize("size", [1, 2, 4, 12, 20, 24, 28, 36, 40, 64, 112, 120, 256])
def test_equals_the_matrix_written_out(size: int) -> None:
    x = torch.randn(7, 3 * size, generator=torch.Generator().manual_seed(1)).double()
    matrix = kronecker(size, 5)

    turned = Rotation(size, seed=5).turned(x)

    wanted = (x.numpy().reshape(7, 3, size) @ matrix).reshape(7, -1)
    assert np.allclose(turned.numpy(), wanted, atol=1e-12)
    assert np.allclose(matrix @ matrix.T, np.eye(size), atol=1e-12)


@pytest.mark.parametrize("size", WIDTHS)
def test_widths_of_models_can_be_rotated(size: int) -> None:
    assert odd_part(size) <= 128


@pytest.mark.parametrize("size", range(4, 253, 4))
def test_every_matrix_that_is_built_is_one(size: int) -> None:
    try:
        odd = odd_part(size)
    except TransformError:
        return
    if odd > 2:
        matrix = hadamard(odd).astype(np.int64)
        assert np.array_equal(matrix @ matrix.T, odd * np.eye(odd))


@pytest.mark.parametrize("size", [3, 52, 65, 92 * 3 + 1, 0])
def test_others_are_refused(size: int) -> None:
    with pytest.raises(TransformError, match=f"{size} is a width the transform cannot rotate"):
        Rotation(size, seed=0)


def test_seeds_differ_and_repeat() -> None:
    x = torch.eye(64)
    one, again, other = (Rotation(64, seed).turned(x) for seed in (1, 1, 2))

    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_slabs_of_rows_change_nothing() -> None:
    x = torch.randn(5000, 24, generator=torch.Generator().manual_seed(1))

    assert torch.equal(Rotation(24, 3).turned(x)[4000:], Rotation(24, 3).turned(x[4000:]))
