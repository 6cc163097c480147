"""Every format on a real GPU beside itself on the CPU; on a machine without one this is a skip, which is counted."""

from __future__ import annotations

import pytest
import torch

from fewbits import formats
from fewbits.testing import check_device

DIFFERING = 1e-3
"""The share of codes that may be others on a GPU; decoding is equal to the last bit."""

HERE = list(formats.FORMATS) if torch.cuda.is_available() else ["no device"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", HERE)
def test_format(name: str) -> None:
    check_device(formats.get(name), "cuda:0", differing=DIFFERING)
