"""`fewbits.load`: what a file says is what the network computes, packed as it is stored, whatever the container."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import fewbits
from fewbits.errors import FewbitsError
from fewbits.evaluation.model_files import open_model
from fewbits.hub.locating import Located
from fewbits.layers.modules import Conv1D, Packed
from fewbits.memory import PeakMemory, resident_memory
from references.architecture_models import gpt2
from references.encoder_models import save_encoder
from references.outlier_models import with_outliers
from references.random_models import save_model, small_config

POCKET = Path(__file__).parents[2] / "examples" / "models" / "pocket-llama"
IDS = torch.tensor([int(n) for n in np.random.default_rng(7).integers(3, 500, 40)])

DIALECTS = (
    ("fewbits", "int4_g64_sym_dq"),
    ("fewbits", "nvfp4"),
    ("gptq", "int4_g128_sym_f16"),
    ("awq", "uint4_g128_asym_f16"),
    ("compressed-tensors", "w8a8"),
    ("compressed-tensors", "mxfp4"),
    ("compressed-tensors", "nvfp4"),
    ("bitsandbytes", "nf4_g64_dq"),
    ("bitsandbytes", "int8_row_absmax"),
    ("fp8", "fp8_e4m3_tile128"),
    ("mlx", "uint4_g64_bias_f16"),
    ("hqq", "uint4_g64_floatzero_f16"),
    ("torchao", "int4_g128_sym_bf16"),
)
RECIPES = ("F16", "Q4_0", "Q8_0", "Q2_K", "Q4_K_M", "IQ4_XS", "IQ4_NL", "TQ1_0", "MXFP4")

Quantized = Callable[..., Path]


@pytest.fixture(scope="module")
def quantized(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Quantized:
    """The model quantized, once for each way."""
    known: dict[str, Path] = {}

    def make(to: str, *, dialect: str | None = None, name: str = "out", **options: Any) -> Path:
        key = f"{to} {dialect} {name} {options}"
        if key not in known:
            known[key] = tmp_path_factory.mktemp("quantized") / name
            fewbits.quantize(model, known[key], to=to, dialect=dialect, threads=1, **options)
        return known[key]

    return make


def logits(network: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = network(input_ids=ids[None]).logits[0].float()
    return found


def require_equal(path: Path, network: Any, ids: torch.Tensor = IDS) -> None:
    """The network's logits are those by which `fewbits.compare` judges the file."""
    with torch.no_grad():
        wanted = open_model(path).load().logits(ids)
    assert float((logits(network, ids) - wanted).abs().max()) <= 1e-4 * float(wanted.abs().max())


def packed(network: Any) -> dict[str, Packed]:
    return {name: module for name, module in network.named_modules() if isinstance(module, Packed)}


@pytest.mark.parametrize(("dialect", "to"), DIALECTS)
def test_a_directory_computes_what_compare_judges(dialect: str, to: str, quantized: Quantized) -> None:
    path = quantized(to, dialect=dialect)
    network = fewbits.load(path, inputs="exact")

    assert network.fewbits.dialect == dialect
    assert len(packed(network)) == 2 * 7 + 2
    assert network.fewbits.decoded == ()
    require_equal(path, network)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_gguf_file_computes_what_compare_judges(recipe: str, quantized: Quantized) -> None:
    path = quantized(recipe, name="out.gguf")
    network = fewbits.load(path, inputs="exact")

    assert sum(network.fewbits.formats.values()) == 2 * 7 + 1
    require_equal(path, network)


def test_what_is_packed_takes_the_bytes_of_the_file(quantized: Quantized) -> None:
    path = quantized("Q4_K_M", name="out.gguf")
    network = fewbits.load(path, inputs="exact")

    stored = fewbits.inspect(path).file_bytes
    assert 0.9 * stored < network.fewbits.bytes < stored
    assert sum(parameter.numel() for parameter in network.parameters()) < 10_000
    assert set(network.fewbits.formats) == {"Q4_K", "Q6_K"}


def test_tied_weights_are_one_matrix_and_stay_so(quantized: Quantized) -> None:
    network = fewbits.load(quantized("Q4_K_M", name="out.gguf"))
    before = logits(network)

    assert network.lm_head.matrix is network.model.embed_tokens.matrix
    network.tie_weights()
    assert network.lm_head.matrix is network.model.embed_tokens.matrix
    assert torch.equal(logits(network), before)


def test_text_is_generated_as_the_decoded_weights_would(quantized: Quantized) -> None:
    path = quantized("Q4_K_M", name="out.gguf")
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    wanted = open_model(path).load().network.generate(IDS[None, :8], **options)

    assert torch.equal(fewbits.load(path, inputs="exact").generate(IDS[None, :8], **options), wanted)


def test_a_plain_directory_keeps_its_numbers_in_the_bits_they_have(model: Path) -> None:
    network = fewbits.load(model, inputs="exact")

    assert set(network.fewbits.formats) == {"BF16"}
    assert network.fewbits.dialect == ""
    require_equal(model, network)
    halved = fewbits.load(model, dtype=torch.bfloat16)
    assert packed(halved) == {}
    assert halved.lm_head.weight.dtype == torch.bfloat16


