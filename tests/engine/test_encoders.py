"""Encoders: states of tokens and embeddings of texts, against transformers on the decoded weights and the tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import fewbits
from fewbits.engine import load
from fewbits.engine.building import Builder
from fewbits.errors import EngineError
from fewbits.evaluation.gguf_model import GGUFModel
from references.encoder_models import save_encoder, save_nomic, save_roberta

MAKERS: dict[str, Callable[..., Path]] = {"bert": save_encoder, "roberta": save_roberta, "nomic_bert": save_nomic}
TEXTS = ["A method is a function.", "x", "The value of an expression, as numbers: 3.14 and 42."]
IDS = [[int(n) for n in np.random.default_rng(n).integers(5, 400, n)] for n in (1, 7, 128, 40, 128, 128, 128, 3)]


@pytest.fixture(scope="module", params=MAKERS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of an encoder; its GGUF files lie beside it."""
    directory = tmp_path_factory.mktemp("encoders") / str(request.param)
    MAKERS[request.param](directory)
    for kind in ("F16", "Q8_0"):
        fewbits.quantize(directory, file_of(directory, kind), to=kind)
    return directory


def file_of(directory: Path, kind: str) -> Path:
    return directory.with_suffix(f".{kind}.gguf")


def states(network: Any, ids: list[int]) -> Any:
    with torch.no_grad():
        return network(torch.tensor([ids])).last_hidden_state[0].numpy()


def test_states_are_those_of_the_decoded_weights(model: Path) -> None:
    for kind in ("F16", "Q8_0"):
        network = GGUFModel.open(file_of(model, kind)).load().network
        expected = [states(network, ids) for ids in IDS]
        for found, wanted in zip(load(file_of(model, kind), threads=2, exact=True).states(IDS), expected, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5 * np.abs(wanted).max())
        rounded = load(file_of(model, kind), threads=2).states(IDS)
        assert all(np.square(a - b).sum() < 1e-3 * np.square(b).sum() for a, b in zip(rounded, expected, strict=True))


def test_others_in_the_batch_and_threads_change_no_bit(model: Path) -> None:
    for exact in (True, False):
        one = load(file_of(model, "Q8_0"), threads=1, exact=exact)
        alone = [one.states([ids])[0] for ids in IDS]
        for threads in (1, 3):
            together = load(file_of(model, "Q8_0"), threads=threads, exact=exact).states(IDS)
            assert all(np.array_equal(a, b) for a, b in zip(together, alone, strict=True))


def test_embeddings_of_texts(model: Path) -> None:
    """With the tokens of the source's own tokenizer, padded as sentence encoders do it."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    network = transformers.AutoModel.from_pretrained(model, dtype=torch.float32).eval()
    given = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        found = network(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).last_hidden_state
    mask = given["attention_mask"][:, :, None]
    expected = {"mean": (found * mask).sum(1) / mask.sum(1), "cls": found[:, 0]}
    expected["last"] = torch.stack([each[count - 1] for each, count in zip(found, mask.sum((1, 2)), strict=True)])
    loaded = load(file_of(model, "F16"), threads=2, exact=True)
    for pooling, wanted in expected.items():
        np.testing.assert_allclose(loaded.embed(TEXTS, pooling=pooling), wanted.numpy(), rtol=0, atol=1e-4)
    np.testing.assert_allclose(loaded.embed(TEXTS), expected["mean"].numpy(), rtol=0, atol=1e-4)
    ids = [tokenizer(text)["input_ids"] for text in TEXTS]
    assert np.array_equal(loaded.embed(ids), loaded.embed(TEXTS))
    assert loaded.embed([]).shape == (0, 64)


def causal(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Builder.attend

    def attend(self: Builder, *places: Any, encoder: bool, **named: Any) -> None:
        assert encoder
        right(self, *places, **named)

    monkeypatch.setattr(Builder, "attend", attend)


def without(monkeypatch: pytest.MonkeyPatch, operation: str) -> None:
    monkeypatch.setattr(Builder, operation, lambda *_, **__: None)


@pytest.mark.parametrize(
    ("maker", "plant"),
    [
        (save_encoder, causal),
        (save_encoder, partial(without, operation="add_row")),
        (save_roberta, partial(without, operation="add_positions")),
        (save_nomic, partial(without, operation="rope")),
    ],
    ids=["causal", "types", "positions", "rope"],
)
def test_a_planted_fault_is_seen(
    maker: Callable[..., Path],
    plant: Callable[[pytest.MonkeyPatch], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fewbits.quantize(maker(tmp_path / "model"), tmp_path / "f16.gguf", to="F16")
    expected = states(GGUFModel.open(tmp_path / "f16.gguf").load().network, IDS[3])
    monkeypatch.setattr(Builder, "require_all_used", lambda self: None)
    plant(monkeypatch)
    found = load(tmp_path / "f16.gguf", threads=2, exact=True).states(IDS[3:4])[0]
    assert np.square(found - expected).sum() > 1e-2 * np.square(expected).sum()


def test_what_cannot_be_embedded(tmp_path: Path) -> None:
    fewbits.quantize(save_encoder(tmp_path / "model", pooling=None), tmp_path / "f16.gguf", to="F16")
    model = load(tmp_path / "f16.gguf", threads=1)
    with pytest.raises(EngineError, match=r"does not say how states become one embedding; .*mean, cls, last"):
        model.embed(["a"])
    with pytest.raises(EngineError, match="not by 'max'"):
        model.embed(["a"], pooling="max")
    with pytest.raises(EngineError, match="reads 1 to 128 tokens, and a text has 129"):
        model.states([[5] * 129])
    with pytest.raises(EngineError, match="reads 1 to 128 tokens, and a text has 0"):
        model.states([[]])
    with pytest.raises(EngineError, match="is an encoder, which continues no text"):
        model.session()
