"""Encoders as conversions: what a file and a directory hold of them, and how they pool."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import fewbits
from fewbits.checkpoints.gguf import GGUFReader
from fewbits.checkpoints.huggingface import convert_directory
from fewbits.checkpoints.pooling import read_pooling
from fewbits.errors import CheckpointError
from references.encoder_models import save_encoder, save_nomic, save_pooling, save_roberta
from references.stored_files import stored_bytes


@pytest.mark.parametrize("kind", ["BertModel", "BertForMaskedLM"])
def test_a_file_holds_the_encoder_and_says_what_it_left_out(kind: str, tmp_path: Path) -> None:
    directory = save_encoder(tmp_path / "model", kind)

    record = fewbits.quantize(directory, tmp_path / "o.gguf", to="Q8_0")

    names = set(GGUFReader(tmp_path / "o.gguf").names())
    assert len(names) == 5 + 3 * 16
    assert not any(name.startswith(("pooler", "cls")) for name in names)
    assert any("Beside the encoder stand" in note for note in record.preview.notes)  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["BertModel", "BertForMaskedLM"])
def test_a_directory_keeps_what_stands_beside_the_encoder(kind: str, tmp_path: Path) -> None:
    directory = save_encoder(tmp_path / "model", kind)

    record = fewbits.quantize(directory, tmp_path / "out", to="Q8_0")

    own = {t.planned.source_name: t.planned for t in record.tensors}  # type: ignore[union-attr]
    aside = {name: planned for name, planned in own.items() if "pooler" in name or name.startswith("cls")}
    assert len(aside) == {"BertModel": 2, "BertForMaskedLM": 5}[kind]
    assert {planned.format for planned in aside.values()} == {"F32"}
    assert not any("left out" in note for note in record.preview.notes)  # type: ignore[union-attr]
    for name in ("modules.json", "1_Pooling/config.json", "tokenizer.json"):
        assert (tmp_path / "out" / name).read_bytes() == (directory / name).read_bytes()


@pytest.mark.parametrize("kind", ["RobertaModel", "RobertaForMaskedLM"])
def test_positions_that_nothing_looks_up_stay_out_of_a_file(kind: str, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    directory = save_roberta(tmp_path / "model", kind)
    fewbits.quantize(directory, tmp_path / "o.gguf", to="Q8_0")
    fewbits.quantize(directory, tmp_path / "out", to="Q8_0")

    name = next(n for n in load_file(directory / "model.safetensors") if n.endswith("position_embeddings.weight"))
    table = load_file(directory / "model.safetensors")[name]
    file = GGUFReader(tmp_path / "o.gguf")
    stored = file.read("position_embd.weight")
    assert table.shape == (133, 64)
    assert (stored.buffer.view("<f4").reshape(stored.shape) == table[5:]).all()
    assert (load_file(tmp_path / "out" / "model.safetensors")[name] == table).all()
    assert file.metadata["bert.context_length"].value == 128


@pytest.mark.parametrize("kind", ["NomicBertModel", "NomicBertForMaskedLM"])
def test_nomic_is_read_by_its_own_names_and_keys(kind: str, tmp_path: Path) -> None:
    """The configuration of Nomic's own code says the same by other names, and counts positions not trained for."""
    directory = save_nomic(tmp_path / "model", kind)
    fewbits.quantize(directory, tmp_path / "new.gguf", to="Q8_0")
    path = directory / "config.json"
    stated = json.loads(path.read_text(encoding="utf-8"))
    own = {"hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head"}
    own |= {"intermediate_size": "n_inner", "layer_norm_eps": "layer_norm_epsilon"}
    older = {own.get(key, key): value for key, value in stated.items() if key not in ("rope_parameters", "head_dim")}
    older |= {"n_positions": 8192, "max_trained_positions": 2048, "rotary_emb_base": 1000, "qkv_proj_bias": False}
    older |= {"activation_function": "swiglu", "rotary_scaling_factor": None, "causal": False}
    older.pop("max_position_embeddings")
    older.pop("hidden_act")
    path.write_text(json.dumps(older), encoding="utf-8")
    fewbits.quantize(directory, tmp_path / "old.gguf", to="Q8_0")

    assert stored_bytes(tmp_path / "old.gguf") == stored_bytes(tmp_path / "new.gguf")
    before, after = (dict(GGUFReader(tmp_path / f"{name}.gguf").metadata) for name in ("new", "old"))
    lengths = [found.pop("nomic-bert.context_length").value for found in (before, after)]
    assert lengths == [128, 2048]
    assert before == after
    for key, value in (("moe_every_n_layers", 2), ("rotary_scaling_factor", 2.0), ("prenorm", True)):
        path.write_text(json.dumps({**older, key: value}), encoding="utf-8")
        with pytest.raises(CheckpointError, match=f"{key} = {value}"):
            convert_directory(directory)


