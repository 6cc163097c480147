"""RoPE facts against transformers' own frequencies, and the order of rows against rotations written out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from fewbits.checkpoints.configuration import Configuration, read_configuration
from fewbits.checkpoints.rope import frequency_factors, interleaved, scaling_metadata
from fewbits.errors import CheckpointError
from references.random_models import small_config


@given(st.integers(1, 6), st.integers(1, 8), st.integers(0, 100))
def test_interleaved_rows_rotate_in_pairs_as_halves_did(heads: int, half: int, seed: int) -> None:
    """Rotating neighbours of the reordered vector is reordering the vector whose halves were rotated."""
    rng = np.random.default_rng(seed)
    x, angle = rng.normal(size=(heads, 2 * half)), rng.normal(size=half)
    cos, sin = np.cos(angle), np.sin(angle)
    first, second = x[:, :half], x[:, half:]
    halves = np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=1)
    order = interleaved(heads * 2 * half, heads)
    pairs = x.reshape(-1)[order].reshape(heads, half, 2)
    rotated = np.stack([pairs[..., 0] * cos - pairs[..., 1] * sin, pairs[..., 1] * cos + pairs[..., 0] * sin], axis=-1)
    np.testing.assert_allclose(rotated.reshape(-1), halves.reshape(-1)[order], atol=1e-12)
    assert sorted(order.tolist()) == list(range(heads * 2 * half))


LLAMA = transformers.LlamaConfig
PLAIN = {"rope_type": "default", "rope_theta": 1e4}


def configuration(
    directory: Path, rope: dict[str, Any], kind: Any = transformers.LlamaConfig
) -> tuple[Configuration, Any]:
    config = small_config(
        kind, rows=40, rope_parameters=rope, architectures=[kind.__name__.replace("Config", "ForCausalLM")]
    )
    config.save_pretrained(directory)
    return read_configuration(directory), config


def llama3(factor: float, low: float, high: float, original: int, theta: float) -> dict[str, Any]:
    names = {"factor": factor, "low_freq_factor": low, "high_freq_factor": high, "rope_theta": theta}
    return {"rope_type": "llama3", "original_max_position_embeddings": original, **names}


@pytest.mark.parametrize(
    "rope",
    [llama3(8.0, 1.0, 4.0, 8192, 500000.0), llama3(32.0, 1.0, 4.0, 64, 10000.0), llama3(3.0, 2.0, 9.0, 100, 77.0)],
)
def test_llama3_factors_divide_the_frequencies_as_transformers_does(rope: dict[str, Any], tmp_path: Path) -> None:
    config, theirs = configuration(tmp_path, rope)
    (placement,) = frequency_factors(config)
    assert placement is not None
    assert placement.computed
    factors = placement.source.buffer.view("<f4")
    expected, _ = ROPE_INIT_FUNCTIONS["llama3"](theirs, torch.device("cpu"))
    plain = rope["rope_theta"] ** -(np.arange(0, 16, 2) / 16)
    np.testing.assert_allclose(plain / factors, expected.numpy(), rtol=2e-6)
    assert 1.0 <= factors.min() < factors.max() <= rope["factor"] * 1.000001
    assert scaling_metadata(config) == {}


def test_plain_rope_needs_no_word(tmp_path: Path) -> None:
    config, _ = configuration(tmp_path, {"rope_type": "default", "rope_theta": 1234.0})
    assert frequency_factors(config) == ()
    assert scaling_metadata(config) == {}
    assert config.values["rope_theta"] == 1234.0


YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 512}


@pytest.mark.parametrize(
    ("changes", "attention"),
    [
        ({}, 1.0),
        ({"attention_factor": 2.0}, 2.0 / (1 + 0.1 * np.log(4))),
        ({"mscale": 0.5, "mscale_all_dim": 2.0}, None),
    ],
)
def test_yarn_is_stated(changes: dict[str, float], attention: float | None, tmp_path: Path) -> None:
    config, theirs = configuration(tmp_path, {**YARN, **changes})
    found = {key.removeprefix("llama.rope.scaling."): value.value for key, value in scaling_metadata(config).items()}
    assert found.pop("type") == "yarn"
    assert found.pop("factor") == 4.0
    assert found.pop("original_context_length") == 512
    _, expected = ROPE_INIT_FUNCTIONS["yarn"](theirs, torch.device("cpu"))
    stated = found.pop("attn_factor", 1.0)
    assert found == {}
    assert stated * (1 + 0.1 * np.log(4)) == pytest.approx(expected)
    if attention is not None:
        assert stated == pytest.approx(attention)


REFUSED: dict[str, tuple[dict[str, Any], Any, str]] = {
    "dynamic": ({"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}, LLAMA, "'dynamic'"),
    "llama3_for_qwen": (llama3(8.0, 1.0, 4.0, 512, 1e4), transformers.Qwen2Config, "'llama3'"),
    "no_truncation": ({**YARN, "truncate": False}, LLAMA, "truncate"),
    "partial": (
        {**PLAIN, "partial_rotary_factor": 0.5},
        transformers.LlamaConfig,
        "partial",
    ),
}


@pytest.mark.parametrize(("rope", "kind", "saying"), REFUSED.values(), ids=REFUSED)
def test_what_gguf_cannot_state_is_refused(rope: dict[str, Any], kind: Any, saying: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=saying):
        scaling_metadata(configuration(tmp_path, rope, kind)[0])
