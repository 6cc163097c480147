"""Encoders compared: what is measured is what plain Python makes of transformers' states, and what differs shows."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import fewbits
from fewbits.cli.main import main
from fewbits.errors import EvaluationError
from fewbits.evaluation.compare_encoders import EncoderComparison
from fewbits.evaluation.embeddings import cosines, nearest_others, pooled, state_errors
from references import angles
from references.encoder_models import save_encoder, save_nomic, save_pooling, save_roberta, word_piece_tokenizer
from references.random_models import manual


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder") / "model")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(manual()[:6000], encoding="utf-8")
    return path


def compared(original: Path, quantized: Path, text: Path, **options: Any) -> EncoderComparison:
    found = fewbits.compare(original, quantized, text=text, **{"context": 32, "threads": 1, **options})
    assert isinstance(found, EncoderComparison)
    return found


def test_figures_are_those_of_plain_python() -> None:
    chance = np.random.default_rng(1)
    p, q = chance.standard_normal((2, 7, 5))
    p[3], q[5] = 0.0, 0.0

    assert cosines(p, q) == pytest.approx([angles.cosine(a, b) for a, b in zip(p, q, strict=True)], rel=1e-12)
    assert state_errors(p, q) == pytest.approx([angles.state_error(a, b) for a, b in zip(p, q, strict=True)], rel=1e-12)
    rest = np.delete(p, 3, 0)
    assert nearest_others(rest).tolist() == [angles.nearest_other(rest, n) for n in range(len(rest))]


def test_pooling_takes_what_it_says() -> None:
    states = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 9.0]])

    assert [pooled(states, mode).tolist() for mode in ("mean", "cls", "last")] == [[3.0, 5.0], [1.0, 2.0], [5.0, 9.0]]


@pytest.mark.parametrize("kind", ["gguf", "directory"])
def test_a_lossless_copy_has_no_angle(kind: str, encoder: Path, text: Path, tmp_path: Path) -> None:
    output = tmp_path / {"gguf": "o.gguf", "directory": "o"}[kind]
    fewbits.quantize(encoder, output, to="F16")

    found = compared(encoder, output, text)

    assert found.embedding_cosine_min > 1 - 1e-9
    assert found.token_cosine_min > 1 - 1e-9
    assert found.state_error.value < 1e-9
    assert found.nearest.value == 1
    assert (found.pooling, found.notes) == ("mean", ())
    assert found.tokens == 32 * found.windows


@pytest.mark.parametrize("make", [save_encoder, save_roberta, save_nomic])
@pytest.mark.parametrize("output", ["o", "o.gguf"])
def test_a_masked_language_model_is_compared_by_its_encoder(
    make: Callable[..., Path], output: str, text: Path, tmp_path: Path
) -> None:
    kinds = {save_encoder: "BertForMaskedLM", save_roberta: "RobertaForMaskedLM", save_nomic: "NomicBertForMaskedLM"}
    kind = kinds[make]
    model = make(tmp_path / "model", kind)
    fewbits.quantize(model, tmp_path / output, to="F16")

    found = compared(model, tmp_path / output, text, context=512)

    assert found.state_error.value < 1e-9
    assert found.context == 128


def test_what_it_says_is_what_transformers_says(encoder: Path, text: Path, tmp_path: Path) -> None:
    fewbits.quantize(encoder, tmp_path / "o.gguf", to="Q4_0")
    found = compared(encoder, tmp_path / "o.gguf", text)

    windows = windows_of(encoder, text, 32)
    before = transformers.BertModel.from_pretrained(encoder).eval()
    with torch.no_grad():
        p = [before(torch.tensor([w])).last_hidden_state[0].tolist() for w in windows]
        after = with_weights_of(tmp_path / "o.gguf", encoder)
        q = [after(torch.tensor([w])).last_hidden_state[0].tolist() for w in windows]
    means = [[[math.fsum(column) / 32 for column in zip(*w, strict=True)] for w in side] for side in (p, q)]
    embeddings = [angles.cosine(a, b) for a, b in zip(*means, strict=True)]
    tokens = [angles.cosine(a, b) for w, v in zip(p, q, strict=True) for a, b in zip(w, v, strict=True)]
    errors = [angles.state_error(a, b) for w, v in zip(p, q, strict=True) for a, b in zip(w, v, strict=True)]
    same = [angles.nearest_other(means[0], n) == angles.nearest_other(means[1], n) for n in range(len(windows))]

    assert found.windows == len(windows)
    assert found.embedding_cosine.value == pytest.approx(np.mean(embeddings), rel=1e-5)
    assert found.embedding_cosine_min == pytest.approx(min(embeddings), rel=1e-5)
    assert found.token_cosine.value == pytest.approx(np.mean(tokens), rel=1e-5)
    assert found.token_cosine_p1 == pytest.approx(np.percentile(tokens, 1), rel=1e-4)
    assert found.state_error.value == pytest.approx(np.mean(errors), rel=1e-4)
    assert found.nearest.value == pytest.approx(np.mean(same))
    assert found.embedding_cosine.value < 0.999


def windows_of(directory: Path, text: Path, length: int) -> list[list[int]]:
    """Windows the slow way: the tokenizer's own two tokens around what lies between."""
    ids = transformers.AutoTokenizer.from_pretrained(directory)(text.read_text(encoding="utf-8"), verbose=False)[
        "input_ids"
    ]
    start, *inner, end = ids
    stream = [start, *inner]
    windows = [stream[at : at + length] for at in range(0, len(stream) - length + 1, length)]
    return [[start, *window[1:-1], end] for window in windows]