@pytest.mark.parametrize("number", [None, -1, 132, "1"])
def test_a_padding_number_beyond_the_positions_is_refused(number: object, tmp_path: Path) -> None:
    directory = save_roberta(tmp_path / "model")
    path = directory / "config.json"
    stated = {**json.loads(path.read_text(encoding="utf-8")), "pad_token_id": number}
    path.write_text(json.dumps(stated), encoding="utf-8")

    if number is None:  # transformers' own default, 1
        assert convert_directory(directory).metadata["bert.context_length"].value == 131
        return
    with pytest.raises(CheckpointError, match="behind which its 133 positions begin"):
        convert_directory(directory)


def test_names_of_2018_are_read(tmp_path: Path) -> None:
    """Gains and shifts called gamma and beta give the same file, and a directory that transformers fills completely."""
    from safetensors.torch import load_file, save_file

    directory = save_encoder(tmp_path / "model", "BertForMaskedLM")
    fewbits.quantize(directory, tmp_path / "new.gguf", to="Q8_0")
    weights = load_file(directory / "model.safetensors")
    older = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    for name in list(weights):
        for newer, old in older.items():
            if name.endswith(newer):
                weights[name.removesuffix(newer) + old] = weights.pop(name)
    weights["bert.embeddings.position_ids"] = torch.arange(128)[None]
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})

    fewbits.quantize(directory, tmp_path / "old.gguf", to="Q8_0")
    fewbits.quantize(directory, tmp_path / "out", to="F32")

    assert stored_bytes(tmp_path / "old.gguf") == stored_bytes(tmp_path / "new.gguf")
    text = tmp_path / "t.txt"
    text.write_text("Some words, again and again. " * 40, encoding="utf-8")
    for original, quantized, limit in ((directory, "out", 1e-9), (tmp_path / "out", "old.gguf", 1e-2)):
        found = fewbits.compare(original, tmp_path / quantized, text=text, context=32, threads=1)
        assert found.state_error.value < limit  # type: ignore[union-attr]


def test_a_missing_tensor_of_the_encoder_is_named(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    directory = save_encoder(tmp_path / "model")
    weights = load_file(directory / "model.safetensors")
    del weights["encoder.layer.1.output.dense.bias"]
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(CheckpointError, match=r"no tensor 'encoder\.layer\.1\.output\.dense\.bias'"):
        convert_directory(directory)


@pytest.mark.parametrize(("mode", "number"), [("mean_tokens", 1), ("cls_token", 2)])
def test_pooling_is_stated(mode: str, number: int, tmp_path: Path) -> None:
    metadata = convert_directory(save_encoder(tmp_path / "model", pooling=mode)).metadata

    assert metadata["bert.pooling_type"].value == number
    assert metadata["bert.attention.causal"].value is False


def test_a_directory_that_does_not_pool_is_told_of(tmp_path: Path) -> None:
    conversion = convert_directory(save_encoder(tmp_path / "model", pooling=None))

    assert "bert.pooling_type" not in conversion.metadata
    assert any("llama.cpp gives states of tokens" in note for note in conversion.notes)


def newer(directory: Path) -> None:
    (directory / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "lasttoken"}), encoding="utf-8")


