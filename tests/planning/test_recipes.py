"""Recipes as data: parsed strictly, decided as llama.cpp decides, with its fallbacks."""

from __future__ import annotations

import gguf
import pytest

from fewbits import formats, planning
from fewbits.errors import FewbitsError, RecipeError
from fewbits.planning import Decision
from fewbits.planning.recipe import LAYERS, fallbacks, fitting, parse_recipe
from fewbits.sites import Site

RECIPES = ("BF16", "F16", "Q4_0", "Q4_K_M", "Q4_K_S", "Q6_K", "Q8_0")


def site(kind: str, *, layer: int = 0, layers: int = 32, cols: int = 256, tied: bool = False, gqa: bool = True) -> Site:
    name = f"blk.{layer}.{kind}.weight" if kind.startswith(("attn", "ffn")) else f"{kind}.weight"
    return Site(name, kind, (64, cols), layer, layers, tied, gqa)


def test_the_shipped_recipes() -> None:
    assert tuple(sorted(planning.recipes())) == RECIPES
    for name in RECIPES:
        recipe = planning.get(name)
        assert recipe.name == name
        assert recipe.description.endswith(".")
        assert recipe.file_type in gguf.LlamaFileType.__members__
        # The last rule speaks of every matrix, so that no site is left without a format.
        assert recipe.decide(site("other")).format in formats.ROWS


def test_names_are_found_in_any_case_and_unknown_ones_get_near_ones() -> None:
    assert planning.get("q4_k_m") is planning.get("Q4_K_M")
    with pytest.raises(RecipeError, match=r"'Q4_K_L'.*did you mean 'Q4_K_"):
        planning.get("Q4_K_L")


# Layers that get more bits, written out by hand from llama.cpp's rule: the first and the last eighth, and every third
# one between.
MORE_BITS = {
    8: {0, 3, 6, 7},
    16: {0, 1, 4, 7, 10, 13, 14, 15},
    22: {0, 1, 4, 7, 10, 13, 16, 19, 20, 21},
    28: {0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 24, 25, 26, 27},
    32: {0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31},
    80: {*range(10), 12, 15, 18, 21, 24, 27, 30, 33, 36, 39, 42, 45, 48, 51, 54, 57, 60, 63, 66, 69, *range(70, 80)},
}
FIRST_EIGHTH = {8: 1, 16: 2, 22: 2, 28: 3, 32: 4, 80: 10}


@pytest.mark.parametrize("layers", MORE_BITS)
def test_q4_k_m_spends_more_bits_where_llama_cpp_does(layers: int) -> None:
    recipe = planning.get("Q4_K_M")
    for kind in ("attn_v", "ffn_down"):
        found = {layer: recipe.decide(site(kind, layer=layer, layers=layers)).format for layer in range(layers)}
        plain = "Q5_K" if kind == "attn_v" and layers == 80 else "Q4_K"
        assert found == {layer: "Q6_K" if layer in MORE_BITS[layers] else plain for layer in range(layers)}
    for kind in ("attn_q", "attn_k", "attn_output", "ffn_gate", "ffn_up"):
        assert {recipe.decide(site(kind, layer=n, layers=layers)).format for n in range(layers)} == {"Q4_K"}


@pytest.mark.parametrize("layers", FIRST_EIGHTH)
def test_q4_k_s_spends_more_bits_where_llama_cpp_does(layers: int) -> None:
    recipe = planning.get("Q4_K_S")
    values = [recipe.decide(site("attn_v", layer=n, layers=layers)).format for n in range(layers)]
    rest = "Q5_K" if layers == 80 else "Q4_K"
    assert values == ["Q5_K"] * 4 + [rest] * (layers - 4)
    downs = [recipe.decide(site("ffn_down", layer=n, layers=layers)).format for n in range(layers)]
    assert downs == ["Q5_K"] * FIRST_EIGHTH[layers] + ["Q4_K"] * (layers - FIRST_EIGHTH[layers])


def test_eighty_layers_without_grouped_queries_are_like_any_other() -> None:
    for name in ("Q4_K_S", "Q4_K_M"):
        assert planning.get(name).decide(site("attn_v", layer=41, layers=80, gqa=False)).format == "Q4_K"


@pytest.mark.parametrize(
    ("recipe", "output", "embedding"),
    [
        ("Q4_0", "Q6_K", "Q4_0"),
        ("Q4_K_S", "Q6_K", "Q4_K"),
        ("Q4_K_M", "Q6_K", "Q4_K"),
        ("Q6_K", "Q6_K", "Q6_K"),
        ("Q8_0", "Q8_0", "Q8_0"),
        ("F16", "F16", "F16"),
        ("BF16", "BF16", "BF16"),
    ],
)
def test_a_tied_embedding_follows_the_output(recipe: str, output: str, embedding: str) -> None:
    decide = planning.get(recipe).decide
    assert decide(site("output")).format == output
    assert decide(site("token_embd")).format == embedding
    assert decide(site("token_embd", tied=True)).format == output


