"""Tensor by tensor the types that llama-quantize chose (tests/golden/recipes.json); tests/peers asks it again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewbits import planning
from fewbits.checkpoints.base import Conversion, Placement, StoredTensor, Value
from fewbits.sites import find_sites

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "recipes.json").read_text())
RECIPES = GOLDEN["recipes"].split()


def conversion(model: dict[str, Any]) -> Conversion:
    """A model of these shapes without weights."""
    name = model["architecture"]
    placements = []
    for tensor, text in model["tensors"].items():
        shape = tuple(int(size) for size in text.split()[0].split("x"))
        placements.append(Placement(tensor, StoredTensor(tensor, "F16", shape, np.empty(0, np.uint8))))
    metadata = {f"{name}.{key}": Value(value, "uint32") for key, value in model["facts"].items()}
    return Conversion(name, metadata, tuple(placements), files=())


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", GOLDEN["models"])
def test_types_are_those_of_llama_quantize(name: str, recipe: str) -> None:
    model = GOLDEN["models"][name]
    column = 1 + RECIPES.index(recipe)
    wanted = {tensor: text.split()[column] for tensor, text in model["tensors"].items()}
    sites = find_sites(conversion(model))
    rules = planning.get(recipe)
    found = {tensor: "F32" if site.kind == "kept" else rules.decide(site).format for tensor, site in sites.items()}
    assert found == wanted


def test_the_models_lead_through_every_format_and_fallback() -> None:
    chosen = {
        kind for model in GOLDEN["models"].values() for text in model["tensors"].values() for kind in text.split()[1:]
    }
    assert chosen == {"F32", "F16", "BF16", "Q8_0", "Q4_0", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"}
