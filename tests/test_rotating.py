"""`quantize` with a rotation: the file computes what its source does, and a wrong rotation is not kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import fewbits
from fewbits import rotating
from fewbits.checkpoints.gguf import GGUFReader
from fewbits.errors import CalibrationError, CheckpointError, FewbitsError, TransformError, VerificationError
from fewbits.evaluation.model_files import open_model
from fewbits.transforms import Hadamard
from fewbits.transforms.edits import Edits, RotatedColumns, RotatedRows, ScaledColumns
from fewbits.transforms.rotation import Rotation, odd_part
from fewbits.verification import rotation
from references.expert_models import write_experts
from references.outlier_models import sticking_out
from references.random_models import byte_level_tokenizer, save_byte_level, save_model, small_config

MODELS: dict[str, tuple[type, dict[str, Any]]] = {
    "llama, tied, with biases": (
        transformers.LlamaConfig,
        {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    ),
    "llama of width 48": (transformers.LlamaConfig, {"hidden_size": 48, "head_dim": 12}),
    "mistral": (transformers.MistralConfig, {}),
    "qwen2": (transformers.Qwen2Config, {}),
    "qwen3, tied": (transformers.Qwen3Config, {"head_dim": 32, "tie_word_embeddings": True}),
}


def write_model(folder: Path, kind: str, **changes: Any) -> Path:
    tokenizer = byte_level_tokenizer(size=300)
    save_byte_level(folder, tokenizer)
    made, own = MODELS[kind]
    save_model(folder, small_config(made, rows=tokenizer.get_vocab_size(), **{**own, **changes}))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gate and up, query and output, and the layers have the same shapes."""
    widths = {"num_key_value_heads": 4, "intermediate_size": 128}
    return write_model(tmp_path_factory.mktemp("model"), "llama, tied, with biases", **widths)


def quantize(source: Path, output: Path, to: str = "Q8_0", **options: Any) -> Any:
    return fewbits.quantize(source, output, to=to, **{"method": "hadamard", "threads": 2, **options})


def said(path: Path) -> torch.Tensor:
    tokens = torch.randint(0, 290, (48,), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return open_model(path).load().logits(tokens)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("way", ["directory to gguf", "gguf to gguf", "directory to directory"])
def test_nothing_changes_before_rounding(kind: str, way: str, tmp_path: Path) -> None:
    source = write_model(tmp_path / "model", kind)
    start, output = source, tmp_path / ("o" if way.endswith("directory") else "o.gguf")
    if way.startswith("gguf"):
        start = tmp_path / "start.gguf"
        fewbits.quantize(source, start, to="F32")

    record = quantize(start, output, to="F32")

    before, after = said(source), said(output)
    assert float((after - before).abs().max() / before.abs().max()) < 1e-5
    assert record.preview.rotation.seed == 0
    assert sorted(each.name for each in tmp_path.iterdir() if "o" in each.name.split(".")) == sorted(
        [output.name, "o.card.json"]
    )


def test_no_matrix_stays_and_no_gain(model: Path, tmp_path: Path) -> None:
    quantize(model, tmp_path / "o.gguf", to="F32")
    fewbits.quantize(model, tmp_path / "as-it-is.gguf", to="F32")

    found, before = (GGUFReader(tmp_path / name) for name in ("o.gguf", "as-it-is.gguf"))
    matrices = [name for name in before.names() if len(before.read(name).shape) == 2]
    assert not any(np.array_equal(found.read(name).buffer, before.read(name).buffer) for name in matrices)
    assert all((found.read(n).buffer.view(np.float32) == 1).all() for n in found.names() if "norm" in n)


def test_a_tied_head_gets_a_matrix_of_its_own(model: Path, tmp_path: Path) -> None:
    record = quantize(model, tmp_path / "o", to="int4_g32_sym_f16")

    assert json.loads((tmp_path / "o" / "config.json").read_text(encoding="utf-8"))["tie_word_embeddings"] is False
    assert "lm_head.weight" in {t.planned.source_name for t in record.tensors}
    assert "the output head gets numbers of its own" in record.preview.notes[0]


def test_the_card_says_so(model: Path, tmp_path: Path) -> None:
    quantize(model, tmp_path / "o.gguf", seed=7)

    preview = json.loads((tmp_path / "o.card.json").read_text(encoding="utf-8"))["preview"]
    assert preview["rotation"] == {"name": "hadamard", "seed": 7}
    assert preview["calibration"] is None
    assert "rotated first (hadamard, seed 7)" in preview["notes"][0]


def test_the_same_for_any_threads_and_another_for_each_seed(model: Path, tmp_path: Path) -> None:
    for name, options in {"1": {"threads": 1}, "3": {"threads": 3}, "seed": {"seed": 1}}.items():
        quantize(model, tmp_path / f"{name}.gguf", **options)

    one, three, other = ((tmp_path / f"{name}.gguf").read_bytes() for name in ("1", "3", "seed"))
    assert one == three
    assert one != other


@pytest.mark.parametrize("to", ["Q4_0", "int4_g32_sym_f16", "fp8_e4m3_tensor", "nf4_g64_dq", "BF16"])
@pytest.mark.parametrize("method", ["hadamard", "hadamard+gptq"])
def test_formats_of_all_kinds(to: str, method: str, model: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"Line {n} of a text about {n * n}." for n in range(400)), encoding="utf-8")
    output = tmp_path / ("o.gguf" if to in {"Q4_0", "BF16"} else "o")
    options = {"calibration": text, "guard": text, "windows": 4, "sequence_length": 32} if "gptq" in method else {}

    assert quantize(model, output, to=to, method=method, **options).verified

    before, after = (said(path).log_softmax(-1).double() for path in (model, output))
    assert float((before.exp() * (before - after)).sum(-1).mean()) < (0.01 if to == "BF16" else 0.5)