def test_columns_in_sixteen_bits_and_rounded_inputs_are_obeyed(tmp_path: Path) -> None:
    source = tmp_path / "model"
    save_model(source, small_config(transformers.LlamaConfig, rows=4096, bos_token_id=0, eos_token_id=0))
    for file in POCKET.glob("tokenizer*"):
        shutil.copy(file, source)
    weights = load_file(source / "model.safetensors")
    save_file(with_outliers(weights, 2), source / "model.safetensors", metadata={"format": "pt"})
    fewbits.quantize(source, tmp_path / "out", to="llm_int8", windows=6, sequence_length=32, threads=1)
    network = fewbits.load(tmp_path / "out", inputs="exact")

    assert any("outlier_index" in module.matrix.fields for module in packed(network).values())
    assert network.fewbits.activations == {"int8_token": 2 * 7}
    with torch.no_grad():
        wanted = open_model(tmp_path / "out").load().logits(IDS)
    # The order of sums may turn an input that is rounded to the next code, in a token or two.
    far = (logits(network) - wanted).abs().amax(1)
    assert float(far.median()) <= 1e-4 * float(wanted.abs().max())
    assert float(far.max()) <= 1e-2 * float(wanted.abs().max())


def test_columns_in_an_order_of_their_own(quantized: Quantized, tmp_path: Path) -> None:
    """Act-order: groups of columns that are no neighbours."""
    path = shutil.copytree(quantized("int4_g32_sym_f16", dialect="gptq"), tmp_path / "out")
    tensors = load_file(path / "model.safetensors")
    for n, name in enumerate(sorted(name for name in tensors if name.endswith(".g_idx"))):
        order = torch.randperm(len(tensors[name]), generator=torch.Generator().manual_seed(n))
        tensors[name] = tensors[name][order].contiguous()
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    network = fewbits.load(path, inputs="exact")

    assert sum("column_order" in module.matrix.fields for module in packed(network).values()) == 14
    require_equal(path, network)


def test_columns_as_rows(tmp_path: Path) -> None:
    """GPT-2's Conv1D, in both containers."""
    source = gpt2(tmp_path / "model")
    ids = IDS % 300
    for output in (tmp_path / "out", tmp_path / "file.gguf"):
        fewbits.quantize(source, output, to="Q8_0", threads=1)
        network = fewbits.load(output, inputs="exact")
        assert any(isinstance(module, Conv1D) for module in packed(network).values())
        require_equal(output, network, ids)


def test_an_encoder_answers_with_its_states(tmp_path: Path) -> None:
    source = save_encoder(tmp_path / "model")
    ids = IDS % 300
    for output in (tmp_path / "out", tmp_path / "file.gguf"):
        fewbits.quantize(source, output, to="Q8_0", threads=1)
        network = fewbits.load(output, inputs="exact")
        with torch.no_grad():
            wanted = open_model(output).load().states(ids)
            found = network.base_model(input_ids=ids[None]).last_hidden_state[0]
        assert packed(network)
        assert float((found - wanted).abs().max()) < 1e-5


def test_a_hub_id_is_fetched_first(
    model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fetched(source: str, *, revision: str | None) -> Located:
        assert (source, revision) == ("org/name", "v1")
        return Located(str(model), notes=("The hub could not be asked.",))

    monkeypatch.setattr("fewbits.loading.load.locate", fetched)
    require_equal(model, fewbits.load("org/name", revision="v1"))
    assert "The hub could not be asked." in caplog.text


def test_packed_models_move_and_convert(quantized: Quantized) -> None:
    network = fewbits.load(quantized("nf4_g64_dq", dialect="bitsandbytes"), dtype=torch.bfloat16)

    assert logits(network).isfinite().all()
    assert network.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
    assert "nf4_g64_dq" in repr(network.model.layers[0].mlp.up_proj)


def test_memory_is_that_of_the_packed_weights(model: Path, tmp_path: Path) -> None:
    """A float copy would be twice as much again."""
    config = transformers.AutoConfig.from_pretrained(model)
    config.hidden_size, config.intermediate_size, config.head_dim = 1024, 4096, 256
    config.vocab_size, config.num_hidden_layers = 32000, 3
    with torch.device("meta"):
        network = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    state = {name: torch.full(p.shape, 0.01, dtype=p.dtype) for name, p in network.named_parameters()}
    config.architectures = [type(network).__name__]
    config.save_pretrained(tmp_path)
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    del state
    before = resident_memory()
    with PeakMemory() as memory:
        size = fewbits.load(tmp_path).fewbits.bytes

    assert size > 150e6
    assert memory.peak - before < 1.25 * size


def test_what_cannot_be_loaded_is_said_in_a_sentence(
    pocket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quantized: Quantized
) -> None:
    def refused(path: Path | str, match: str) -> None:
        with pytest.raises(FewbitsError, match=match) as error:
            fewbits.load(path, inputs="exact")
        assert "\n" not in str(error.value)

    refused(tmp_path / "none", "there is no such model")
    whole = quantized("Q4_K_M", name="out.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "cut.gguf", "truncated|ends at")
    shutil.copytree(pocket, tmp_path / "cut")
    cut = (pocket / "model.safetensors").read_bytes()
    (tmp_path / "cut" / "model.safetensors").write_bytes(cut[: len(cut) // 2])
    refused(tmp_path / "cut", "is truncated")
    config = (pocket / "config.json").read_text(encoding="utf-8")
    (tmp_path / "cut" / "config.json").write_text(config.replace('"llama"', '"lama"'), encoding="utf-8")
    refused(tmp_path / "cut", "config.json cannot be used")
    monkeypatch.setattr("fewbits.loading.load.available_memory", lambda: 1000)
    refused(pocket, "GB of memory are free")
