"""The real llama-quantize chooses the same types as our recipes, tensor by tensor; llama.cpp runs our experts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import fewbits
from fewbits import planning
from fewbits.checkpoints.huggingface import convert_directory
from fewbits.checkpoints.imatrix import read_importance
from fewbits.planning import wants_importance
from fewbits.sites import find_sites
from references.architecture_models import MODELS as ARCHITECTURES
from references.conversion_file import write_f16
from references.mixed_models import MODELS as DIRECTORIES
from references.moe_files import write_moe
from references.recipe_models import MODELS, conversion, write_shapes

llama_cpp = pytest.importorskip("llama_cpp")

GOLDEN = Path(__file__).parents[1] / "golden"
POCKET = Path(__file__).parents[2] / "examples" / "models" / "pocket-llama"


RECIPES = list(planning.recipes())


def pocket_llama(directory: Path) -> Path:
    return POCKET


@pytest.fixture(scope="module", params=[*DIRECTORIES, pocket_llama], ids=lambda make: make.__name__)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    make: Callable[[Path], Path] = request.param
    return make(tmp_path_factory.mktemp("models") / make.__name__)


@pytest.fixture(scope="module")
def f16(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_f16(convert_directory(model), tmp_path_factory.mktemp("f16") / "f16.gguf")


def test_types_for_directories_are_those_of_llama_quantize(model: Path, f16: Path, tmp_path: Path) -> None:
    from peers.ggml import LARGE_ENDS, planned_types

    narrow = model.name == "narrow"
    for recipe in RECIPES:
        wanted = planned_types(f16, recipe)
        if not wanted or (narrow and recipe in LARGE_ENDS):
            continue  # llama-quantize makes no such file
        preview = fewbits.quantize(model, tmp_path / "ours.gguf", to=recipe, dry_run=True)
        assert {tensor.name: tensor.format for tensor in preview.tensors} == wanted, recipe


@pytest.mark.parametrize("make", ARCHITECTURES, ids=lambda make: make.__name__)
def test_types_for_every_architecture_are_those_of_llama_quantize(make: Callable[..., Path], tmp_path: Path) -> None:
    """Widths that 256 divides but for one, and as many layers as rules tell apart."""
    from peers.ggml import planned_types

    model = make(tmp_path / "model", hidden_size=256, intermediate_size=352, num_hidden_layers=12)
    f16 = write_f16(convert_directory(model), tmp_path / "f16.gguf")
    for recipe in RECIPES:
        wanted = planned_types(f16, recipe)
        if wanted:
            preview = fewbits.quantize(model, tmp_path / "ours.gguf", to=recipe, dry_run=True)
            # Kept matrices, routers for instance, stay as they are stored: F16 in that file and F32 in the directory.
            found = {tensor.name: tensor.format for tensor in preview.tensors if tensor.quantizable}
            assert set(wanted) == {tensor.name for tensor in preview.tensors}
            assert found == {name: wanted[name] for name in found}, recipe


@pytest.mark.parametrize("recipe", ["Q4_K_M", "Q8_0"])
def test_a_dry_run_says_what_is_done(recipe: str, f16: Path, tmp_path: Path) -> None:
    from peers.ggml import chosen_types, planned_types

    assert planned_types(f16, recipe) == chosen_types(f16, recipe, tmp_path / "theirs.gguf")


@pytest.mark.parametrize("name", MODELS)
def test_golden_types_are_those_of_today(name: str, tmp_path: Path) -> None:
    import json

    from peers.ggml import MIXES, planned_types
    from references.condensed import condensed

    golden = json.loads((GOLDEN / "recipes.json").read_text())[name]
    source = write_shapes(MODELS[name], tmp_path / "shapes.gguf")
    matrices = [tensor for tensor, shape in MODELS[name].shapes.items() if len(shape) > 1]
    for recipe in MIXES:
        for mark, importance in (("", False), ("+", True)):
            types = planned_types(source, recipe, importance=importance)
            line = condensed({tensor: types[tensor] for tensor in matrices}) if types else "refused"
            assert line == golden.get(recipe + mark, golden[recipe]), recipe + mark


def test_importance_is_wanted_where_llama_quantize_requires_it(tmp_path: Path) -> None:
    from peers.ggml import MIXES, requires_importance

    name = "llama gqa2 16"
    source = write_shapes(MODELS[name], tmp_path / "shapes.gguf")
    sites = find_sites(conversion(MODELS[name])).values()
    for recipe in (recipe for recipe in MIXES if recipe in RECIPES):
        decide = planning.get(recipe).decide
        ours = any(wants_importance(recipe, decide(s).format, s) for s in sites if s.kind != "kept")
        assert ours == requires_importance(source, recipe), recipe


@pytest.mark.parametrize("recipe", ["Q4_K_M", "IQ4_XS", "Q4_0", "IQ2_XXS"])
def test_weighed_by_importance_no_tensor_is_worse_than_llama_quantizes(recipe: str, tmp_path: Path) -> None:
    from peers.ggml import quantize_by_importance

    entries = read_importance(GOLDEN / "pocket.imatrix.gguf").entries
    importance = {name: entry.mean(0) for name, entry in entries.items()}
    source = write_f16(convert_directory(POCKET), tmp_path / "f16.gguf")
    record: Any = fewbits.quantize(source, tmp_path / "ours.gguf", to=recipe, importance=GOLDEN / "pocket.imatrix.gguf")
    quantize_by_importance(source, recipe, tmp_path / "theirs.gguf", importance)
    w, ours, theirs = (_numbers(tmp_path / f"{name}.gguf") for name in ("f16", "ours", "theirs"))
    kinds = {t.planned.name: t.planned.format for t in record.tensors}
    assert kinds == {t.name: t.tensor_type.name for t in gguf.GGUFReader(tmp_path / "theirs.gguf").tensors}
    totals = np.zeros(2)
    for name, rows in importance.items():
        totals += [float((((w[name] - q[name]) ** 2) * rows).sum()) for q in (ours, theirs)]
    assert totals[0] <= 1.01 * totals[1]


def _numbers(file: Path) -> dict[str, Any]:
    tensors = gguf.GGUFReader(file).tensors
    return {t.name: gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float64) for t in tensors}


@pytest.mark.parametrize("shared", [False, True], ids=["mixtral", "qwen2moe"])
def test_llama_cpp_computes_experts_as_their_decoded_weights_say(shared: bool, tmp_path: Path) -> None:
    source = write_moe(tmp_path / "model", experts=8, shared=shared)
    fewbits.quantize(source, tmp_path / "q.gguf", to="Q8_0")
    stored = {t.name: t for t in gguf.GGUFReader(tmp_path / "q.gguf").tensors}

    def decode(tensors: dict[str, Any]) -> None:
        for tensor_name in tensors:
            tensors[tensor_name] = gguf.quants.dequantize(stored[tensor_name].data, stored[tensor_name].tensor_type)

    decoded = write_moe(tmp_path / "decoded", experts=8, shared=shared, kind="F32", edit=decode)
    ours, theirs, original = (_logits(file) for file in (tmp_path / "q.gguf", decoded, source))
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.99
    assert np.corrcoef(original.ravel(), theirs.ravel())[0, 1] > 0.99


def _logits(file: Path) -> Any:
    peer = llama_cpp.Llama(str(file), n_ctx=64, logits_all=True, n_threads=2, verbose=False)
    peer.eval(list(range(5, 45)))
    logits = np.array(peer.scores[:40])
    peer.close()
    return logits
