"""What the user said about single tensors and importance reaches the kernels, the file, the card and the preview."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import fewbits
from fewbits import kernels
from fewbits.checkpoints.imatrix import read_importance
from fewbits.errors import CheckpointError, RecipeError
from fewbits.planning import wants_importance
from fewbits.sites import Model, Site
from references.imatrices import write_imatrix
from references.moe_files import write_moe

GOLDEN = Path(__file__).parent / "golden"
IMATRIX = GOLDEN / "pocket.imatrix.gguf"


def plan(source: Path, folder: Path, **options: Any) -> Any:
    return fewbits.quantize(source, folder / "o.gguf", dry_run=True, **options)


def formats_of(preview: Any) -> dict[str, str]:
    return {t.name: t.format for t in preview.tensors}


def test_overrides_reach_the_file_and_the_record(pocket: Path, tmp_path: Path) -> None:
    tensors = {"blk.*.ffn_down": "Q8_0", "blk.1.*": "Q6_K"}
    fewbits.quantize(pocket, tmp_path / "o.gguf", tensors=tensors)
    plain = formats_of(plan(pocket, tmp_path, to="Q4_K_M", force=True))
    written = {t.name: t.tensor_type.name for t in gguf.GGUFReader(tmp_path / "o.gguf").tensors}
    for name, found in written.items():
        down, first = "ffn_down" in name, name.startswith("blk.1.") and "norm" not in name
        assert found == ("Q8_0" if down else "Q6_K" if first else plain[name]), name
    card = json.loads((tmp_path / "o.card.json").read_text(encoding="utf-8"))
    assert card["preview"]["overrides"] == ["blk.*.ffn_down=Q8_0", "blk.1.*=Q6_K"]
    said = {t["name"]: t["chosen_by"] for t in card["tensors"]}
    assert said["blk.1.ffn_down.weight"] == "the override 'blk.*.ffn_down=Q8_0'"
    assert said["blk.1.attn_q.weight"] == "the override 'blk.1.*=Q6_K'"
    assert said["blk.0.attn_q.weight"] is None


def test_a_users_recipe_reaches_the_file_and_the_record(pocket: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('[[rule]]\nmatch = "token_embd"\nformat = "Q8_0"\n[[rule]]\nformat = "Q5_K"\n', encoding="utf-8")
    fewbits.quantize(pocket, tmp_path / "o.gguf", to=mine)
    reader = gguf.GGUFReader(tmp_path / "o.gguf")
    assert {t.tensor_type.name for t in reader.tensors} == {"Q8_0", "Q5_K", "F32"}
    assert "general.file_type" not in reader.fields  # no mix of llama.cpp: it finds the type that is most common
    card = json.loads((tmp_path / "o.card.json").read_text(encoding="utf-8"))
    assert (card["preview"]["recipe"], card["preview"]["recipe_file"]) == ("mine", str(mine))
    assert str(mine) in card["source_sha256"]
    assert card["tensors"][0]["chosen_by"] == f"{mine}, line 1"


def test_a_pattern_of_a_recipe_that_matches_nothing_is_refused_with_its_line(pocket: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('extend = "Q4_K_M"\n\n[[rule]]\nmatch = ["*_exps", "*_shexp"]\nformat = "Q8_0"\n', encoding="utf-8")
    with pytest.raises(RecipeError, match=r"mine\.toml, line 3 matches no tensor"):
        plan(pocket, tmp_path, to=mine)


def spy(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, Any]]:
    """(format, rows, importance) of every call of the kernels from now on."""
    calls: list[tuple[str, int, Any]] = []
    real = kernels.encode_rows

    def encode_rows(name: str, source: Any, *rest: Any, importance: Any = None, **options: Any) -> kernels.Encoded:
        calls.append((name, len(source), None if importance is None else importance.copy()))
        return real(name, source, *rest, importance=importance, **options)

    monkeypatch.setattr(kernels, "encode_rows", encode_rows)
    monkeypatch.setattr(kernels, "weighted_formats", lambda: frozenset({"Q4_K", "Q6_K", "Q5_K"}))
    return calls


def test_importance_reaches_the_kernels(pocket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = spy(monkeypatch)
    record: Any = fewbits.quantize(pocket, tmp_path / "o.gguf", importance=IMATRIX)
    entries = read_importance(IMATRIX).entries
    given = [weights for _, _, weights in calls if weights is not None]
    assert len(given) >= len(entries) == 28
    assert all(any(np.array_equal(weights, entry.row(0)) for weights in given) for entry in entries.values())
    used = record.preview.importance
    assert (used.entries, used.tensors, used.text, used.chunks) == (28, 28, "manual.txt", 8)
    assert [t.planned.name for t in record.tensors if t.planned.weighed] == [
        t.planned.name for t in record.tensors if t.planned.name in entries
    ]
    assert any("does not know 1 tensor (token_embd.weight)" in note for note in record.preview.notes)
    assert str(IMATRIX) in record.source_sha256
    fields = gguf.GGUFReader(tmp_path / "o.gguf").fields
    assert fields["quantize.imatrix.file"].contents() == IMATRIX.name
    assert fields["quantize.imatrix.entries_count"].contents() == 28
    assert fields["quantize.imatrix.chunks_count"].contents() == 8


def test_each_expert_is_weighed_by_its_own_importance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_moe(tmp_path / "model", experts=5)
    random = np.random.default_rng(1)
    sums = random.uniform(1, 2, (5, 256)).astype(np.float32)
    imatrix = write_imatrix(tmp_path / "i.gguf", {"blk.1.ffn_up_exps.weight": (sums, np.array([1, 2, 4, 0, 1]))})
    calls = spy(monkeypatch)
    monkeypatch.setattr("fewbits.workers.SLAB_BYTES", 100 * 512)  # slabs of 100 rows, which 256 is no multiple of
    fewbits.quantize(source, tmp_path / "o.gguf", importance=imatrix, to="Q4_K_S")
    wanted = np.where(np.arange(5)[:, None] == 3, 1, sums)
    wanted /= wanted.mean(axis=1, keepdims=True)
    weighed = [(rows, weights) for _, rows, weights in calls if weights is not None]
    assert [rows for rows, _ in weighed] == [100, 100, 56] * 5
    for number, (_, weights) in enumerate(weighed):
        # The counts, and a power of two per expert, do not change what counts more and what less.
        assert weights / weights.mean() == pytest.approx(wanted[number // 3], rel=1e-6), number


@pytest.mark.parametrize("shared", [False, True], ids=["mixtral", "qwen2moe"])
@pytest.mark.parametrize("recipe", ["Q4_K_M", "Q8_0"])
def test_a_model_with_experts_is_quantized_matrix_by_matrix(recipe: str, shared: bool, tmp_path: Path) -> None:
    source = write_moe(tmp_path / "model", experts=8, shared=shared)
    record: Any = fewbits.quantize(source, tmp_path / "o.gguf", to=recipe)
    before = {t.name: t for t in gguf.GGUFReader(source).tensors}
    errors = {t.planned.name: t.relative_rms for t in record.tensors}
    for tensor in gguf.GGUFReader(tmp_path / "o.gguf").tensors:
        original = before[tensor.name]
        assert list(tensor.shape) == list(original.shape)
        w = gguf.quants.dequantize(original.data, original.tensor_type).astype(np.float64)
        stored = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        assert np.sqrt(((w - stored) ** 2).sum() / (w**2).sum()) == pytest.approx(errors[tensor.name], abs=1e-9)
        assert errors[tensor.name] < 0.08
        if "exps" in tensor.name:
            assert tensor.tensor_type.name in {"Q4_K", "Q6_K", "Q8_0"}
        if "ffn_gate_inp." in tensor.name:
            assert tensor.tensor_type.name == "F16"


def test_an_importance_matrix_of_another_model_is_refused(pocket: Path, tmp_path: Path) -> None:
    ones = np.ones((1, 256), np.float32)
    strange = write_imatrix(tmp_path / "a.gguf", {"blk.99.attn_q.weight": (ones, np.ones(1))})
    with pytest.raises(CheckpointError, match=r"names no tensor of this model.*blk\.99"):
        plan(pocket, tmp_path, importance=strange)
    narrow = write_imatrix(tmp_path / "b.gguf", {"blk.0.attn_q.weight": (ones[:, :128], np.ones(1))})
    with pytest.raises(CheckpointError, match=r"128 values.*another model"):
        plan(pocket, tmp_path, importance=narrow)


def test_what_the_matrix_does_not_know_and_knows_in_vain_is_said(pocket: Path, tmp_path: Path) -> None:
    ones = np.ones((1, 256), np.float32)
    names = ("blk.0.attn_q.weight", "blk.99.attn_q.weight")
    path = write_imatrix(tmp_path / "a.gguf", {name: (ones, np.ones(1)) for name in names})
    notes = plan(pocket, tmp_path, importance=path).notes
    assert any("knows 1 tensor that this model does not have" in note and "blk.99" in note for note in notes)


def test_the_mix_knows_whether_there_is_importance(pocket: Path, tmp_path: Path) -> None:
    plain = formats_of(plan(pocket, tmp_path, to="Q5_0"))
    weighed = formats_of(plan(pocket, tmp_path, to="Q5_0", importance=IMATRIX))
    assert plain == weighed  # four layers have no first eighth; references.recipe_models has more


def test_what_is_poor_without_importance() -> None:
    model = Model("llama", layers=4, experts=0, heads=4, key_heads=2, tied=False, values=4)
    inner = Site("blk.0.attn_q.weight", "attn_q", (64, 256), 0, 0, model)
    embedding = Site("token_embd.weight", "token_embd", (64, 256), 0, 0, model)
    assert [wants_importance("any", name, inner) for name in ("IQ2_XS", "IQ3_XXS", "IQ3_S", "Q2_K")] == [
        *(True, True),
        *(False, False),
    ]
    assert wants_importance("Q2_K_S", "Q2_K", inner)
    assert not wants_importance("any", "IQ2_XS", embedding)


def test_a_note_says_what_is_poor_without_importance(
    pocket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fewbits.assignment.wants_importance", lambda _recipe, name, _site: name == "Q4_K")
    notes = plan(pocket, tmp_path).notes
    assert any("Q4_K wants an importance matrix" in note and "llama-imatrix" in note for note in notes)
    monkeypatch.setattr(kernels, "weighted_formats", lambda: frozenset({"Q4_K", "Q6_K"}))
    assert not any("wants" in note for note in plan(pocket, tmp_path, importance=IMATRIX).notes)


def test_a_format_that_gguf_does_not_have_is_refused(pocket: Path, tmp_path: Path) -> None:
    from fewbits import formats
    from fewbits.checkpoints.gguf_writer import refuses

    assert refuses("Q4_K") is None
    assert "no type" in (refuses("int4_g128") or "")
    foreign = [name for name in formats.FORMATS if refuses(name)]
    for name in foreign[:1]:
        with pytest.raises(CheckpointError, match=f"cannot be {name} in a GGUF file"):
            plan(pocket, tmp_path, tensors={"token_embd": name})
