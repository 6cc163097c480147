"""Adapters on disk: peft's files and the base's name beside them, merged into the base, and as a GGUF file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.trainer_utils import validate_quantization_for_training

import fewbits
from fewbits.errors import FewbitsError, TrainingError
from fewbits.training import adapter_to_gguf, add_lora, load_adapter, merge_adapter, save_adapter
from fewbits.training.lora.adding import quiet_peft
from references.random_models import QWEN2, byte_level_tokenizer, save_byte_level, save_model, small_config
from references.stored_files import stored_bytes

IDS = torch.arange(3, 43).reshape(2, 20)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama as a plain directory, in nf4 as bitsandbytes has it, and as a Q4_K_M file."""
    folder = tmp_path_factory.mktemp("bases")
    tokenizer = byte_level_tokenizer(pattern=QWEN2, size=600)
    config = small_config(
        transformers.LlamaConfig,
        rows=tokenizer.get_vocab_size(),
        hidden_size=256,
        intermediate_size=512,
        head_dim=64,
    )
    save_model(folder / "plain", config, dtype=torch.bfloat16)
    save_byte_level(folder / "plain", tokenizer)
    fewbits.quantize(folder / "plain", folder / "nf4", to="nf4_g64_dq", dialect="bitsandbytes")
    fewbits.quantize(folder / "plain", folder / "file.gguf", to="Q4_K_M")
    return folder


def adapted(base: Path, **options: Any) -> Any:
    """The base with an adapter that changes it."""
    model = add_lora(fewbits.load(base), rank=4, alpha=8, **options)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model


@pytest.fixture(scope="module")
def adapters(bases: Path) -> Path:
    """An adapter of each base, under its name."""
    for base in ("plain", "nf4", "file.gguf"):
        save_adapter(adapted(bases / base), bases / f"adapter-{base}")
    return bases


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


def near(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


# ---- saved and read


@pytest.mark.parametrize("base", ["plain", "nf4", "file.gguf"])
def test_peft_and_we_read_what_was_saved(base: str, adapters: Path) -> None:
    expected, folder = logits(adapted(adapters / base)), adapters / f"adapter-{base}"
    with quiet_peft():
        theirs = peft.PeftModel.from_pretrained(fewbits.load(adapters / base), str(folder))
    again = load_adapter(fewbits.load(adapters / base), folder, trainable=True)

    assert near(logits(load_adapter(fewbits.load(adapters / base), folder)), expected) < 1e-3
    assert near(logits(theirs), expected) < 1e-3
    assert near(logits(again.eval()), expected) < 1e-6
    assert sum(p.requires_grad for p in again.parameters()) == 28


def test_the_files_are_those_of_peft(adapters: Path, tmp_path: Path) -> None:
    network = transformers.AutoModelForCausalLM.from_pretrained(adapters / "plain", dtype=torch.float32)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear")
    with quiet_peft():
        peft.get_peft_model(network, config).save_pretrained(str(tmp_path), save_embedding_layers=False)
    own, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (adapters / "adapter-plain", tmp_path))

    assert {name: (t.shape, t.dtype) for name, t in own.items()} == {n: (t.shape, t.dtype) for n, t in theirs.items()}
    said = [json.loads((f / "adapter_config.json").read_text()) for f in (adapters / "adapter-plain", tmp_path)]
    assert sorted(said[0].pop("target_modules")) == sorted(said[1].pop("target_modules"))
    same = {"task_type", "base_model_name_or_path", "init_lora_weights"}
    assert {k: v for k, v in said[0].items() if k not in same} == {k: v for k, v in said[1].items() if k not in same}


def test_the_base_is_named_beside_it(adapters: Path) -> None:
    said = json.loads((adapters / "adapter-nf4" / "fewbits_base.json").read_text())

    assert said["name"] == str(adapters / "nf4")
    assert said["formats"]["nf4_g64_dq"] == 14
    assert len(said["sha256"]) == 64


