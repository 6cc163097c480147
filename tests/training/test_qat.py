"""`fewbits qat`: what was trained is what is written, number for number; killed, resumed, refused."""

from __future__ import annotations

import json
import pydoc_data.topics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fewbits
from fewbits.cli.main import main
from fewbits.errors import FewbitsError, TrainingError
from fewbits.training import Reading, Settings
from fewbits.training.material.windows import Window, together

FEW = Settings(steps=4, learning_rate=3e-4, save_every=1)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "pages.txt"
    path.write_text(pydoc_data.topics.topics["with"] + pydoc_data.topics.topics["assert"], encoding="utf-8")
    return path


def read(text: Path) -> Reading:
    return Reading(text, length=64, batch=2, hold_out=0.2)


@pytest.fixture(scope="module")
def k_quants(pocket: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    output = tmp_path_factory.mktemp("k") / "o.gguf"
    return output, fewbits.qat(pocket, output, to="Q2_K", data=read(text), settings=FEW)


def divergence(pocket: Path, output: Path, text: Path) -> float:
    """The mean KL divergence on what was held out, by the file itself, written out."""
    from fewbits.evaluation.model_files import open_model
    from fewbits.training.material.reading import read_material
    from fewbits.training.material.words import Words

    held = read_material(read(text), Words.of(pocket), 0).held
    teacher, student = (open_model(path).load().network.eval() for path in (pocket, output))
    total, count = 0.0, 0
    for window in held.windows:
        ids = torch.from_numpy(window.ids)[None]
        with torch.no_grad():
            p, q = (network(ids).logits[0, :-1].double().log_softmax(-1) for network in (teacher, student))
        total, count = total + float((p.exp() * (p - q)).sum()), count + len(window.ids) - 1
    return total / count


def test_the_file_answers_as_the_student_did(pocket: Path, text: Path, k_quants: tuple[Path, Any]) -> None:
    output, record = k_quants

    assert record.loss_after < 0.97 * record.loss_before
    assert divergence(pocket, output, text) == pytest.approx(record.loss_after, rel=1e-3)
    assert record.preview.formats["Q2_K"] > 0
    assert record.details["bits_per_weight"] == fewbits.inspect(output).bits_per_weight
    written = json.loads((output.parent / "o.training.json").read_text(encoding="utf-8"))
    assert written == json.loads(json.dumps(record.to_json()))
    assert sorted(entry.name for entry in output.parent.iterdir()) == ["o.card.json", "o.gguf", "o.training.json"]


def test_what_was_broken_off_gives_the_same_file(
    pocket: Path, text: Path, k_quants: tuple[Path, Any], tmp_path: Path
) -> None:
    def stop(step: Any, history: Any) -> None:
        if step.number == 2:
            raise KeyboardInterrupt

    output = tmp_path / "o.gguf"
    with pytest.raises(KeyboardInterrupt):
        fewbits.qat(pocket, output, to="Q2_K", data=read(text), settings=FEW, on_step=stop)
    with pytest.raises(TrainingError, match=r"method\.to was Q2_K and is Q3_K"):
        fewbits.qat(pocket, output, to="Q3_K", data=read(text), settings=FEW, resume=True)
    record: Any = fewbits.qat(pocket, output, to="Q2_K", data=read(text), settings=FEW, resume=True)

    assert record.history.losses == k_quants[1].history.losses
    assert output.read_bytes() == k_quants[0].read_bytes()
    assert not (tmp_path / ".o.gguf.training").exists()


def test_a_directory_and_a_beginning(pocket: Path, text: Path, tmp_path: Path) -> None:
    fewbits.quantize(pocket, tmp_path / "better", to="int2_g64_sym", method="nearest")
    given: dict[str, Any] = {"to": "int2_g64_sym", "data": read(text), "settings": Settings(steps=2)}

    record: Any = fewbits.qat(pocket, tmp_path / "taught", begin=tmp_path / "better", **given)

    assert record.preview.method["begin"] == str(tmp_path / "better")
    assert divergence(pocket, tmp_path / "taught", text) == pytest.approx(record.loss_after, rel=1e-3)
    assert fewbits.load_tokenizer(tmp_path / "taught")("with")["input_ids"]


def test_labels_are_a_share_of_the_loss(pocket: Path) -> None:
    from fewbits.evaluation.model_files import open_model
    from fewbits.training.fitting.losses import next_tokens
    from fewbits.training.teaching import _Teaching

    network: Any = open_model(pocket).load().network.eval()
    batch = together([Window(np.arange(5, 25), np.arange(5, 25))], 1)
    student = open_model(pocket).load().network.train()
    loss = _Teaching("Q8_0", [], 0.25, 1.0, None, None)._loss(network)

    found, count = loss(student, batch)
    own, _ = next_tokens(network, batch)

    assert count == 19
    assert float(found.detach()) == pytest.approx(0.25 * float(own.detach()), rel=1e-4)  # it answers as its teacher


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--to", "Q2_KK"], ["'Q2_KK'"]),
        (["--to", "F32"], ["nothing"]),
        (["--to", "Q2_K", "--labels", "2"], ["labels"]),
        (["--to", "Q2_K", "--temperature", "0"], ["temperature"]),
        (["--to", "Q2_K", "--dialect", "gptq"], ["dialect"]),
        (["--to", "Q2_K", "--begin", "PLAIN"], ["BF16"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refusals(
    arguments: list[str],
    words: list[str],
    pocket: Path,
    text: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [str(pocket) if a == "PLAIN" else a for a in arguments]

    code = main(["qat", str(pocket), "--data", str(text), "-o", str(tmp_path / "o.gguf"), "-q", *given])

    said = capsys.readouterr().err
    assert code == 2
    assert said.startswith("fewbits: ")
    assert "a bug in fewbits" not in said
    assert said.count("\n") == 1
    for word in words:
        assert word in said
    assert list(tmp_path.iterdir()) == []


def test_a_format_that_gguf_lacks_is_refused_before_training(pocket: Path, text: Path, tmp_path: Path) -> None:
    with pytest.raises(FewbitsError, match="in a GGUF file"):
        fewbits.qat(pocket, tmp_path / "o.gguf", to="int2_g64_sym", data=read(text), settings=FEW)
    assert list(tmp_path.iterdir()) == []
