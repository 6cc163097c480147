"""Architecture facts agree with the gguf package's names, with themselves, and with transformers' models."""

from __future__ import annotations

from typing import Any

import gguf
import pytest
import transformers

from fewbits.checkpoints.names import to_gguf
from fewbits.errors import CheckpointError
from fewbits.evaluation.experts import taken_apart
from fewbits.models import EXPERT, Architecture, architectures, for_config, for_gguf, parts_of
from fewbits.models.widths import widths_of
from references.random_models import small_config

LAYERS = 3
ALL = pytest.mark.parametrize("architecture", architectures(), ids=lambda a: a.name)


@ALL
def test_both_directions_of_names_agree(architecture: Architecture) -> None:
    forward = to_gguf(architecture, LAYERS)
    config = {**architecture.defaults, **{key: 1 for fact in architecture.tensors if (key := fact.when)}}
    back = architecture.facts(config, LAYERS)
    inner = architecture.parameters(config, LAYERS)
    assert len(back) == len({(source, fact.take) for source, fact in back.values()})
    for target, (source, fact) in back.items():
        if fact.aside or fact.merged:  # of a part of a matrix the map knows nothing
            continue
        name = (inner[target][0] if fact.view else source).replace("correction_bias", "correction.bias")
        whole = name.endswith((".weight", ".bias"))  # not so the sinks
        assert forward(name.replace(f".{EXPERT}", "")) == (target if whole else target.removesuffix(".weight"))


@ALL
def test_every_name_belongs_to_the_gguf_architecture(architecture: Architecture) -> None:
    kind = next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == architecture.gguf)
    known = {gguf.TENSOR_NAMES[tensor].replace("{bid}", "{layer}") for tensor in gguf.MODEL_TENSORS[kind]}
    for fact in (fact for fact in architecture.tensors if not fact.aside):
        assert fact.gguf.rpartition(".")[0] in known


@ALL
def test_every_metadata_key_belongs_to_gguf(architecture: Architecture) -> None:
    templates = [vars(group).values() for group in (gguf.Keys.LLM, gguf.Keys.Attention, gguf.Keys.Rope)]
    known = {
        t.replace("{arch}", architecture.gguf)
        for group in templates
        for t in group
        if isinstance(t, str) and "{arch}" in t
    }
    assert set(architecture.metadata) <= known | {gguf.Keys.Tokenizer.TOKEN_TYPE_COUNT}


CONFIGS: dict[str, Any] = {
    "llama": transformers.LlamaConfig,
    "mistral": transformers.MistralConfig,
    "qwen2": transformers.Qwen2Config,
    "qwen3": transformers.Qwen3Config,
    "mixtral": transformers.MixtralConfig,
    "qwen3_moe": transformers.Qwen3MoeConfig,
    "gemma2": transformers.Gemma2Config,
    "gemma3": transformers.Gemma3TextConfig,
    "phi3": transformers.Phi3Config,
    "granite": transformers.GraniteConfig,
    "starcoder2": transformers.Starcoder2Config,
    "olmo2": transformers.Olmo2Config,
    "gpt_neox": transformers.GPTNeoXConfig,
    "qwen2_moe": transformers.Qwen2MoeConfig,
    "gpt2": lambda **values: transformers.GPT2Config(**values, n_inner=96),
    "falcon": lambda **values: transformers.FalconConfig(
        **values, new_decoder_architecture=True, num_kv_heads=2, ffn_hidden_size=96
    ),
    "gpt_oss": lambda **values: transformers.GptOssConfig(**values, head_dim=16),
    "llama4": lambda **values: transformers.Llama4TextConfig(**values, head_dim=16, interleave_moe_layer_step=2),
    "deepseek_v2": transformers.DeepseekV2Config,
    "deepseek_v3": transformers.DeepseekV3Config,
    "bert": transformers.BertConfig,
    "roberta": transformers.RobertaConfig,
    "nomic_bert": lambda **values: transformers.NomicBertConfig(**{**values, "pad_token_id": 0}),
}