def test_an_adapter_of_another_base_is_refused(adapters: Path, tmp_path: Path) -> None:
    folder = adapters / "adapter-nf4"
    for refused in (
        lambda: load_adapter(fewbits.load(adapters / "plain"), folder),
        lambda: merge_adapter(adapters / "plain", folder, tmp_path / "out"),
        lambda: adapter_to_gguf(folder, adapters / "plain", tmp_path / "out.gguf"),
    ):
        with pytest.raises(TrainingError, match=r"was trained on .*nf4 .*sha256 .* and this base is .*plain"):
            refused()
    assert not list(tmp_path.iterdir())


def test_the_same_base_in_another_format_is_said(adapters: Path) -> None:
    quantized = fewbits.load(adapters / "plain", to="Q8_0")
    with pytest.warns(UserWarning, match=r"was trained on .*BF16.* here the base is in .*Q8_0"):
        load_adapter(quantized, adapters / "adapter-plain")


def test_a_network_from_memory_has_a_fingerprint_too(tmp_path: Path) -> None:
    def network(seed: int) -> torch.nn.Module:
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 8))

    save_adapter(add_lora(network(0), rank=2), tmp_path / "adapter")
    load_adapter(network(0), tmp_path / "adapter")
    with pytest.raises(TrainingError, match="was trained on Sequential"):
        load_adapter(network(1), tmp_path / "adapter")


def _cut(folder: Path) -> None:
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def _without_b(folder: Path) -> None:
    kept = load_file(folder / "adapter_model.safetensors")
    kept.pop(next(name for name in kept if "lora_B" in name))
    save_file(kept, folder / "adapter_model.safetensors")


