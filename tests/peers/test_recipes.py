"""Files made by the real llama-quantize choose the same types as our recipes, tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import fewbits
from fewbits.checkpoints.huggingface import convert_directory
from references.conversion_file import write_f16
from references.mixed_models import MODELS, RECIPES

pytest.importorskip("llama_cpp")

POCKET = Path(__file__).parents[2] / "examples" / "models" / "pocket-llama"


def pocket_llama(directory: Path) -> Path:
    return POCKET


@pytest.fixture(scope="module", params=[*MODELS, pocket_llama], ids=lambda make: make.__name__)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    make: Callable[[Path], Path] = request.param
    return make(tmp_path_factory.mktemp("models") / make.__name__)


@pytest.fixture(scope="module")
def f16(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_f16(convert_directory(model), tmp_path_factory.mktemp("f16") / "f16.gguf")


@pytest.mark.parametrize("recipe", RECIPES)
def test_types_are_those_of_llama_quantize(recipe: str, model: Path, f16: Path, tmp_path: Path) -> None:
    from peers.ggml import chosen_types

    wanted = chosen_types(f16, recipe, tmp_path / "theirs.gguf")
    preview = fewbits.quantize(model, tmp_path / "ours.gguf", to=recipe, dry_run=True)
    assert {tensor.name: tensor.format for tensor in preview.tensors} == wanted
