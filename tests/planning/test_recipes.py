"""Recipes as data: parsed strictly, decided as llama.cpp decides, with its fallbacks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fewbits import planning
from fewbits.errors import FewbitsError, RecipeError
from fewbits.planning import Decision, Recipe
from fewbits.planning.library import get_shipped
from fewbits.planning.parsing import MOST_BYTES, MOST_RULES, parse_recipe
from fewbits.planning.recipe import fallbacks, fitting
from fewbits.planning.rule import LAYERS, Rule
from fewbits.sites import Model, Site

LLAMA = Model("llama", layers=32, experts=0, heads=32, key_heads=8, tied=False, values=32)


def site(kind: str, *, layer: int = 0, cols: int = 256, shape: tuple[int, ...] = (), **model: object) -> Site:
    name = f"blk.{layer}.{kind}.weight" if kind.startswith(("attn", "ffn")) else f"{kind}.weight"
    facts = replace(LLAMA, **{"values": model.get("layers", 32), **model})  # type: ignore[arg-type]
    return Site(name, kind, shape or (64, cols), layer, layer, facts)


def parse(text: str, where: str = "x.toml") -> Recipe:
    return parse_recipe(text, where, base=get_shipped)


def test_the_shipped_recipes() -> None:
    for name in planning.recipes():
        recipe = planning.get(name)
        assert recipe.name == name
        assert recipe.description.endswith(".")
        assert recipe.file_type.startswith(("MOSTLY_", "ALL_"))
        # The last rule speaks of every matrix, so that no site is left without a format.
        assert recipe.rules[-1] == Rule(format=recipe.rules[-1].format)


def test_names_are_found_in_any_case_and_unknown_ones_get_near_ones() -> None:
    assert planning.get("q4_k_m") is planning.get("Q4_K_M")
    assert [planning.get(alias).name for alias in ("Q3_K", "q4_k", "Q5_K")] == ["Q3_K_M", "Q4_K_M", "Q5_K_M"]
    with pytest.raises(RecipeError, match=r"'Q4_K_N'.*did you mean 'Q4_K_"):
        planning.get("Q4_K_N")


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
        assert planning.get(name).decide(site("attn_v", layer=41, layers=80, key_heads=32)).format == "Q4_K"


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
    **{name: (name, name, name) for name in ("F32", "F16", "BF16")},
    **{name: (name, name, "F16") for name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "MXFP4")},
    **{name: (name, "Q4_0", "F16") for name in ("Q2_K", "Q3_K", "TQ1_0", "TQ2_0")},
    **{name: (name, "IQ4_NL", "F16") for name in ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S")},
    **{name: (name, "IQ4_NL", "F16") for name in ("IQ3_XXS", "IQ3_S", "IQ4_XS")},
    # Spans of 128 and 64, which divide 896: see the next test.
    **{name: (name, name, "F16") for name in ("Q1_0", "Q2_0")},
    "Q4_K": ("Q4_K", "Q5_0", "F16"),
    "Q5_K": ("Q5_K", "Q5_1", "F16"),
    "Q6_K": ("Q6_K", "Q8_0", "F16"),
}


def test_every_format_that_a_recipe_names_is_in_the_table() -> None:
    named = {rule.format for name in planning.recipes() for rule in planning.get(name).rules}
    assert named == set(FITTING)
    assert {*fallbacks(), *fallbacks().values()} <= named


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
    decision = planning.get("Q4_K_S").decide(site("attn_v", cols=896))
    assert (decision.format, decision.fallback) == ("Q5_1", "width 896 is not a multiple of 256, the span of Q5_K")
    assert decision == Decision(decision.format, decision.fallback, decision.rule)


GOOD = 'name = "X"\nnominal = "Q4_K"\nfile_type = "MOSTLY_Q4_K_M"\ndescription = "D."\n'


def test_the_first_rule_that_matches_wins() -> None:
    rules = '[[rule]]\nkinds = ["attn_v"]\nlayers = "first_four"\nformat = "Q6_K"\n[[rule]]\nformat = "Q4_0"\n'
    recipe = parse(GOOD + rules)
    found = [recipe.decide(site("attn_v", layer=n)).format for n in (3, 4)]
    assert [*found, recipe.decide(site("attn_q")).format] == ["Q6_K", "Q4_0", "Q4_0"]


def test_a_site_without_a_rule_is_refused_by_name() -> None:
    recipe = parse(GOOD + '[[rule]]\nkinds = ["output"]\nformat = "Q6_K"')
    with pytest.raises(RecipeError, match=r"blk\.7\.ffn_up\.weight"):
        recipe.decide(site("ffn_up", layer=7))


RULE = '[[rule]]\nformat = "Q4_K"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = 1\nname = \n", r"x\.toml is no recipe.*line 2"),
        (GOOD, r"no \[\[rule\]\]"),
        (GOOD + "rule = 3", r"line 5, .*no \[\[rule\]\]"),
        (GOOD + "rule = [3]", r"line 5, .*no \[\[rule\]\]"),
        (GOOD.replace("nominal", "nominell") + RULE, r"line 2, .*'nominell'.*did you mean 'nominal'"),
        (GOOD.replace('"X"', "3") + RULE, r"line 1, .*name = 3"),
        (GOOD.replace("Q4_K", "Q4_J", 1) + RULE, r"line 2, .*'Q4_J'.*did you mean 'Q4_K'"),
        (GOOD + '[[rule]]\nformat = "Q4_M"', r"line 6, .*'Q4_M'.*did you mean 'Q4_"),
        (GOOD + RULE + '\n[[rule]]\nkinds = ["output"]', r"line 8, .*no format"),
        (GOOD + RULE + 'layer = "all"', r"line 7, .*'layer'.*did you mean 'layers'"),
        (GOOD + RULE + 'layers = "more_bit"', r"line 7, .*'more_bit'.*did you mean 'more_bits'"),
        (GOOD + RULE + "layers = 4", r"line 7, .*layers = 4"),
        (GOOD + RULE + 'models = "70B"', r"line 7, .*unknown choice of models '70B'"),
        (GOOD + RULE + 'kinds = ["attn_w"]', r"line 7, .*'attn_w'.*did you mean 'attn_"),
        (GOOD + RULE + 'kinds = [\n "attn_q",\n "attn_w",\n]', r"line 9, .*'attn_w'.*did you mean 'attn_"),
        (GOOD + RULE + 'kinds = "output"', r"line 7, .*should be a list"),
        (GOOD + RULE + "match = [1]", r"line 7, .*should be a list"),
        (GOOD + RULE + 'match = ""', r"line 7, .*should be a list"),
        (GOOD + RULE + 'experts = "many"', r"line 7, .*experts = 'many'.*comparison"),
        (GOOD + RULE + "experts = true", r"line 7, .*experts = True"),
        (GOOD + RULE + "stacked = 1", r"line 7, .*stacked = 1.*true or false"),
        (GOOD + RULE + "importance = 'yes'", r"line 7, .*true or false"),
        ('extend = "Q4_K_N"\n', r"line 1, extends something else: .*'Q4_K_N'.*did you mean 'Q4_K_"),
        ('extend = ["Q4_K_M"]\n', r"line 1, .*should be a text"),
        ("# " + "x" * MOST_BYTES, r"larger than"),
        (GOOD + RULE * (MOST_RULES + 1), r"257 rules"),
        ("a = " + "[" * 5000, r"x\.toml is no recipe"),
    ],
)
def test_what_is_no_recipe_is_refused_with_its_line_and_what_is_near(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        parse(text)
    assert isinstance(caught.value, FewbitsError)
    assert str(caught.value).startswith("x.toml")


def test_a_line_is_found_behind_strings_over_several_lines() -> None:
    text = (
        'description = """\n[[rule]]\nformat = "Q9"\n"""\n[[rule]]\nformat = "Q4_K" # ok\n[[rule]]\n\nformat = "Q9"\n'
    )
    with pytest.raises(RecipeError, match="line 9, has the unknown format 'Q9'"):
        parse(text)


def test_choices_of_layers() -> None:
    chosen = {name: [n for n in range(16) if rule(n, 16)] for name, rule in LAYERS.items()}
    assert chosen == {
        "all": [*range(16)],
        "more_bits": [0, 1, 4, 7, 10, 13, 14, 15],
        "first_sixteenth": [0],
        "first_eighth": [0, 1],
        "middle": [*range(2, 14)],
        "first_two": [0, 1],
        "first_four": [0, 1, 2, 3],
    }


def test_layers_by_number() -> None:
    recipe = parse('[[rule]]\nlayers = "0-2, 7,30-31"\nformat = "Q8_0"\n[[rule]]\nformat = "Q4_K"\n')
    found = [n for n in range(32) if recipe.decide(site("ffn_up", layer=n)).format == "Q8_0"]
    assert found == [0, 1, 2, 7, 30, 31]
    assert recipe.decide(site("output")).format == "Q4_K"


@pytest.mark.parametrize(
    ("rule", "found"),
    [
        ("experts = 8", [8]),
        ('experts = ">=4"', [4, 8, 128]),
        ('experts = "<4"', [0]),
        ('group = "4"', [0, 4, 8, 128]),
        ('group = ">4"', []),
        ('architectures = ["falcon"]', []),
        ('architectures = ["llama"]', [0, 4, 8, 128]),
    ],
)
def test_rules_about_the_model(rule: str, found: list[int]) -> None:
    recipe = parse(f'[[rule]]\n{rule}\nformat = "Q8_0"\n[[rule]]\nformat = "Q4_K"\n')
    assert [n for n in (0, 4, 8, 128) if recipe.decide(site("attn_v", experts=n)).format == "Q8_0"] == found


def test_rules_about_stacks_and_importance() -> None:
    text = '[[rule]]\nstacked = true\nformat = "Q8_0"\n[[rule]]\nimportance = true\nformat = "Q6_K"\n' + RULE
    decide = parse(text).decide
    assert decide(site("ffn_up", shape=(4, 32, 256))).format == "Q8_0"
    assert decide(site("ffn_up", shape=(1, 32, 256))).format == "Q4_K"
    assert decide(site("ffn_up"), importance=True).format == "Q6_K"


def test_a_users_recipe_extends_a_shipped_one() -> None:
    recipe = parse('extend = "q4_k"\n[[rule]]\nmatch = "blk.*.ffn_down"\nformat = "Q8_0"\n', "folder/mine.toml")
    base = planning.get("Q4_K_M")
    assert (recipe.name, recipe.nominal, recipe.file_type) == ("mine", "Q4_K", base.file_type)
    assert recipe.decide(site("ffn_down", layer=9)).format == "Q8_0"
    assert recipe.decide(site("attn_q")) == base.decide(site("attn_q"))
    assert recipe.rules[0].origin == "folder/mine.toml, line 2"


def test_what_the_user_named_is_not_replaced() -> None:
    named = parse('extend = "Q4_K_M"\n[[rule]]\nmatch = "blk.*.ffn_down"\nformat = "Q6_K"\n', "mine.toml")
    with pytest.raises(RecipeError, match=r"mine\.toml, line 2 gives blk\.0\.ffn_down.*Q6_K.*896.*Q8_0"):
        named.decide(site("ffn_down", cols=896))
    kinds = parse('extend = "Q4_K_M"\n[[rule]]\nkinds = ["ffn_down"]\nformat = "Q6_K"\n')
    assert kinds.decide(site("ffn_down", cols=896)).format == "Q8_0"
    exact = parse('extend = "Q4_K_M"\n[[rule]]\nkinds = ["ffn_down"]\nexact = true\nformat = "Q6_K"\n')
    with pytest.raises(RecipeError, match="gives"):
        exact.decide(site("ffn_down", cols=896))


def test_a_recipe_without_a_base_is_named_after_its_file_and_its_last_rule() -> None:
    recipe = parse('[[rule]]\nkinds = ["output"]\nformat = "Q6_K"\n' + RULE, "mine.toml")
    assert (recipe.name, recipe.nominal, recipe.file_type, recipe.source) == ("mine", "Q4_K", "", "mine.toml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"\xff\xfe", "UTF-8"),
        (b'[[rule]]\nformat = "Q9"', r"line 2, .*'Q9'"),
    ],
)
def test_files_of_recipes(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RecipeError, match=message):
        planning.get(path)
    path.write_text(RULE, encoding="utf-8")
    assert planning.get(path).decide(site("output")).format == "Q4_K"
