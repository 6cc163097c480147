"""Tensor by tensor the types that llama-quantize chose (tests/golden/recipes.json); tests/peers asks it again."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest

from fewbits import planning
from fewbits.sites import Site, find_sites
from references.condensed import condensed
from references.recipe_models import MODELS, conversion

GOLDEN: dict[str, dict[str, str]] = json.loads((Path(__file__).parents[1] / "golden" / "recipes.json").read_text())

UNLIKE = {
    # llama-quantize puts Q8_0 on rows of 48, which none of its spans fit, and then writes no such file.
    ("llama width 48", recipe)
    for recipe in ("Q2_K_L", "Q3_K_XL", "Q4_K_L", "Q5_K_L", "Q6_K_L")
}


@cache
def matrices(name: str) -> tuple[Site, ...]:
    return tuple(site for site in find_sites(conversion(MODELS[name])).values() if len(site.shape) > 1)


def chosen(name: str, recipe: str, *, importance: bool) -> str:
    decide = planning.get(recipe).decide
    types = {s.name: "F16" if s.kind == "kept" else decide(s, importance=importance).format for s in matrices(name)}
    return condensed(types)


PAIRS = [
    (name, recipe)
    for name, lines in GOLDEN.items()
    for recipe in planning.recipes()
    if lines[recipe] != "refused" and (name, recipe) not in UNLIKE
]


@pytest.mark.parametrize(("name", "recipe"), PAIRS)
def test_types_are_those_of_llama_quantize(name: str, recipe: str) -> None:
    wanted = GOLDEN[name][recipe]
    assert chosen(name, recipe, importance=False) == wanted
    assert chosen(name, recipe, importance=True) == GOLDEN[name].get(f"{recipe}+", wanted)


def test_every_mix_of_llama_quantize_is_a_recipe() -> None:
    assert {name.rstrip("+") for lines in GOLDEN.values() for name in lines} == set(planning.recipes())
    assert set(GOLDEN) == set(MODELS)
