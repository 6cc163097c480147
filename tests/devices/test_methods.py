"""GPTQ on a device beside the CPU: it stays there, and chooses what the native sweep chooses, but for a few codes."""

from __future__ import annotations

import pytest
import torch

from devices.other_device import other_device
from fewbits import formats
from fewbits.methods.gptq import GPTQ
from fewbits.testing.device_choices import Choices
from fewbits.testing.inputs import normal

FEW = 1e-3
"""The share of codes that may differ."""


@pytest.fixture
def _rounding_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums and products may be rounded otherwise on the device: that is what `FEW` is for."""
    monkeypatch.setattr("devices.other_device.refuse_inexact", lambda *_: None)


@pytest.mark.usefixtures("_rounding_of_its_own")
@pytest.mark.parametrize("order", ["storage", "spans"])
@pytest.mark.parametrize(
    "name", ["Q4_K", "int4_g32_sym_f16", "nf4_g64_dq", "IQ2_XS", "IQ1_M", "mxfp4", "fp8_e4m3_tile32"]
)
def test_gptq(name: str, order: str) -> None:
    x, w, format = normal(2048, 512).cumsum(1), normal(5, 512, 1), formats.get(name)
    hessian = x.T @ x / len(x) + normal(1, 512, 2)[0].square().diag()
    wanted = GPTQ(order=order).solve(w, format, {"hessian": hessian})
    with other_device() as device:
        chosen = Choices(f"gptq on {name}", torch.empty(0, device=device).device, FEW)
        found = GPTQ(order=order).solve(w.to(device), format, {"hessian": hessian.to(device)})
        chosen.compare(found, wanted, "on the device")
    chosen.expect_few()