@pytest.mark.parametrize("to", ["Q4_0", "int4_g32_sym_f16"])
def test_the_embedded_model_loses_little(to: str, pocket: Path, tmp_path: Path) -> None:
    output = tmp_path / ("o.gguf" if to == "Q4_0" else "o")
    quantize(pocket, output, to=to)

    before, after = (said(path).log_softmax(-1).double() for path in (pocket, output))
    assert float((before.exp() * (before - after)).sum(-1).mean()) < 0.1


def test_a_model_whose_channels_stick_out_loses_less(pocket: Path, tmp_path: Path) -> None:
    source = tmp_path / "model"
    source.mkdir()
    for file in pocket.iterdir():
        if file.is_file() and file.suffix != ".safetensors":
            (source / file.name).write_bytes(file.read_bytes())
    layers = json.loads((pocket / "config.json").read_text(encoding="utf-8"))["num_hidden_layers"]
    weights = {name: w.float() for name, w in load_file(pocket / "model.safetensors").items()}
    save_file(sticking_out(weights, layers), source / "model.safetensors", metadata={"format": "pt"})

    cost = {}
    for method in ("nearest", "hadamard"):
        quantize(source, tmp_path / method, to="int4_row_sym", method=method)
        before, after = (said(path).log_softmax(-1).double() for path in (source, tmp_path / method))
        cost[method] = float((before.exp() * (before - after)).sum(-1).mean())
    assert cost["hadamard"] < 0.8 * cost["nearest"]


def without(drop: Callable[[Any], bool]) -> Callable[[pytest.MonkeyPatch], None]:
    honest = Hadamard.edits

    def faulty(self: Hadamard, *given: Any) -> Edits:
        edits = honest(self, *given)
        return replace(edits, steps=tuple(edit for edit in edits.steps if not drop(edit)))

    return lambda patch: patch.setattr(Hadamard, "edits", faulty)


def one_sign(patch: pytest.MonkeyPatch) -> None:
    honest = Rotation._signs
    patch.setattr(Rotation, "_signs", lambda self: honest(self) * np.where(np.arange(self.size) == 5, -1.0, 1.0))


def two_layers_changed(patch: pytest.MonkeyPatch) -> None:
    honest = rotating._turn
    up = {f"model.layers.{a}.mlp.up_proj.weight": f"model.layers.{1 - a}.mlp.up_proj.weight" for a in (0, 1)}
    seen: dict[str, Any] = {}

    def faulty(source: Any, target: Any, *rest: Any) -> None:
        seen[source.name] = source
        other = seen.get(up.get(source.name, ""))
        honest(replace(other, name=source.name) if other else source, target, *rest)

    patch.setattr(rotating, "_turn", faulty)


def values_unturned(edit: Any) -> bool:
    return isinstance(edit, RotatedRows) and "v_proj" in edit.tensor


FAULTS = {
    "one sign": one_sign,
    "two layers changed": two_layers_changed,
    "a gain not folded": without(lambda e: isinstance(e, ScaledColumns) and "layers.1.mlp.gate" in e.tensor),
    "a writer not turned": without(lambda e: isinstance(e, RotatedRows) and "layers.0.self_attn.o_proj.w" in e.tensor),
    "a bias not turned": without(lambda e: isinstance(e, RotatedRows) and "layers.0.mlp.down_proj.b" in e.tensor),
    "values not turned": without(values_unturned),
    "a reader not turned": without(lambda e: isinstance(e, RotatedColumns) and "lm_head" in e.tensor),
}


