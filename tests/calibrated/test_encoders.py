"""Encoders calibrated: walked, judged by their last states, and put into files and directories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import fewbits
from fewbits.checkpoints.gguf import GGUFReader
from fewbits.checkpoints.imatrix import read_importance
from fewbits.cli.main import main
from fewbits.errors import CalibrationError, TransformError
from references.angles import state_error
from references.calibrated_runs import watched_guard_text
from references.encoder_models import save_encoder, save_nomic, save_roberta
from references.stored_files import stored_bytes

WINDOWS = {"windows": 6, "sequence_length": 32}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder") / "model")


def calibrated(source: Path, output: Path, **options: Any) -> Any:
    return fewbits.quantize(source, output, **{"to": "Q4_0", "method": "gptq", **WINDOWS, **options})


def test_the_verdict_is_the_error_of_the_file(encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last checkpoint sees the whole quantized encoder: transformers, given the file, has to agree."""
    from fewbits.evaluation.model_files import open_model

    held_out = watched_guard_text(monkeypatch)
    record = calibrated(encoder, tmp_path / "o.gguf")

    before, after = open_model(encoder).load(), open_model(tmp_path / "o.gguf").load()
    found = []
    with torch.no_grad():
        for window in held_out[0][:3]:
            p, q = (model.states(torch.from_numpy(window)).tolist() for model in (before, after))
            found.append(np.mean([state_error(a, b) for a, b in zip(p, q, strict=True)]))
        whole = [np.mean(_errors(before, after, window)) for window in held_out[0]]
    assert whole[:3] == pytest.approx(found, rel=1e-6)
    last = record.calibration.verdicts[-1]
    assert set(last) == {"first", "last", "state_error_solved", "state_error_plain", "measure", "kept"}
    assert last["state_error_solved" if last["kept"] else "state_error_plain"] == pytest.approx(
        np.mean(whole), rel=1e-3
    )