@ALL
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_the_facts_are_the_tensors_of_transformers(architecture: Architecture, tied: bool, biased: bool) -> None:
    extra = {"attention_bias": biased, "mlp_bias": biased} if architecture.name in ("llama", "granite") else {}
    count = architecture.aliases.get("num_local_experts", "num_local_experts")
    extra |= {count: 4} if architecture.experts else {}
    if tied not in architecture.require.get("tie_word_embeddings", (tied,)):
        return  # no such model can be converted
    config = small_config(CONFIGS[architecture.name], rows=40, tie_word_embeddings=tied, **extra)
    kind = transformers.AutoModel if architecture.encoder else transformers.AutoModelForCausalLM
    model = kind.from_config(config)
    assert type(model).__name__ in architecture.classes
    values = {**architecture.defaults, **config.to_dict()}
    head = getattr(config, "head_dim", None) or 16
    widths = {"vocab": 40, "hidden": 64, "ffn": 96, "query": 4 * head, "head": head, "key": 2 * head}
    widths |= {"experts": 4, "expert": values.get("moe_intermediate_size", 0), "positions": 2048, "types": 2}
    shared = values.get("n_shared_experts", 0) * values.get("moe_intermediate_size", 0)
    widths["shared"] = values.get("shared_expert_intermediate_size", shared)
    widths |= {
        name: sum(widths[part] for part in parts)
        for name, parts in architecture.widths.items()
        if {*parts} <= {*widths}
    }
    own = {name for name, _ in model.named_parameters()}
    own |= {name for name, _ in model.named_buffers() if name in model.state_dict()}
    architecture.add_sums(values)
    named = {"num_local_experts": 4, "head_dim": head, "max_position_embeddings": 2048}
    every = {**widths_of({**values, **named}, architecture.widths), **widths}
    facts = [(name, fact) for name, fact in architecture.network(values, 2).values() if not fact.aside or name in own]
    expected: dict[str, tuple[int, ...]] = {}
    for name, fact in facts:
        if fact.view:
            expected[name] = fact.seen(every).stored
            continue
        parts, shape = parts_of(name), fact.in_checkpoint(tuple(every[w] for w in fact.shape))
        expected |= dict.fromkeys(parts, (shape[0] // len(parts), *shape[1:]))
    seen = {name for name, fact in facts if fact.view}
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters(remove_duplicate=True)}
    shapes |= {name: tuple(b.shape) for name, b in model.named_buffers() if name in own and name not in shapes}
    found = taken_apart({name: shape for name, shape in shapes.items() if name not in seen})
    assert expected == {**found, **{name: shape for name, shape in shapes.items() if name in seen}}


def test_tensors_come_layer_by_layer() -> None:
    names = list(for_gguf("llama").facts({"tie_word_embeddings": False}, 2))
    assert names[0] == "token_embd.weight"
    assert names[-2:] == ["output_norm.weight", "output.weight"]
    layers = [name.split(".")[1] for name in names if name.startswith("blk.")]
    assert layers == sorted(layers)


@ALL
def test_lookups(architecture: Architecture) -> None:
    for name in architecture.classes:
        assert for_config({"architectures": [name]}) == architecture.of_class(name)
    assert for_gguf(architecture.gguf, experts=architecture.experts).gguf == architecture.gguf


@pytest.mark.parametrize(
    "stated", [None, [], [None], "", 7, {}, ["OPTForCausalLM"], ["MambaForCausalLM", "LlamaForCausalLM"]]
)
def test_others_are_refused_with_the_list(stated: Any) -> None:
    with pytest.raises(
        CheckpointError,
        match=r"Supported: BertForMaskedLM, .*GPT2LMHeadModel, .*LlamaForCausalLM, MistralForCausalLM, Mixtral",
    ):
        for_config({"architectures": stated})


def test_an_unknown_gguf_architecture_is_refused_with_the_list() -> None:
    with pytest.raises(CheckpointError, match=r"'mamba' is not supported\. Supported: bert, .*llama, .*qwen2, .*qwen3"):
        for_gguf("mamba")
