"""`fewbits.Config`: weights packed while transformers reads them, and saved as others, or we, read them again."""

from __future__ import annotations

import copy
import importlib
import json
import logging
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import fewbits
from fewbits.errors import FewbitsError
from fewbits.evaluation.model_files import open_model
from fewbits.layers.modules import Packed
from fewbits.loading import packing
from references.architecture_models import gpt2
from references.expert_models import write_experts

IDS = torch.arange(3, 43) * 7 % 500


def read(folder: Path, config: Any, **options: Any) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=config, dtype=torch.float32, **options
    )


def logits(network: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = network(input_ids=IDS[None]).logits[0]
    return found


def stored(network: Any) -> dict[str, tuple[str, dict[str, bytes]]]:
    """Module -> its format and the bytes of its fields."""
    return {
        name: (module.matrix.format, {field: each.tobytes() for field, each in module.matrix.stored().items()})
        for name, module in network.named_modules()
        if isinstance(module, Packed)
    }


def require_near(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """The same but for the order of sums, which may turn an input that is rounded to the next code."""
    assert float((found - wanted).abs().mean()) <= 1e-4 * float(wanted.abs().max())


@pytest.mark.parametrize(
    ("config", "to", "dialect"),
    [
        ({"recipe": "nf4", "double_quant": True}, "nf4_g64_dq", "bitsandbytes"),
        ({"recipe": "int4", "group_size": 32}, "int4_g32_sym_f16", "compressed-tensors"),
        ({"recipe": "int4", "dialect": "gptq"}, "int4_g128_sym_f16", "gptq"),
        ({"recipe": "w8a8"}, "w8a8", "compressed-tensors"),
        ({"recipe": "Q4_K_M"}, "Q4_K_M", "fewbits"),
    ],
)
def test_codes_are_those_of_a_quantized_file(
    config: dict[str, Any], to: str, dialect: str, model: Path, tmp_path: Path
) -> None:
    """And what is saved is read again: the same codes, in a dialect that others read where one holds them."""
    network = read(model, fewbits.Config(**config, inputs="exact"))
    fewbits.quantize(model, tmp_path / "file", to=to, dialect=dialect, threads=1)
    wanted = fewbits.load(tmp_path / "file", dtype=torch.bfloat16)

    assert network.fewbits.dialect == dialect
    assert stored(network) == stored(wanted)
    network.save_pretrained(tmp_path / "saved")
    said = json.loads((tmp_path / "saved" / "config.json").read_text(encoding="utf-8"))["quantization_config"]
    assert said["quant_method"] == dialect
    again = fewbits.load(tmp_path / "saved", inputs="exact")
    assert again.fewbits.dialect == dialect
    assert torch.equal(logits(again), logits(network))
    require_near(open_model(tmp_path / "saved").load().logits(IDS), logits(network))
    assert network.fewbits.activations == again.fewbits.activations


def test_tied_weights_are_quantized_once(model: Path) -> None:
    network = read(model, fewbits.Config("Q4_K_M"))

    assert network.lm_head.matrix is network.model.embed_tokens.matrix
    assert set(network.fewbits.errors) == set(stored(network)) - {"lm_head"}
    assert all(0.005 < error < 0.1 for error in network.fewbits.errors.values())


def test_modules_are_named_that_stay_or_are_otherwise(model: Path) -> None:
    config = fewbits.Config("int8", tensors={"*.v_proj": "Q6_K"}, modules_to_not_convert=["model.layers.0", "o_proj"])
    found = {name: format for name, (format, _) in stored(read(model, config)).items()}

    assert len(found) == 6 + 2  # our own dialect holds the embedding and the head as well
    assert {format for name, format in found.items() if name.endswith("v_proj")} == {"Q6_K"}
    assert "model.layers.1.self_attn.o_proj" not in found


def test_our_own_dialect_is_read_by_from_pretrained(model: Path, tmp_path: Path) -> None:
    """`import fewbits.transformers` is what it takes."""
    importlib.import_module("fewbits.transformers")
    fewbits.quantize(model, tmp_path / "own", to="Q4_K_M", threads=1)
    network = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "own", dtype=torch.float32)

    assert torch.equal(logits(network), logits(fewbits.load(tmp_path / "own")))
    assert network.lm_head.matrix is network.model.embed_tokens.matrix
    assert network.fewbits.dialect == "fewbits"


def test_products_take_inputs_as_they_are_asked_to(model: Path) -> None:
    exact, wide, few = (
        logits(fewbits.load(model, to="Q8_0", inputs=i)) for i in ("exact", "int16_group", "int8_group")
    )
    far, near = ((each - exact).abs().max() / exact.abs().max() for each in (few, wide))
    assert 0 < near < 5e-3 < far < 0.3
    with pytest.raises(FewbitsError, match="'int9'"):
        fewbits.load(model, inputs="int9")
    config = fewbits.Config("Q8_0", inputs="int8_group")
    assert fewbits.Config.from_dict(config.to_dict()).inputs == "int8_group"


def test_a_plain_model_is_quantized_in_one_line(model: Path) -> None:
    network = fewbits.load(model, to="nf4")

    assert stored(network) == stored(read(model, fewbits.Config("nf4")))
    assert network.fewbits.dialect == "bitsandbytes"


def test_a_gguf_file_is_saved_as_a_directory(model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fewbits.quantize(model, tmp_path / "model.gguf", to="Q4_K_M", threads=1)
    network = fewbits.load(tmp_path / "model.gguf")
    with caplog.at_level(logging.INFO, logger="fewbits"):
        network.save_pretrained(tmp_path / "saved", max_shard_size="300KB")

    assert (tmp_path / "saved" / "model.safetensors.index.json").is_file()
    assert "saved in the dialect fewbits" in caplog.text
    assert torch.equal(logits(fewbits.load(tmp_path / "saved")), logits(network))


def test_a_plain_model_is_saved_as_it_was(model: Path, tmp_path: Path) -> None:
    fewbits.load(model).save_pretrained(tmp_path / "saved")

    assert "quantization_config" not in json.loads((tmp_path / "saved" / "config.json").read_text(encoding="utf-8"))
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    require_near(logits(again), logits(fewbits.load(model, inputs="exact")))


def test_columns_as_rows_and_experts(tmp_path: Path) -> None:
    turned = read(gpt2(tmp_path / "gpt2"), fewbits.Config("int8"))
    assert turned.fewbits.dialect == "fewbits"
    turned.save_pretrained(tmp_path / "turned")
    assert stored(fewbits.load(tmp_path / "turned")) == stored(turned)

    experts = read(write_experts(tmp_path / "experts", "qwen3_moe"), fewbits.Config("Q8_0"))
    assert "experts" in experts.fewbits.notes[-1]
    experts.save_pretrained(tmp_path / "saved")
    assert torch.equal(logits(fewbits.load(tmp_path / "saved")), logits(experts))


def test_a_config_loads_several_models(model: Path) -> None:
    """And a model is nothing that cannot be copied and kept."""
    config = fewbits.Config("nf4")
    one, other = read(model, config), read(model, config)

    assert config.to_dict() == {"quant_method": "fewbits", "recipe": "nf4_g64"}
    assert stored(one) == stored(other)
    assert torch.equal(logits(pickle.loads(pickle.dumps(copy.deepcopy(one)))), logits(one))
    assert stored(fewbits.load(model, to=config)) == stored(one)
    assert pickle.dumps(fewbits.load(model))


def test_a_config_goes_to_json_and_back() -> None:
    config = fewbits.Config("nf4", double_quant=True, tensors={"*.v_proj": "Q6_K"}, modules_to_not_convert=["lm_head"])
    said = json.loads(json.dumps(config.to_dict()))

    assert said == {
        "quant_method": "fewbits",
        "recipe": "nf4_g64_dq",
        "tensors": {"*.v_proj": "Q6_K"},
        "modules_to_not_convert": ["lm_head"],
    }
    assert fewbits.Config.from_dict(said) == config


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"recipe": "nf9"}, "nf9"),
        ({"recipe": "Q4_K_M", "group_size": 32}, "group_size, symmetric and double_quant complete"),
        ({"recipe": "nf4", "bits": 4}, "has no option 'bits'"),
    ],
)
def test_what_no_config_says(options: dict[str, Any], match: str) -> None:
    with pytest.raises(FewbitsError, match=match):
        fewbits.Config(**options)


