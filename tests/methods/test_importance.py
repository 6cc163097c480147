"""Nearest weighs errors by importance as the native codecs do."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewbits import formats, kernels
from fewbits.methods.nearest import Nearest


@pytest.mark.parametrize("name", sorted(kernels.weighted_formats()))
def test_the_method_gives_the_bytes_of_the_weighing_codec(name: str) -> None:
    random = np.random.default_rng(2)
    w = random.standard_t(3, (8, 512)).astype(np.float32)
    importance = random.uniform(0.01, 1, 512).astype(np.float32)
    format = formats.get(name)
    plain = Nearest().solve(torch.from_numpy(w), format, {}).packed()
    weighed = Nearest().solve(torch.from_numpy(w), format, {"importance": torch.from_numpy(importance)}).packed()
    native = kernels.encode_rows(name, w.view(np.uint8), "F32", plain.shape[1], importance=importance).stored
    assert np.array_equal(weighed, native)
    assert not np.array_equal(weighed, plain)
