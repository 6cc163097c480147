"""Frequencies of RoPE are those that transformers computes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from fewbits.engine.rope import table_of
from fewbits.engine.source import Source
from fewbits.errors import EngineError

WIDTH, CONTEXT, ORIGINAL = 64, 8192, 1024
YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": ORIGINAL}
LONG = {"rope_type": "longrope", "original_max_position_embeddings": ORIGINAL}
LONG |= {"short_factor": [1 + n / 8 for n in range(24)], "long_factor": [1 + n * 1.5 for n in range(24)]}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
KINDS: tuple[dict[str, Any], ...] = (
    {"rope_type": "linear", "factor": 3.0},
    {"rope_type": "linear", "factor": 3.0, "partial_rotary_factor": 0.5},
    YARN,
    {**YARN, "truncate": False, "beta_fast": 24.0, "beta_slow": 2.0},
    {**YARN, "mscale": 0.7, "mscale_all_dim": 1.0},
    {**YARN, "attention_factor": 1.25, "partial_rotary_factor": 0.25},
    {**LONG, "partial_rotary_factor": 0.75},
    {**LONG, "partial_rotary_factor": 0.75, "attention_factor": 1.5},
    {**LLAMA3, "original_max_position_embeddings": ORIGINAL},
)


def source(stored: Mapping[str, Any] | None = None) -> Source:
    """A model of which nothing is known but its context and some tensors."""
    tensors = stored or {}
    values = {"max_position_embeddings": CONTEXT}
    fake = SimpleNamespace(path=Path("model"), values=values, has=tensors.__contains__, numbers=tensors.__getitem__)
    return cast(Source, fake)


def expected(parameters: Mapping[str, Any], length: int | None = None) -> tuple[Any, float]:
    config = transformers.LlamaConfig(
        hidden_size=4 * WIDTH, num_attention_heads=4, max_position_embeddings=CONTEXT, rope_parameters=dict(parameters)
    )
    frequencies, factor = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config, "cpu", seq_len=length)
    return frequencies.numpy(), float(factor)


@pytest.mark.parametrize("base", [10000.0, 500000.0, 1000000.0])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind["rope_type"])
def test_every_kind(kind: dict[str, Any], base: float) -> None:
    """To the last two bits of single precision: powers are computed by two libraries."""
    parameters = {"rope_theta": base, **kind}
    table = table_of(source(), parameters, WIDTH)
    wanted, factor = expected(parameters, ORIGINAL)
    np.testing.assert_array_max_ulp(table.frequencies, wanted, maxulp=2)
    assert table.factor == pytest.approx(factor, rel=1e-12)
    if table.longer is not None:
        assert table.shorter == ORIGINAL
        np.testing.assert_array_max_ulp(table.longer, expected(parameters, ORIGINAL + 1)[0], maxulp=2)


def test_the_plain_kind() -> None:
    wanted = 10000.0 ** (-np.arange(0, 16, 2) / 16)
    table = table_of(source(), {"rope_theta": 10000.0, "partial_rotary_factor": 0.25}, WIDTH)
    np.testing.assert_allclose(table.frequencies, wanted, rtol=1e-6)
    assert table.factor == 1.0


def test_divisors_of_a_file() -> None:
    divisors = np.linspace(1, 8, 32, dtype=np.float32)
    plain = table_of(source(), {"rope_theta": 10000.0}, WIDTH)
    divided = table_of(source({"rope_freqs.weight": divisors}), {"rope_theta": 10000.0}, WIDTH)
    assert np.array_equal(divided.frequencies, plain.frequencies / divisors)


@pytest.mark.parametrize(
    ("parameters", "stored", "says"),
    [
        ({"rope_type": "dynamic"}, {}, "the kind 'dynamic' is not computed here; known are default, linear"),
        ({"partial_rotary_factor": 0.24}, {}, "cannot turn 15 of a head"),
        ({"partial_rotary_factor": 1.5}, {}, "cannot turn 96 of a head's 64 columns"),
        ({}, {"rope_freqs.weight": np.ones(5, np.float32)}, "5 factors for 32 pairs"),
        ({**LONG}, {}, "24 factors for 32 pairs"),
    ],
)
def test_what_cannot_be(parameters: dict[str, Any], stored: dict[str, Any], says: str) -> None:
    with pytest.raises(EngineError, match=says):
        table_of(source(stored), {"rope_theta": 10000.0, **parameters}, WIDTH)
