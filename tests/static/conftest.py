"""Networks that several tests look at, quantized once: an export takes longer than all else."""

from __future__ import annotations

import pytest
import torch

from fewbits import static
from static.networks import Branches, Encoder, Perceptron, drawn, images


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Small products are slower on several threads than on one."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def branches() -> torch.nn.Module:
    return drawn(Branches())


@pytest.fixture(scope="session")
def branches_codes(branches: torch.nn.Module) -> static.StaticModule:
    return static.quantize(branches, images(64).split(32))


@pytest.fixture(scope="session")
def perceptron() -> torch.nn.Module:
    return drawn(Perceptron())


@pytest.fixture(scope="session")
def perceptron_codes(perceptron: torch.nn.Module) -> static.StaticModule:
    x = torch.randn(64, 12, generator=torch.Generator().manual_seed(2))
    return static.quantize(perceptron, x.split(32), activation="int8", symmetric=True, observer="minmax")


@pytest.fixture(scope="session")
def encoder() -> torch.nn.Module:
    torch.manual_seed(3)
    return Encoder().eval()


@pytest.fixture(scope="session")
def encoder_codes(encoder: torch.nn.Module) -> static.StaticModule:
    ids = torch.randint(0, 40, (64, 6), generator=torch.Generator().manual_seed(4))
    return static.quantize(encoder, [{"ids": part} for part in ids.split(32)])
