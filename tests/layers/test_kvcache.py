"""Caches of keys and values in formats: what is held, what comes back, and that texts go on with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from fewbits import formats
from fewbits.errors import FormatError
from fewbits.layers.kvcache import QuantizedCache, QuantizedStates, States
from fewbits.qtensor import QTensor

POCKET = Path(__file__).parents[2] / "examples" / "models" / "pocket-llama"
HELD = ["Q8_0", "Q4_0", "Q5_1", "IQ4_NL", "int4_g32_sym", "uint4_g32_asym", "nf4_g64", "fp8_e4m3_row", "F16"]


@pytest.fixture(scope="module")
def model() -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(POCKET, dtype=torch.float32)


@pytest.fixture(scope="module")
def ids() -> torch.Tensor:
    return torch.randint(5, 4000, (2, 40), generator=torch.Generator().manual_seed(1))


def states(tokens: int) -> torch.Tensor:
    return torch.randn(2, 3, tokens, 64, generator=torch.Generator().manual_seed(tokens)) * torch.logspace(-2, 1, 64)


@pytest.mark.parametrize("name", HELD)
def test_what_comes_back_is_what_the_format_makes_of_each_token(name: str) -> None:
    layer, x = QuantizedStates(formats.get(name), formats.get(name)), states(7)
    keys, _ = layer.update(x, x)
    format, rows = formats.get(name), x.reshape(-1, 64)
    params = format.fit(rows)
    expected = QTensor(format, format.encode(rows, params), params).dequantize().reshape(x.shape)
    torch.testing.assert_close(keys, expected, rtol=0, atol=1e-6 * float(x.abs().max()))
    assert not torch.equal(keys, x)


@pytest.mark.parametrize("name", HELD)
def test_pieces_give_the_same_as_the_whole(name: str) -> None:
    whole, pieces = (QuantizedStates(formats.get(name), formats.get("Q8_0")) for _ in range(2))
    x, y = states(11), states(12)[:, :, :11]
    expected = whole.update(x, y)
    for start, stop in ((0, 4), (4, 5), (5, 11)):
        found = pieces.update(x[:, :, start:stop], y[:, :, start:stop])
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    assert pieces.get_seq_length() == 11


def test_it_holds_no_more_than_the_formats_take() -> None:
    layer = QuantizedStates(formats.get("Q8_0"), formats.get("Q4_0"))
    layer.update(states(9), states(9))
    assert layer.bytes == 2 * 3 * 9 * 64 * (8.5 + 4.5) / 8


def test_sequences_and_tokens_are_chosen_like_in_a_cache_of_floats() -> None:
    layer, plain = QuantizedStates(formats.get("Q8_0"), formats.get("Q8_0")), transformers.cache_utils.DynamicLayer()
    rounded = States.of(formats.get("Q8_0"), states(6)).numbers()
    layer.update(states(6), states(6))
    plain.update(rounded, rounded)
    for each in (layer, plain):
        each.batch_repeat_interleave(2)
        each.reorder_cache(torch.tensor([3, 0, 0, 2]))
        each.crop(-2)
        each.batch_select_indices(torch.tensor([0, 2]))
    ours, theirs = (
        layer.update(states(1), states(1)),
        plain.update(*[States.of(formats.get("Q8_0"), states(1)).numbers()] * 2),
    )
    assert torch.equal(ours[0], theirs[0])
    assert layer.get_seq_length() == 5
    layer.reset()
    assert layer.get_seq_length() == 0


@pytest.mark.parametrize(("keys", "most"), [("F16", 1e-5), ("Q8_0", 1e-3), ("Q4_0", 0.1)])
def test_a_model_says_nearly_the_same_with_it(model: Any, ids: torch.Tensor, keys: str, most: float) -> None:
    cache = QuantizedCache(model.config, keys)
    with torch.no_grad():
        plain = model(ids).logits.log_softmax(-1)
        rounded = torch.cat([model(part, cache=cache).logits for part in ids.split(8, 1)], 1).log_softmax(-1)
    divergence = float((plain.exp() * (plain - rounded)).sum(-1).mean())
    assert 0 < divergence < most
    assert cache.get_seq_length() == 40


def test_texts_and_beams_go_on_with_it(model: Any, ids: torch.Tensor) -> None:
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 1}
    plain = model.generate(ids, **options)
    ours = model.generate(ids, cache=QuantizedCache(model.config, "F16"), **options)
    assert torch.equal(ours, plain)
    beams = {**options, "num_beams": 3}
    ours = model.generate(ids, cache=QuantizedCache(model.config, "F16"), **beams)
    assert torch.equal(ours, model.generate(ids, **beams))


def test_what_cannot_hold_single_tokens_is_refused(model: Any) -> None:
    with pytest.raises(FormatError, match="Q4_K: a cache of heads of 64 columns"):
        QuantizedCache(model.config, "Q4_K")
    with pytest.raises(FormatError, match="tokens would share parameters"):
        QuantizedCache(model.config, "Q8_0", "int8_tensor_sym")
    config = transformers.Gemma2Config(num_hidden_layers=2)
    with pytest.raises(FormatError, match="sliding_attention keep a window"):
        QuantizedCache(config)