def _other_kind(folder: Path) -> None:
    said = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(said | {"use_dora": True}))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (_cut, "adapter_model.safetensors"),
        (_without_b, "holds only one of A and B"),
        (_other_kind, "has DoRA"),
        (lambda folder: (folder / "adapter_config.json").unlink(), "it has no adapter_config.json"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "adapter_config.json"),
        (lambda folder: (folder / "fewbits_base.json").write_text('{"version": 1}'), "states no fingerprint"),
        (shutil.rmtree, "is no adapter of peft"),
    ],
)
def test_a_damaged_folder_is_one_sentence(
    damage: Callable[[Path], None], sentence: str, adapters: Path, tmp_path: Path
) -> None:
    shutil.copytree(adapters / "adapter-nf4", tmp_path / "adapter")
    damage(tmp_path / "adapter")
    for refused in (
        lambda: load_adapter(fewbits.load(adapters / "nf4"), tmp_path / "adapter"),
        lambda: merge_adapter(adapters / "nf4", tmp_path / "adapter", tmp_path / "out"),
    ):
        with pytest.raises(FewbitsError) as caught:
            refused()
        assert sentence in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_nothing(adapters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted(adapters / "nf4")
    full = OSError(28, "No space left on device")
    monkeypatch.setattr("safetensors.torch.save_file", lambda *_, **__: (_ for _ in ()).throw(full))
    monkeypatch.setattr("peft.peft_model.safe_save_file", lambda *_, **__: (_ for _ in ()).throw(full))
    with pytest.raises(OSError, match="No space"):
        save_adapter(model, tmp_path / "adapter")
    with pytest.raises(OSError, match="No space"):
        merge_adapter(adapters / "nf4", adapters / "adapter-nf4", tmp_path / "merged")
    assert not list(tmp_path.iterdir())


def test_what_exists_is_not_replaced(adapters: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for refused in (
        lambda: save_adapter(adapted(adapters / "nf4"), tmp_path / "there"),
        lambda: merge_adapter(adapters / "nf4", adapters / "adapter-nf4", tmp_path / "there"),
        lambda: adapter_to_gguf(adapters / "adapter-nf4", adapters / "nf4", tmp_path / "there"),
    ):
        with pytest.raises(TrainingError, match="exists already"):
            refused()


def test_transformers_trains_the_adapter_and_not_the_base_alone(adapters: Path) -> None:
    base = fewbits.load(adapters / "nf4")
    with pytest.raises(ValueError, match="attach trainable adapters"):
        validate_quantization_for_training(base)
    validate_quantization_for_training(add_lora(base, rank=4))


# ---- merged


@pytest.mark.parametrize("base", ["plain", "nf4", "file.gguf"])
def test_the_merged_model_computes_what_the_adapted_one_does(base: str, adapters: Path, tmp_path: Path) -> None:
    merged = merge_adapter(adapters / base, adapters / f"adapter-{base}", tmp_path / "merged", to="F32")

    assert near(logits(fewbits.load(tmp_path / "merged")), logits(adapted(adapters / base))) < 1e-4
    assert len(merged.changes) == 14
    assert all(change.change > 0.005 and change.error < 1e-6 for change in merged.changes)
    assert json.loads((tmp_path / "merged.merge.json").read_text())["words"] == merged.words
    assert fewbits.load_tokenizer(tmp_path / "merged")("a b")["input_ids"]


def test_requantization_is_that_of_the_merged_floats_and_its_cost_is_said(adapters: Path, tmp_path: Path) -> None:
    adapter = adapters / "adapter-nf4"
    merge_adapter(adapters / "nf4", adapter, tmp_path / "floats", to="F32")
    fewbits.quantize(tmp_path / "floats", tmp_path / "expected.gguf", to="Q4_K_M")
    merged = merge_adapter(adapters / "nf4", adapter, tmp_path / "own.gguf", to="Q4_K_M")

    assert stored_bytes(tmp_path / "own.gguf") == stored_bytes(tmp_path / "expected.gguf")
    assert merged.record is not None
    assert all(0.005 < change.error < 0.2 for change in merged.changes)
    assert "rounding to Q4_K_M by " in merged.words
    assert sorted(p.name for p in tmp_path.iterdir() if "own" in p.name) == [
        "own.card.json",
        "own.gguf",
        "own.gguf.merge.json",
    ]


def test_merged_into_a_dialect(adapters: Path, tmp_path: Path) -> None:
    merge_adapter(adapters / "nf4", adapters / "adapter-nf4", tmp_path / "out", to="nf4_g64_dq", dialect="bitsandbytes")

    assert fewbits.load(tmp_path / "out").fewbits.formats["nf4_g64_dq"] == 14


# ---- for llama.cpp


@pytest.mark.parametrize("base", ["nf4", "file.gguf"])
def test_the_gguf_adapter_is_what_merging_adds(base: str, adapters: Path, tmp_path: Path) -> None:
    """In the file's own order of rows, which another path leads to: the merged model, written as a GGUF file."""
    adapter = adapters / f"adapter-{base}"
    reader = gguf.GGUFReader(str(adapter_to_gguf(adapter, adapters / base, tmp_path / "adapter.gguf")))
    for name, kwargs in (("with", {}), ("without", {"scaled": 0})):
        folder = tmp_path / f"{name}-adapter"
        shutil.copytree(adapter, folder)
        if kwargs:
            held = load_file(folder / "adapter_model.safetensors")
            save_file({n: t * 0 for n, t in held.items()}, folder / "adapter_model.safetensors")
        merge_adapter(adapters / base, folder, tmp_path / f"{name}.gguf", to="F32")
    files = {n: gguf.GGUFReader(str(tmp_path / f"{n}.gguf")) for n in ("with", "without")}
    weights = {n: {t.name: np.array(t.data) for t in file.tensors} for n, file in files.items()}
    found = {t.name: np.array(t.data) for t in reader.tensors}

    fields = {key: field.contents() for key, field in reader.fields.items()}
    assert fields["general.type"] == "adapter"
    assert fields["adapter.type"] == "lora"
    assert fields["general.architecture"] == "llama"
    assert fields["adapter.lora.alpha"] == 8.0
    assert len(found) == 28
    for name in {each.rpartition(".lora_")[0] for each in found}:
        change = 8.0 / 4 * found[f"{name}.lora_b"] @ found[f"{name}.lora_a"]
        np.testing.assert_allclose(weights["with"][name] - weights["without"][name], change, atol=1e-5)
        assert np.abs(change).max() > 1e-3


def test_what_no_gguf_file_has_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(64, 32))
    save_adapter(add_lora(network, rank=2), tmp_path / "adapter")
    with pytest.raises(FewbitsError):
        adapter_to_gguf(tmp_path / "adapter", tmp_path / "nothing", tmp_path / "out.gguf")
