"""Recipes that round activations, from the command to what `compare` says of the directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

import fewbits
from fewbits.calibrated import outliers
from fewbits.checkpoints.fields import FieldsReader, StoredMatrix
from fewbits.checkpoints.safetensors import SafetensorsReader
from fewbits.errors import CheckpointError, FewbitsError, VerificationError
from fewbits.qtensor import Outliers

OPTIONS: dict[str, Any] = {"windows": 6, "sequence_length": 32}
UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(f"Line {n} of a text about {n * n}." for n in range(90)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def made(outlying: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Recipe -> its directory."""
    folder = tmp_path_factory.mktemp("made")
    for recipe in ("w8a8", "w8a8_fp8", "smoothquant", "llm_int8"):
        fewbits.quantize(outlying, folder / recipe, to=recipe, **OPTIONS)
    return {recipe: folder / recipe for recipe in ("w8a8", "w8a8_fp8", "smoothquant", "llm_int8")}


def test_what_rounding_costs_is_measured(outlying: Path, made: dict[str, Path], text: Path) -> None:
    costs = {name: fewbits.compare(outlying, path, text=text, context=32) for name, path in made.items()}
    kl = {name: cost.kl_divergence_mean for name, cost in costs.items()}

    assert kl["smoothquant"] < 0.5 * kl["w8a8"]
    assert kl["llm_int8"] < 0.5 * kl["w8a8"]
    assert "int8_token of 21 matrices" in costs["w8a8"].protocol
    assert "fp8_token of 21 matrices" in costs["w8a8_fp8"].protocol


def test_the_same_without_the_statement_costs_less(
    outlying: Path, made: dict[str, Path], text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Part of what is lost is the weights': a column that is small beside its row meets large inputs."""
    rounded = fewbits.compare(outlying, made["w8a8"], text=text, context=32).kl_divergence_mean
    monkeypatch.setattr("fewbits.evaluation.fields_model.round_inputs", lambda *_: {})
    cost = fewbits.compare(outlying, made["w8a8"], text=text, context=32)

    assert cost.kl_divergence_mean < 0.8 * rounded
    assert "activations not rounded" in cost.protocol


def test_directory_card_and_inspection_say_so(made: dict[str, Path]) -> None:
    config = json.loads((made["llm_int8"] / "config.json").read_text(encoding="utf-8"))
    assert config["quantization_config"] == {
        "quant_method": "fewbits",
        "recipe": "llm_int8",
        "activations": ["int8_token"],
    }
    card = json.loads(made["llm_int8"].with_suffix(".card.json").read_text(encoding="utf-8"))
    planned = {t["source_name"]: t for t in card["tensors"]}
    inspected = {t.name: t for t in fewbits.inspect(made["llm_int8"]).tensors}
    for name, tensor in planned.items():
        found = inspected[name]
        assert (found.activation, found.outliers) == (tensor["activation"], tensor["outliers"])
        assert found.bytes == tensor["bytes_out"]
    assert planned[UP]["activation"] == "int8_token"
    assert planned[UP]["outliers"] >= 2
    assert planned[UP]["bytes_out"] == 96 * (64 + 4) + planned[UP]["outliers"] * (4 + 2 * 96)
    assert card["preview"]["bytes_out"] == (made["llm_int8"] / "model.safetensors").stat().st_size
    assert planned["lm_head.weight"]["activation"] is None


def test_the_kept_columns_are_those_of_the_source(outlying: Path, made: dict[str, Path]) -> None:
    stored = FieldsReader(SafetensorsReader(made["llm_int8"] / "model.safetensors")).read(UP)
    assert isinstance(stored, StoredMatrix)
    source = load_file(outlying / "model.safetensors")[UP].numpy()
    index = stored.load()["outlier_index"]
    assert np.array_equal(stored.load()["outlier_values"], source[:, index].astype(np.float16))


@pytest.mark.parametrize("method", ["outliers+gptq", "outliers+search", "smooth+outliers+nearest"])
def test_parts_combine_and_threads_change_nothing(method: str, outlying: Path, tmp_path: Path) -> None:
    recipe, results = tmp_path / "mine.toml", []
    recipe.write_text('extend = "w8a8"\n', encoding="utf-8")
    for threads in (1, 3):
        out = tmp_path / str(threads)
        assert fewbits.quantize(outlying, out, to=recipe, method=method, threads=threads, **OPTIONS).verified  # type: ignore[union-attr]
        results.append((out / "model.safetensors").read_bytes())

    assert results[0] == results[1]


FAULTS = {
    "another column": lambda o: Outliers((o.index + 1) % 64, o.values),
    "two percent": lambda o: Outliers(o.index, o.values * 1.02),
    "swapped": lambda o: Outliers(o.index, o.values.flip(1)),
    "rows": lambda o: Outliers(o.index, o.values.flip(0)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_refused(
    fault: str, outlying: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(index: Any, values: Any) -> Outliers:
        return FAULTS[fault](Outliers(index, values))

    monkeypatch.setattr(outliers, "Outliers", faulty)
    with pytest.raises((VerificationError, CheckpointError, FewbitsError), match=r"column|belong"):
        fewbits.quantize(outlying, tmp_path / "o", to="llm_int8", **OPTIONS)
    assert not (tmp_path / "o").exists()


def test_a_wrong_statement_is_refused(outlying: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fewbits.checkpoints import fields

    honest = fields._said_of
    monkeypatch.setattr(fields, "_said_of", lambda m: {**honest(m), "activation": "fp8_token"})
    with pytest.raises(VerificationError, match="inputs rounded as fp8_token"):
        fewbits.quantize(outlying, tmp_path / "o", to="w8a8", dialect="fewbits")


@pytest.mark.parametrize(
    ("output", "options", "message"),
    [
        ("o.gguf", {"to": "smoothquant"}, "rounds activations, which a GGUF file cannot say: llama.cpp rounds"),
        ("o.gguf", {"to": "Q8_0", "method": "outliers"}, "columns in 16 bits.* a GGUF file cannot say"),
        ("o", {"to": "Q8_0", "method": "outliers"}, "is one string of bytes per row; take a format with fields"),
        ("o", {"to": "int8_row_sym", "method": "smooth+gptq"}, "weighs the rounding of activations"),
        (
            "o",
            {"to": "w8a8", "method": "outliers", "dialect": "gptq"},
            "which the dialect gptq cannot",
        ),
        ("o", {"to": "gptq", "method": "hqq"}, "chooses codes by gptq, and --method says hqq"),
        ("o", {"to": "smoothquant", "method": "smooth+gptq"}, "by smooth.nearest, and --method says"),
    ],
)
def test_refusals(output: str, options: dict[str, Any], message: str, outlying: Path, tmp_path: Path) -> None:
    with pytest.raises(FewbitsError, match=message) as caught:
        fewbits.quantize(outlying, tmp_path / output, **options, **OPTIONS)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_named_methods_beside_what_they_are(pocket: Path, tmp_path: Path) -> None:
    preview = fewbits.quantize(pocket, tmp_path / "o", to="gptq", method="gptq", dry_run=True, **OPTIONS)
    assert {(t.method, t.format) for t in preview.tensors if t.quantizable} == {  # type: ignore[union-attr]
        ("gptq", "int4_g128_sym_f16"),
        ("nearest", "BF16"),
    }