FITTING = {
    # width: 256 divides it, only 32 does (Qwen2-0.5B's 896), nothing does
    "Q4_K": ("Q4_K", "Q5_0", "F16"),
    "Q5_K": ("Q5_K", "Q5_1", "F16"),
    "Q6_K": ("Q6_K", "Q8_0", "F16"),
    "Q4_0": ("Q4_0", "Q4_0", "F16"),
    "Q5_0": ("Q5_0", "Q5_0", "F16"),
    "Q5_1": ("Q5_1", "Q5_1", "F16"),
    "Q8_0": ("Q8_0", "Q8_0", "F16"),
    "F16": ("F16", "F16", "F16"),
    "BF16": ("BF16", "BF16", "BF16"),
    "F32": ("F32", "F32", "F32"),
}


def test_every_format_has_a_line_in_the_table_of_fallbacks() -> None:
    assert set(FITTING) == set(formats.ROWS)
    assert {*fallbacks(), *fallbacks().values()} <= set(formats.ROWS)


@pytest.mark.parametrize("name", FITTING)
def test_fallbacks_by_width(name: str) -> None:
    for cols, wanted in zip((512, 896, 48), FITTING[name], strict=True):
        decision = fitting(name, site("ffn_up", cols=cols))
        assert decision.format == wanted
        assert (decision.fallback is None) == (wanted == name)
        if decision.fallback:
            assert str(cols) in decision.fallback
            assert name in decision.fallback


def test_a_fallback_says_why() -> None:
    assert planning.get("Q4_K_S").decide(site("attn_v", cols=896)) == Decision(
        "Q5_1", "width 896 is not a multiple of 256, the span of Q5_K"
    )


GOOD = 'name = "X"\nnominal = "Q4_K"\nfile_type = "MOSTLY_Q4_K_M"\ndescription = "D."\n'


def test_the_first_rule_that_matches_wins() -> None:
    rules = '[[rule]]\nkinds = ["attn_v"]\nlayers = "first_four"\nformat = "Q6_K"\n[[rule]]\nformat = "Q4_0"\n'
    recipe = parse_recipe(GOOD + rules, "x.toml")
    found = [recipe.decide(site("attn_v", layer=n)).format for n in (3, 4)]
    assert [*found, recipe.decide(site("attn_q")).format] == ["Q6_K", "Q4_0", "Q4_0"]


def test_a_site_without_a_rule_is_refused_by_name() -> None:
    recipe = parse_recipe(GOOD + '[[rule]]\nkinds = ["output"]\nformat = "Q6_K"', "x.toml")
    with pytest.raises(RecipeError, match=r"blk\.7\.ffn_up\.weight"):
        recipe.decide(site("ffn_up", layer=7))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", r"x\.toml is no recipe"),
        (GOOD, r"no \[\[rule\]\]"),
        (GOOD + "rule = 3", r"no \[\[rule\]\]"),
        (GOOD.replace("nominal", "nominell") + '[[rule]]\nformat = "Q4_K"', r"'nominell'.*did you mean 'nominal'"),
        (GOOD.replace('"X"', "3") + '[[rule]]\nformat = "Q4_K"', r"name = 3"),
        (GOOD.replace('name = "X"', "") + '[[rule]]\nformat = "Q4_K"', r"no name"),
        (GOOD.replace("Q4_K", "Q4_J", 1) + '[[rule]]\nformat = "Q4_K"', r"'Q4_J'.*did you mean 'Q4_K'"),
        (GOOD + '[[rule]]\nformat = "Q4_M"', r"'Q4_M'.*did you mean 'Q4_"),
        (GOOD + '[[rule]]\nkinds = ["output"]', r"no format"),
        (GOOD + '[[rule]]\nformat = "Q4_K"\nlayer = "all"', r"'layer'.*did you mean 'layers'"),
        (GOOD + '[[rule]]\nformat = "Q4_K"\nlayers = "more_bit"', r"'more_bit'.*did you mean 'more_bits'"),
        (GOOD + '[[rule]]\nformat = "Q4_K"\nlayers = 4', r"layers = 4"),
        (GOOD + '[[rule]]\nformat = "Q4_K"\nmodels = "70B"', r"unknown choice of models '70B'"),
        (GOOD + '[[rule]]\nformat = "Q4_K"\nkinds = ["attn_w"]', r"'attn_w'.*did you mean 'attn_"),
        (GOOD + '[[rule]]\nformat = "Q4_K"\nkinds = "output"', r"should be a list"),
    ],
)
def test_what_is_no_recipe_is_refused_with_what_is_near(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        parse_recipe(text, "x.toml")
    assert isinstance(caught.value, FewbitsError)
    assert str(caught.value).startswith("x.toml")


def test_choices_of_layers_are_known_by_name() -> None:
    assert set(LAYERS) == {"all", "more_bits", "first_eighth", "first_four"}
