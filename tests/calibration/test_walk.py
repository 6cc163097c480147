"""One layer at a time gives what the whole network gives, for architectures that differ in what surrounds layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from fewbits.calibration.network import LayeredNetwork
from fewbits.calibration.walk import Batches, advance, batch_size, measure
from fewbits.errors import CalibrationError
from fewbits.workers import Workers, one_torch_thread

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.1,
    "head_dim": 8,
}

CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**SIZES),
    "tied": lambda: transformers.LlamaConfig(**SIZES, tie_word_embeddings=True),
    "qwen2": lambda: transformers.Qwen2Config(**SIZES),
    "qwen3": lambda: transformers.Qwen3Config(**SIZES),
    "mistral": lambda: transformers.MistralConfig(**SIZES, sliding_window=8),
    "gemma": lambda: transformers.GemmaConfig(**SIZES),
    "gemma2": lambda: transformers.Gemma2Config(**SIZES, sliding_window=8),
    "olmo2": lambda: transformers.Olmo2Config(**{k: v for k, v in SIZES.items() if k != "head_dim"}),
    "gemma3": lambda: transformers.Gemma3TextConfig(**{**SIZES, "num_hidden_layers": 6}, sliding_window=8),
    "granite": lambda: transformers.GraniteConfig(**SIZES, embedding_multiplier=6.0, residual_multiplier=0.5),
    "starcoder2": lambda: transformers.Starcoder2Config(**{k: v for k, v in SIZES.items() if k != "head_dim"}),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(
        **{k: v for k, v in SIZES.items() if k not in ("head_dim", "num_key_value_heads")}
    ),
    "phi3": lambda: transformers.Phi3Config(**{k: v for k, v in SIZES.items() if k != "head_dim"}, pad_token_id=0),
}


@pytest.fixture(params=sorted(CONFIGS))
def whole(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(3)
    return transformers.AutoModelForCausalLM.from_config(CONFIGS[request.param]()).eval()


@pytest.fixture
def workers() -> Iterator[Workers]:
    with Workers(2) as pool, one_torch_thread():
        yield pool


def skeleton_of(whole: Any) -> Any:
    """The same network on the meta device, its computed tables aside."""
    with torch.device("meta"):
        bare = transformers.AutoModelForCausalLM.from_config(whole.config)
    for name, buffer in whole.named_buffers():
        owner, _, leaf = name.rpartition(".")
        setattr(bare.get_submodule(owner), leaf, buffer.clone())
    return bare.eval()


def layered(whole: Any) -> LayeredNetwork:
    state = whole.state_dict()
    return LayeredNetwork(skeleton_of(whole), lambda name: state[name].clone())


def walked(network: LayeredNetwork, ids: torch.Tensor, workers: Workers, size: int = 2) -> np.ndarray[Any, Any]:
    """States behind the last layer."""
    with torch.no_grad():
        sizes = {size, len(ids) % size} - {0}
        calls = {n: network.calls(ids[:n]) for n in sizes}
        with network.embedding() as embed:
            states = embed(ids).numpy()
        for index in range(len(network)):
            batches = Batches(len(ids), size, {n: found[index] for n, found in calls.items()})
            with network.layer(index) as layer:
                advance(layer, network.layer_name(index), states, states, batches, workers)
    return states


def test_layer_by_layer_is_the_whole_network(whole: Any, workers: Workers) -> None:
    ids = torch.randint(1, 97, (5, 24), generator=torch.Generator().manual_seed(1))
    network = layered(whole)

    states = walked(network, ids, workers)
    with torch.no_grad(), network.head() as head:
        found = head.logits(torch.from_numpy(states))
        expected = whole(input_ids=ids, use_cache=False).logits

    assert float(expected.std()) > 0.05
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert all(p.is_meta for p in network.network.parameters())


def test_hessians_are_those_of_the_inputs(whole: Any, workers: Workers) -> None:
    ids = torch.randint(1, 97, (5, 24), generator=torch.Generator().manual_seed(2))
    network, seen = layered(whole), {}
    real = whole.get_submodule(network.layer_name(0))
    linear = {name: m for name, m in real.named_modules() if isinstance(m, torch.nn.Linear)}
    for name, module in linear.items():
        module.register_forward_pre_hook(lambda _, x, name=name: seen.__setitem__(name, x[0]))
    with torch.no_grad():
        whole(input_ids=ids, use_cache=False)
        call = network.calls(ids[:1])[0]
        with network.embedding() as embed:
            states = embed(ids)
        with network.layer(0) as layer:
            sites = {name: layer.get_submodule(name) for name in linear}
            batches = Batches(5, 1, {1: call})
            measured = measure(sites, lambda b: layer(states[b], *call.args, **call.kwargs), batches, workers)

    assert sorted(name for names in measured.groups.values() for name in names) == sorted(linear)
    assert max(map(len, measured.groups.values())) > 1 or "qkv_proj" in str(linear) or "query_key_value" in str(linear)
    for leader, names in measured.groups.items():
        for name in names:
            x = seen[name].reshape(-1, seen[name].shape[-1]).double()
            expected = (x.T @ x / len(x)).float()
            torch.testing.assert_close(measured.hessians[leader].value, expected, rtol=1e-4, atol=1e-5)
            assert measured.hessians[leader].tokens == 5 * 24


def test_nothing_depends_on_the_number_of_threads(whole: Any) -> None:
    ids = torch.randint(1, 97, (6, 24), generator=torch.Generator().manual_seed(4))
    found = []
    for threads in (1, 3):
        with Workers(threads) as pool, one_torch_thread():
            found.append(walked(layered(whole), ids, pool))

    assert np.array_equal(*found)


def test_a_layer_that_answers_nan_is_named(workers: Workers) -> None:
    whole = transformers.AutoModelForCausalLM.from_config(CONFIGS["llama"]()).eval()
    whole.model.layers[1].mlp.up_proj.weight.data[0, 0] = float("nan")

    with pytest.raises(CalibrationError, match=r"model\.layers\.1 .*NaN"):
        walked(layered(whole), torch.ones(2, 8, dtype=torch.long), workers)


@pytest.mark.parametrize(
    ("windows", "length", "together"),
    [(99, 512, 4), (99, 2048, 1), (99, 4096, 1), (99, 100, 20), (4, 512, 1), (9, 512, 3), (1, 100, 1)],
)
def test_batches_are_of_about_as_many_tokens(windows: int, length: int, together: int) -> None:
    assert batch_size(windows, length) == together