def test_a_cache_of_the_hub_whose_files_are_links_is_read(tmp_path: Path) -> None:
    directory = save_encoder(tmp_path / "model")
    for file in [f for f in directory.rglob("*") if f.is_file()]:
        stored = tmp_path / "blobs" / str(file.relative_to(directory)).replace("/", "-")
        stored.parent.mkdir(exist_ok=True)
        file.rename(stored)
        file.symlink_to(stored)

    fewbits.quantize(directory, tmp_path / "out", to="Q8_0")

    assert read_pooling(tmp_path / "out").mode == "mean"


def test_newer_files_state_one_mode(tmp_path: Path) -> None:
    save_pooling(tmp_path, "mean_tokens")
    newer(tmp_path)

    assert read_pooling(tmp_path).mode == "last"


def steps(*kinds: str, path: str = "1_Pooling") -> Callable[[Path], None]:
    def write(directory: Path) -> None:
        listed = [
            {"idx": n, "path": path, "type": f"sentence_transformers.models.{kind}"} for n, kind in enumerate(kinds)
        ]
        (directory / "modules.json").write_text(json.dumps(listed), encoding="utf-8")

    return write


def largest(directory: Path) -> None:
    save_pooling(directory, "max_tokens")


def no_list(directory: Path) -> None:
    (directory / "modules.json").write_text("{}", encoding="utf-8")


def no_json(directory: Path) -> None:
    (directory / "modules.json").write_text("[", encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (steps("Transformer", "Pooling", "Dense"), "step 'sentence_transformers.models.Dense', which would be lost"),
        (steps("Transformer"), "names 0 steps that pool"),
        (steps("Transformer", "Pooling", path="../elsewhere"), "where no config.json is"),
        (largest, "pools by pooling_mode_max_tokens"),
        (no_list, "lists no steps"),
        (no_json, "cannot be read as JSON"),
    ],
)
def test_pooling_that_would_be_lost_is_refused(change: Callable[[Path], None], said: str, tmp_path: Path) -> None:
    directory = save_encoder(tmp_path / "model")
    change(directory)

    with pytest.raises(CheckpointError, match=said):
        convert_directory(directory)


CONFIGURATIONS: list[tuple[dict[str, Any], str]] = [
    ({"hidden_act": "relu"}, "hidden_act = 'relu'"),
    ({"position_embedding_type": "relative_key"}, "relative_key"),
    ({"is_decoder": True}, "is_decoder = True"),
    ({"layer_norm_eps": 0}, "layer_norm_eps = 0"),
    ({"type_vocab_size": 0}, "type_vocab_size = 0"),
]


@pytest.mark.parametrize(("change", "said"), CONFIGURATIONS)
def test_what_llama_cpp_would_compute_otherwise_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    directory = save_encoder(tmp_path / "model")
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **change}), encoding="utf-8")

    with pytest.raises(CheckpointError, match=said):
        convert_directory(directory)


def test_an_encoder_that_answers_conversations_is_refused(tmp_path: Path) -> None:
    directory = save_encoder(tmp_path / "model")
    (directory / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")

    with pytest.raises(CheckpointError, match="has a chat template, and a BertModel is an encoder"):
        convert_directory(directory)


def test_transformers_reads_the_names_that_were_written(tmp_path: Path) -> None:
    """A lossless directory is the model: no name or shape of a tensor got lost on the way."""
    directory = save_encoder(tmp_path / "model", "BertForMaskedLM")
    fewbits.quantize(directory, tmp_path / "out", to="F32")

    _, report = transformers.BertForMaskedLM.from_pretrained(tmp_path / "out", output_loading_info=True, config=None)

    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
