"""One layer of an encoder at a time gives what the whole network gives, and windows are as an encoder reads text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from fewbits.calibration.data import read_calibration
from fewbits.calibration.network import LayeredNetwork
from fewbits.calibration.walk import Batches, advance
from fewbits.evaluation.huggingface_model import HuggingFaceModel
from fewbits.workers import Workers, one_torch_thread
from references.encoder_models import save_encoder, save_nomic, save_roberta


@pytest.fixture
def workers() -> Iterator[Workers]:
    with Workers(2) as pool, one_torch_thread():
        yield pool


@pytest.mark.parametrize("kind", ["BertModel", "BertForMaskedLM", "RobertaModel", "NomicBertModel"])
def test_layer_by_layer_is_the_whole_network(kind: str, workers: Workers, tmp_path: Path) -> None:
    makers = {"RobertaModel": save_roberta, "NomicBertModel": save_nomic}
    directory = makers.get(kind, save_encoder)(tmp_path / "model", kind)
    whole = transformers.AutoModel.from_pretrained(directory, add_pooling_layer=False).eval()
    state = whole.state_dict()
    network = LayeredNetwork(HuggingFaceModel.open(directory).skeleton(), lambda name: state[name].clone())
    ids = torch.randint(5, 600, (5, 24), generator=torch.Generator().manual_seed(1))

    with torch.no_grad():
        calls = {n: network.calls(ids[:n]) for n in (2, 1)}
        with network.embedding() as embed:
            states = embed(ids).numpy()
        for index in range(len(network)):
            batches = Batches(5, 2, {n: found[index] for n, found in calls.items()})
            with network.layer(index) as layer:
                advance(layer, network.layer_name(index), states, states, batches, workers)
        expected = whole(input_ids=ids).last_hidden_state

    assert len(network) == 3
    assert float(expected.std()) > 0.1
    np.testing.assert_allclose(states, expected.numpy(), rtol=1e-4, atol=1e-5)
    assert all(p.is_meta for p in network.network.parameters())


def test_windows_begin_and_end_as_a_text_does_and_documents_are_set_apart() -> None:
    tokenizer: Any = SimpleNamespace(
        start_token=1, closing_token=2, end_token=9, encode=lambda text: list(map(ord, text))
    )

    data = read_calibration(["abcdefgh", "ijklmnop"], tokenizer, length=8, windows=2)

    assert (data.windows[:, 0] == 1).all()
    assert (data.windows[:, -1] == 2).all()
    inner = data.windows[:, 1:-1]
    assert (inner == 2).sum() >= 1  # between the documents
    assert not np.isin(inner, [1, 9]).any()
