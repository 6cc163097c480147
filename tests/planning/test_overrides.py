"""Formats that the user names for some tensors: parsed strictly, tried first, and never in vain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import pytest

from fewbits import formats, planning
from fewbits.errors import RecipeError
from fewbits.planning import parse_overrides, require_meaning
from fewbits.planning.rule import names
from fewbits.sites import Model, Site

LLAMA = Model("llama", layers=4, experts=0, heads=4, key_heads=2, tied=False, values=4)
KINDS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


def sites(*, tied: bool = False, cols: int = 256) -> list[Site]:
    model = replace(LLAMA, tied=tied)
    ends = ("token_embd",) if tied else ("token_embd", "output")
    found = [Site(f"{end}.weight", end, (64, cols), 0, 0, model) for end in ends]
    for n in range(4):
        found += [Site(f"blk.{n}.{kind}.weight", kind, (64, cols), n, n, model) for kind in KINDS]
        found.append(Site(f"blk.{n}.attn_norm.weight", "kept", (cols,), n, 0, model))
    return found


@pytest.mark.parametrize(
    ("pattern", "name", "wanted"),
    [
        ("blk.*.ffn_down", "blk.31.ffn_down.weight", True),
        ("blk.*.ffn_down.weight", "blk.31.ffn_down.weight", True),
        ("blk.*.ffn_down", "blk.31.ffn_down_exps.weight", False),
        ("blk.*.ffn_down*", "blk.31.ffn_down_exps.weight", True),
        ("blk.[0-3].attn_?", "blk.3.attn_q.weight", True),
        ("blk.[0-3].attn_?", "blk.4.attn_q.weight", False),
        ("output", "blk.3.attn_output.weight", False),
        ("BLK.*", "blk.3.attn_output.weight", False),
        ("*", "output.weight", True),
    ],
)
def test_patterns(pattern: str, name: str, wanted: bool) -> None:
    assert names(pattern, name) is wanted


def test_overrides_come_before_the_recipe_in_their_order() -> None:
    overrides = parse_overrides(["blk.0.*=Q8_0", "blk.*.ffn_down=q5_k"])
    recipe = planning.get("Q4_K_M").with_overrides(overrides)
    found = {site.name: recipe.decide(site).format for site in sites() if site.kind == "ffn_down"}
    assert found == {f"blk.{n}.ffn_down.weight": "Q8_0" if n == 0 else "Q5_K" for n in range(4)}
    assert recipe.overrides == ("blk.0.*=Q8_0", "blk.*.ffn_down=Q5_K")
    assert recipe.decide(sites()[0]) == planning.get("Q4_K_M").decide(sites()[0])


def test_a_mapping_says_the_same_and_a_pattern_may_hold_an_equals_sign() -> None:
    assert (
        parse_overrides({"blk.0.*": "Q8_0"}) == parse_overrides(["blk.0.* = Q8_0"]) == parse_overrides("blk.0.*=Q8_0")
    )
    assert parse_overrides(["a=b=Q8_0"])[0].match == ("a=b",)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["Q8_0"], "not PATTERN=FORMAT"),
        (["=Q8_0"], "not PATTERN=FORMAT"),
        (["output="], "not PATTERN=FORMAT"),
        ([""], "not PATTERN=FORMAT"),
        (["output=Q8_O"], r"'Q8_O'; did you mean 'Q8_0'.*`fewbits formats` lists all"),
        ({"output": "Q4_K_M"}, r"unknown format 'Q4_K_M'; did you mean 'Q"),
        (["output=Q8_0", "output=Q6_K"], "'output' is given twice"),
    ],
)
def test_what_is_no_override(texts: Mapping[str, str] | Iterable[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_overrides(texts)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (
            "blk.*.ffn_dwn",
            r"'blk\.\*\.ffn_dwn=Q8_0' matches no tensor.*did you mean 'blk\.\*\.ffn_down'.*Known: token_embd",
        ),
        ("blk.3.ffn_dwn", r"did you mean 'blk\.3\.ffn_down'"),
        ("blk.9.ffn_down", r"matches no tensor.*did you mean 'blk\.\d\.ffn_down'"),
        ("blk.*.attn_norm", r"matches only tensors that every recipe keeps.*blk\.0\.attn_norm"),
    ],
)
def test_a_pattern_in_vain_is_refused_with_what_is_near(pattern: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        require_meaning(parse_overrides([f"{pattern}=Q8_0"]), sites())


def test_the_output_of_a_model_that_has_none() -> None:
    require_meaning(parse_overrides(["output=Q8_0"]), sites())
    with pytest.raises(RecipeError, match="token_embd, is its output"):
        require_meaning(parse_overrides(["output=Q8_0"]), sites(tied=True))


def test_rules_of_shipped_recipes_may_speak_of_other_models() -> None:
    require_meaning(planning.get("Q4_K_M").rules, sites())


def test_members_of_families_may_be_named() -> None:
    recipe = planning.get("Q4_K_M").with_overrides(parse_overrides(["output=int4_g64_sym_f16"]))
    decision = recipe.decide(sites()[1])
    assert (decision.format, decision.fallback) == (formats.get("int4_g64_sym_f16").name, None)


def test_a_format_that_does_not_fit_is_refused_not_replaced() -> None:
    recipe = planning.get("Q4_K_M").with_overrides(parse_overrides(["output=Q6_K"]))
    with pytest.raises(
        RecipeError, match=r"'output=Q6_K' gives output\.weight.*width 288 is not a multiple of 256.*Q8_0"
    ):
        recipe.decide(sites(cols=288)[1])
