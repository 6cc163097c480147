"""What cannot be evaluated is refused in one sentence that says what, where and what to do."""

from __future__ import annotations

import json
import pydoc_data.topics
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fewbits.errors import FewbitsError
from fewbits.evaluation.compare import compare
from references.gguf_files import Floats, write_gguf

POCKET = Path(__file__).parents[2] / "examples" / "models" / "pocket-llama"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(pydoc_data.topics.topics["exprlists"] * 20, encoding="utf-8")
    return path


def _refusal(original: Path, quantized: Path, text: Path, context: int = 64) -> str:
    with pytest.raises(FewbitsError) as caught:
        compare(original, quantized, text=text, context=context, max_tokens=256)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (None, "no such text file"),
        (b"", "the text is empty"),
        (b" \n\t ", "the text is empty"),
        (b"fine so far \xff\xfe", "not UTF-8 text (byte 12)"),
        (b"far too short to evaluate", "2 windows of 64 need 128"),
    ],
)
def test_texts(tmp_path: Path, raw: bytes | None, expected: str) -> None:
    path = tmp_path / "bad.txt"
    if raw is not None:
        path.write_bytes(raw)
    sentence = _refusal(POCKET, POCKET, path)
    assert expected in sentence
    assert str(path) in sentence


def test_a_directory_as_text(tmp_path: Path) -> None:
    assert "cannot be read" in _refusal(POCKET, POCKET, tmp_path)


def test_models_that_are_none(tmp_path: Path, text: Path) -> None:
    assert "no such model" in _refusal(POCKET, tmp_path / "absent.gguf", text)
    assert "no config.json" in _refusal(tmp_path, POCKET, text)
    assert "no GGUF file" in _refusal(POCKET, text, text)


def test_a_configuration_that_is_no_json(tmp_path: Path, text: Path) -> None:
    shutil.copytree(POCKET, tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text("{")
    assert "config.json is not valid JSON" in _refusal(tmp_path / "model", POCKET, text)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, text: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(POCKET, model)
    config = json.loads((model / "config.json").read_text())
    config |= {"model_type": "strange", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    (model / "config.json").write_text(json.dumps(config))
    (model / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert "config.json cannot be used" in _refusal(model, POCKET, text)
    assert not (tmp_path / "ran").exists()


def test_a_pickle_checkpoint_is_not_opened(tmp_path: Path, text: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(POCKET, model)
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    sentence = _refusal(POCKET, model, text)
    assert str(model) in sentence


def test_weights_that_do_not_fit_their_configuration(tmp_path: Path, text: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(POCKET, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 5}))
    assert "missing keys model.layers.4" in _refusal(POCKET, model, text)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_model_that_answers_nan_is_named_with_the_window(tmp_path: Path, text: Path, bad: float) -> None:
    def plant(tensors: dict[str, Floats]) -> None:
        tensors["blk.2.ffn_norm.weight"] = tensors["blk.2.ffn_norm.weight"].copy()
        tensors["blk.2.ffn_norm.weight"][5] = bad

    broken = write_gguf(POCKET, tmp_path / "broken.gguf", edit=plant)
    sentence = _refusal(POCKET, broken, text)
    assert "the quantized model answers NaN or infinity in window 1 of 4" in sentence
    assert str(broken) in sentence


def _other_tokens(tokens: list[str]) -> list[str]:
    return [tokens[0], tokens[1], *reversed(tokens[2:])]


def _tokens() -> list[str]:
    stored = json.loads((POCKET / "tokenizer.json").read_text())
    numbered = {index: token for token, index in stored["model"]["vocab"].items()}
    numbered |= {token["id"]: token["content"] for token in stored["added_tokens"]}
    return [numbered[i] for i in range(4096)]


def test_other_tokens_are_refused(tmp_path: Path, text: Path) -> None:
    other = write_gguf(POCKET, tmp_path / "m.gguf", metadata={"tokenizer.ggml.tokens": _other_tokens(_tokens())})
    assert "only models with the same tokens can be compared" in _refusal(POCKET, other, text)


def test_another_vocabulary_size_is_refused(tmp_path: Path, text: Path) -> None:
    def cut(tensors: dict[str, Floats]) -> None:
        tensors["token_embd.weight"] = tensors["token_embd.weight"][:4000]

    changes = {"tokenizer.ggml.tokens": _tokens()[:4000], "llama.vocab_size": 4000}
    other = write_gguf(POCKET, tmp_path / "m.gguf", edit=cut, metadata=changes)
    assert "vocabulary has 4000 tokens and the original's 4096" in _refusal(POCKET, other, text)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"tokenizer.ggml.tokens": None}, "holds no tokenizer"),
        ({"general.architecture": "mamba"}, "'mamba' is not supported"),
        ({"llama.context_length": "long"}, "not one number"),
    ],
)
def test_files_without_what_is_needed(tmp_path: Path, text: Path, changes: dict[str, object], expected: str) -> None:
    target = write_gguf(POCKET, tmp_path / "m.gguf", metadata=changes)
    assert expected in _refusal(POCKET, target, text)


@pytest.mark.parametrize("cut", [lambda n: n // 2, lambda n: n - 1, lambda n: 100])
def test_a_truncated_file(tmp_path: Path, text: Path, cut: Callable[[int], int]) -> None:
    whole = write_gguf(POCKET, tmp_path / "m.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: cut(len(whole))])
    assert "truncated" in _refusal(POCKET, tmp_path / "cut.gguf", text)