def _errors(before: Any, after: Any, window: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    p, q = (model.states(torch.from_numpy(window)).double().numpy() for model in (before, after))
    errors: np.ndarray[Any, Any] = np.square(p - q).sum(1) / np.square(p).sum(1)
    return errors


def test_outputs_are_nearer_and_preview_and_card_name_the_measure(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--to", "Q4_0", "--method", "gptq", "--windows", "6", "--sequence-length", "32", "--threads", "2"]
    assert main(["quantize", str(encoder), "-o", str(tmp_path / "o.gguf"), *options]) == 0

    shown = capsys.readouterr().out
    assert "judged by" in shown
    assert "Guard: squared error of last states" in shown
    assert "KL" not in shown
    card = json.loads((tmp_path / "o.card.json").read_text(encoding="utf-8"))
    assert card["preview"]["calibration"]["measure"] == "state_error"
    assert "kl_" not in json.dumps(card)
    solved = [t for t in card["tensors"] if t["output_error"] is not None]
    assert len(solved) == 3 * 6
    assert np.mean([t["output_error"] / t["output_error_plain"] for t in solved]) < 0.9


def test_a_directory_of_integers_is_nearer_than_one_rounded(encoder: Path, tmp_path: Path) -> None:
    text = tmp_path / "t.txt"
    text.write_text("\n".join(f"Line {n} of a text about {n * n}." for n in range(200)), encoding="utf-8")
    found = {}
    for method in ("nearest", "gptq"):
        own = {} if method == "nearest" else WINDOWS
        fewbits.quantize(encoder, tmp_path / method, to="int4_g32_sym", method=method, **own)
        found[method] = fewbits.compare(encoder, tmp_path / method, text=text, context=32, threads=1)

    assert found["gptq"].state_error.value < 0.9 * found["nearest"].state_error.value  # type: ignore[union-attr]
    assert found["gptq"].embedding_cosine.value > found["nearest"].embedding_cosine.value  # type: ignore[union-attr]


def test_a_gguf_source_gives_the_same_codes(encoder: Path, tmp_path: Path) -> None:
    calibrated(encoder, tmp_path / "a.gguf")
    fewbits.quantize(encoder, tmp_path / "lossless.gguf", to="F32")

    calibrated(tmp_path / "lossless.gguf", tmp_path / "b.gguf")

    assert stored_bytes(tmp_path / "b.gguf") == stored_bytes(tmp_path / "a.gguf")


def test_matrices_that_a_checkpoint_has_as_one_are_solved_apart(tmp_path: Path) -> None:
    """Nomic's queries, keys and values: three modules, one tensor, one set of inputs in the importance matrix."""
    model = save_nomic(tmp_path / "model")
    kept = tmp_path / "i.gguf"
    record = calibrated(model, tmp_path / "a.gguf", method="awq+gptq+learned", write_importance=kept)
    fewbits.quantize(model, tmp_path / "lossless.gguf", to="F32")
    calibrated(tmp_path / "lossless.gguf", tmp_path / "b.gguf", method="awq+gptq+learned")

    assert stored_bytes(tmp_path / "b.gguf") == stored_bytes(tmp_path / "a.gguf")
    fused = [t for t in record.tensors if t.planned.name.endswith("attn_qkv.weight")]
    assert [t.planned.shape for t in fused] == 3 * [(192, 64)]
    assert all(t.output_error < t.output_error_plain for t in fused)
    assert {name: entry.sums.size for name, entry in read_importance(kept).entries.items() if "qkv" in name} == {
        t.planned.name: 64 for t in fused
    }
    fewbits.quantize(model, tmp_path / "c.gguf", to="Q4_0", importance=kept)


def test_where_rows_share_something_one_matrix_is_not_solved_in_parts(tmp_path: Path) -> None:
    record = calibrated(save_nomic(tmp_path / "model"), tmp_path / "o", to="fp8_e4m3_tile32")

    methods = {t.planned.name: t.planned.method for t in record.tensors}
    assert methods["blk.0.attn_qkv.weight"] == "nearest"
    assert methods["blk.0.ffn_up.weight"] == "gptq"


def test_positions_are_the_source_s_where_a_file_leaves_some_out(tmp_path: Path) -> None:
    """The walk reads the whole table of a RoBERTa; its last verdict is what the file gives."""
    model = save_roberta(tmp_path / "model")
    (tmp_path / "t.txt").write_text(
        "\n".join(f"Line {n} of a text about {n * n}." for n in range(300)), encoding="utf-8"
    )

    record = calibrated(model, tmp_path / "o.gguf", sequence_length=512, windows=2, guard=tmp_path / "t.txt")
    found = fewbits.compare(model, tmp_path / "o.gguf", text=tmp_path / "t.txt", context=128, threads=1)

    last = record.calibration.verdicts[-1]
    judged = last["state_error_solved" if last["kept"] else "state_error_plain"]
    assert found.state_error.value == pytest.approx(judged, rel=0.2)  # other windows of one text


def test_values_can_be_scaled(encoder: Path, tmp_path: Path) -> None:
    record = calibrated(encoder, tmp_path / "o.gguf", method="awq+gptq")

    assert record.verified
    assert record.calibration.verdicts[-1]["state_error_solved"] < 0.05
    source, stored = load_file(encoder / "model.safetensors"), GGUFReader(tmp_path / "o.gguf")
    changed = [
        np.abs(
            stored.read(f"blk.{layer}.attn_v.bias").buffer.view("<f4")
            / source[f"encoder.layer.{layer}.attention.self.value.bias"]
            - 1
        ).max()
        for layer in range(json.loads((encoder / "config.json").read_text(encoding="utf-8"))["num_hidden_layers"])
    ]
    # Its tokenizer is trained anew each time, and not always the same: in some layer no scale may be the best.
    assert max(changed) > 1e-3


def test_an_encoder_cannot_be_rotated(encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(TransformError, match=r"encoders \(bert\) cannot be rotated"):
        fewbits.quantize(encoder, tmp_path / "o.gguf", method="hadamard")


def test_windows_longer_than_the_positions_are_shortened_and_it_is_said(encoder: Path, tmp_path: Path) -> None:
    preview = calibrated(encoder, tmp_path / "o.gguf", sequence_length=1024, windows=2, dry_run=True)

    assert "Windows were shortened from 1024 to 128 tokens, all that the model was made for." in preview.notes


def test_too_little_text_is_refused(encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("A few words.", encoding="utf-8")

    with pytest.raises(CalibrationError, match="too short to calibrate on"):
        calibrated(encoder, tmp_path / "o.gguf", calibration=tmp_path / "t.txt")