def with_weights_of(file: Path, directory: Path) -> Any:
    """The source's network with a file's numbers: decoded by the gguf package, names written out here."""
    import gguf

    found = {
        t.name: torch.from_numpy(gguf.quants.dequantize(t.data, t.tensor_type).copy())
        for t in gguf.GGUFReader(file).tensors
    }
    model = transformers.BertModel.from_pretrained(directory, add_pooling_layer=False).eval()
    embeddings = model.embeddings
    pairs = [("token_embd", embeddings.word_embeddings), ("position_embd", embeddings.position_embeddings)]
    pairs += [("token_types", embeddings.token_type_embeddings), ("token_embd_norm", embeddings.LayerNorm)]
    for n, layer in enumerate(model.encoder.layer):
        own, out = layer.attention.self, layer.attention.output
        pairs += [(f"blk.{n}.attn_q", own.query), (f"blk.{n}.attn_k", own.key), (f"blk.{n}.attn_v", own.value)]
        pairs += [(f"blk.{n}.attn_output", out.dense), (f"blk.{n}.attn_output_norm", out.LayerNorm)]
        pairs += [(f"blk.{n}.ffn_up", layer.intermediate.dense), (f"blk.{n}.ffn_down", layer.output.dense)]
        pairs += [(f"blk.{n}.layer_output_norm", layer.output.LayerNorm)]
    for name, module in pairs:
        for leaf, parameter in module.named_parameters():
            parameter.data.copy_(found[f"{name}.{leaf}"].reshape(parameter.shape))
    return model


def test_nobody_says_how_to_pool(text: Path, tmp_path: Path) -> None:
    model = save_encoder(tmp_path / "model", pooling=None)
    fewbits.quantize(model, tmp_path / "o.gguf", to="F16")

    found = compared(model, tmp_path / "o.gguf", text)

    assert found.pooling == "mean"
    assert found.notes == ("Neither model says how states become one embedding; their mean was taken.",)


def test_models_that_pool_otherwise_are_refused(encoder: Path, text: Path, tmp_path: Path) -> None:
    fewbits.quantize(encoder, tmp_path / "o", to="F16")
    save_pooling(tmp_path / "o", "cls_token")

    with pytest.raises(EvaluationError, match=r"pooling 'mean' and .* by 'cls'"):
        compared(encoder, tmp_path / "o", text)


def test_an_encoder_and_another_kind_are_refused(encoder: Path, text: Path, pocket: Path) -> None:
    with pytest.raises(EvaluationError, match=r"is an encoder and .*pocket-llama continues text"):
        compared(encoder, pocket, text)


def test_another_vocabulary_is_refused(encoder: Path, text: Path, tmp_path: Path) -> None:
    other = save_encoder(tmp_path / "model", tokenizer=word_piece_tokenizer(cased=True))
    fewbits.quantize(other, tmp_path / "o.gguf", to="F16")

    with pytest.raises(EvaluationError, match="only models with the same tokens"):
        compared(encoder, tmp_path / "o.gguf", text)


def test_a_text_that_is_too_short_is_refused(encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("A few words.", encoding="utf-8")
    with pytest.raises(EvaluationError, match="too short to evaluate"):
        compared(encoder, encoder, tmp_path / "t.txt")


def test_more_than_the_positions_is_said(encoder: Path, text: Path) -> None:
    found = compared(encoder, encoder, text, context=512)

    assert found.context == 128
    assert "shrunk from 512 to 128" in found.notes[0]


def test_a_table_and_a_json_object(
    encoder: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fewbits.quantize(encoder, tmp_path / "o.gguf", to="Q8_0")
    arguments = ["compare", str(encoder), str(tmp_path / "o.gguf"), "--text", str(text), "--context", "32"]

    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert main([*arguments, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)

    assert "Cosine of quantized and original" in shown
    assert "perplexity" not in shown
    assert "KL" not in shown
    assert f"{data['embedding_cosine_mean']:.6f}" in shown
    low, high = data["embedding_cosine_mean_interval_95"]
    assert low < data["embedding_cosine_mean"] < high
    assert data["pooling"] == "mean"
    assert not [key for key in data if "kl" in key or "perplexity" in key]