@pytest.mark.parametrize("to", ["F32", "Q8_0", "int4_g32_sym_f16"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_rotation_is_not_kept(
    fault: str, to: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FAULTS[fault](monkeypatch)

    with pytest.raises(VerificationError, match="is off by") as caught:
        quantize(model, tmp_path / ("o" if "_g" in to else "o.gguf"), to=to)

    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [1, 2, 12, 20, 24, 36, 64, 96, 112, 120, 1152, 3584])
def test_the_stranger_has_the_same_matrix_and_made_it_otherwise(size: int) -> None:
    x = np.random.default_rng(1).normal(size=(3, 2 * size))

    found = rotation.Turn(size, 5).applied(x)

    assert np.allclose(found, Rotation(size, 5).turned(torch.from_numpy(x)).numpy(), atol=1e-11)
    assert np.isclose(np.linalg.norm(found), np.linalg.norm(x))


@pytest.mark.parametrize("size", [*range(4, 257, 4), 3, 7, 52 * 7])
def test_the_stranger_knows_the_same_sizes(size: int) -> None:
    try:
        own = odd_part(size)
    except TransformError:
        with pytest.raises(VerificationError, match=f"no Hadamard matrix of {size}"):
            rotation.factors(size)
        return
    widths = [len(factor) for factor in rotation.factors(size)]
    assert int(np.prod(widths)) == size
    assert own == 1 or widths[0] == own


def test_a_width_that_cannot_be_rotated_is_refused_before_work_starts(tmp_path: Path) -> None:
    source = write_model(tmp_path / "model", "llama of width 48", hidden_size=52, head_dim=4)

    with pytest.raises(TransformError, match="52 is a width the transform cannot rotate"):
        quantize(source, tmp_path / "o.gguf", dry_run=True)


def test_what_the_facts_do_not_place_is_refused(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without(lambda edit: "mlp.up_proj" in edit.tensor)(monkeypatch)

    with pytest.raises(TransformError, match=r"how tensor 'model\.layers\.0\.mlp\.up_proj\.weight' would be rotated"):
        quantize(model, tmp_path / "o.gguf")


def test_an_importance_matrix_of_other_columns_is_refused(pocket: Path, tmp_path: Path) -> None:
    matrix = Path(__file__).parent / "golden" / "pocket.imatrix.gguf"

    with pytest.raises(CalibrationError, match="leave --importance out"):
        quantize(pocket, tmp_path / "o.gguf", importance=matrix)


@pytest.mark.parametrize("method", ["awq+hadamard+gptq", "hadamard+hadamard+gptq", "gptq+hadamard"])
def test_a_rotation_comes_first_and_once(method: str, model: Path, tmp_path: Path) -> None:
    with pytest.raises(FewbitsError, match=r"comes first|unknown transform 'gptq'"):
        quantize(model, tmp_path / "o.gguf", method=method)


def test_a_name_nearly_right_is_helped(model: Path, tmp_path: Path) -> None:
    with pytest.raises(FewbitsError, match="did you mean 'hadamard'"):
        quantize(model, tmp_path / "o.gguf", method="hadamar+gptq")


def test_nan_is_refused_by_name(model: Path, tmp_path: Path) -> None:
    source = tmp_path / "model"
    source.mkdir()
    for file in model.iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    weights = load_file(source / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = float("nan")
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(CheckpointError, match=r"model\.layers\.1\.mlp\.up_proj\.weight' of the source holds 1 NaN"):
        quantize(source, tmp_path / "o.gguf")
    assert [each.name for each in tmp_path.iterdir()] == ["model"]


def test_a_disk_without_room_for_the_rotated_model(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("fewbits.preflight.shutil.disk_usage", lambda _: usage._replace(free=400_000))

    with pytest.raises(CheckpointError, match="MB for the rotated model until it is there"):
        quantize(model, tmp_path / "o.gguf", to="Q4_0")
    assert list(tmp_path.iterdir()) == []


def test_experts_are_refused(tmp_path: Path) -> None:
    source = write_experts(tmp_path / "model")

    with pytest.raises(TransformError, match=r"experts \(mixtral\) cannot be rotated yet"):
        quantize(source, tmp_path / "o.gguf")
    fewbits.quantize(source, tmp_path / "start.gguf", to="BF16")
    with pytest.raises(TransformError, match=r"experts \(mixtral\) cannot be rotated yet"):
        quantize(tmp_path / "start.gguf", tmp_path / "o.gguf")