def test_refusals_are_sentences(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(config: Any, match: str) -> None:
        with pytest.raises(FewbitsError, match=match) as error:
            read(model, config)
        assert "\n" not in str(error.value)

    refused(fewbits.Config("Q4_K", dialect="gptq"), "GPTQ's dialect holds")
    refused(fewbits.Config("int8", tensors={"nothing.*": "Q6_K"}), "matches no tensor")
    refused(fewbits.Config("int8", modules_to_not_convert=["*"]), "nothing")
    refused(fewbits.Config("int4", method="gptq"), "walks a model on disk")
    fewbits.quantize(model, tmp_path / "model.gguf", to="Q8_0", threads=1)
    with pytest.raises(FewbitsError, match="is quantized already"):
        fewbits.load(tmp_path / "model.gguf", to="nf4")
    network = fewbits.load(tmp_path / "model.gguf")
    network.config.quantization_config.dialect = "awq"
    with pytest.raises(FewbitsError, match="AWQ's dialect holds"):
        network.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_a_matrix_that_is_not_what_it_should_be_is_not_used(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every matrix is read by independent code before transformers reads on."""

    def spoiled(*arguments: Any) -> Any:
        matrix, error = really(*arguments)
        matrix.get_buffer("scale").mul_(1.02)
        return matrix, error

    really = packing.packed_matrix
    monkeypatch.setattr(packing, "packed_matrix", spoiled)
    with pytest.raises(FewbitsError, match="relative"):
        read(model, fewbits.Config("int8"))


def test_experts_in_our_dialect_are_for_load(tmp_path: Path) -> None:
    source = write_experts(tmp_path / "model", "qwen3_moe")
    fewbits.quantize(source, tmp_path / "own", to="Q8_0", threads=1)
    _ = fewbits.Config  # which transformers has to know
    with pytest.raises(FewbitsError, match=r"load the directory with fewbits.load"):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "own")


def test_a_tokenizer_comes_from_either_container(model: Path, tmp_path: Path) -> None:
    fewbits.quantize(model, tmp_path / "model.gguf", to="Q8_0", threads=1)
    text = "The with statement is used to wrap a block."
    here, there = fewbits.load_tokenizer(model), fewbits.load_tokenizer(tmp_path / "model.gguf")

    assert here(text)["input_ids"] == there(text)["input_ids"]
    assert here.eos_token_id == there.eos_token_id
    with pytest.raises(FewbitsError, match="no such model"):
        fewbits.load_tokenizer(tmp_path / "none")
