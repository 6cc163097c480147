"""Recipes: ordered rules from a site to a format, as data. The first rule that matches wins."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any

from fewbits import formats
from fewbits.errors import RecipeError
from fewbits.registry import Registry
from fewbits.sites import KINDS, Site

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - Python 3.10
    import tomli as tomllib


def _more_bits(layer: int, layers: int) -> bool:
    """The first and last eighth, and every third layer between: those that llama.cpp spends more bits on."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


LAYERS: Mapping[str, Callable[[int, int], bool]] = MappingProxyType(
    {
        "all": lambda *_: True,
        "more_bits": _more_bits,
        "first_eighth": lambda layer, layers: layer < layers // 8,
        "first_four": lambda layer, *_: layer < 4,
    }
)
"""Which layers a rule is for: layer and number of layers -> yes or no."""

MODELS: Mapping[str, Callable[[Site], bool]] = MappingProxyType(
    {
        "all": lambda *_: True,
        # Llama 2/3 70B and their kin: eight heads share one value matrix, so bits there are cheap.
        "80_layers_grouped_query": lambda site: site.layers == 80 and site.grouped_query,
    }
)
"""Which models a rule is for."""


@dataclass(frozen=True)
class Rule:
    """Sites of one of `kinds`, in `layers` of `models`, get `format`; an empty `kinds` is every matrix."""

    kinds: frozenset[str]
    layers: str
    models: str
    format: str

    def matches(self, site: Site) -> bool:
        """Whether this rule speaks of `site`."""
        # Without an output matrix the embedding is one, and follows its rules.
        kind = "output" if site.kind == "token_embd" and site.tied else site.kind
        if self.kinds and kind not in self.kinds:
            return False
        return LAYERS[self.layers](site.layer, site.layers) and MODELS[self.models](site)


@dataclass(frozen=True)
class Decision:
    """The format of one site; `fallback` says why it is not the one that the rules chose."""

    format: str
    fallback: str | None = None


@dataclass(frozen=True)
class Recipe:
    """Ordered rules and what their result is called."""

    name: str
    nominal: str
    """The format that gives the recipe its name."""
    file_type: str
    """llama.cpp's name of the mix, stored in the file's metadata."""
    description: str
    rules: tuple[Rule, ...]

    def decide(self, site: Site) -> Decision:
        """The format for `site`, falling back where its width does not divide; raises RecipeError without a rule."""
        for rule in self.rules:
            if rule.matches(site):
                return fitting(rule.format, site)
        raise RecipeError(
            f"recipe {self.name} has no rule for tensor {site.name}; end it with a rule for every matrix."
        )


@cache
def fallbacks() -> Mapping[str, str]:
    """Format -> the one that is taken when a width is not a multiple of its span, as llama.cpp does."""
    text = (resources.files("fewbits.planning") / "fallbacks.toml").read_text(encoding="utf-8")
    return MappingProxyType(tomllib.loads(text)["fallbacks"])


def fitting(name: str, site: Site) -> Decision:
    """`name` where the site's width allows it, else its fallbacks in turn; F16 fits every width."""
    chosen, current = formats.get(name), formats.get(name)
    while not formats.fits(current, site.cols):
        current = formats.get(fallbacks().get(current.name, "F16"))
    if current is chosen:
        return Decision(name)
    why = f"width {site.cols} is not a multiple of {chosen.span}, the span of {chosen.name}"
    return Decision(current.name, why)


_TEXTS = ("name", "nominal", "file_type", "description")


def parse_recipe(text: str, where: str) -> Recipe:
    """The recipe that TOML `text` states; raises RecipeError naming `where`, what is wrong and what is known."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        raise RecipeError(f"{where} is no recipe: {e}; see the recipes in fewbits/planning/recipes.") from e
    _require_known(where, "key", raw, (*_TEXTS, "rule"))
    texts = {key: _text(raw, key, where) for key in _TEXTS}
    stated = raw.get("rule")
    if not isinstance(stated, list) or not stated or not all(isinstance(rule, dict) for rule in stated):
        raise RecipeError(f"{where} states no [[rule]]; end it with a rule for every matrix.")
    _require_known(where, "format", [texts["nominal"]], formats.FORMATS)
    return Recipe(rules=tuple(_rule(rule, where) for rule in stated), **texts)


def _rule(raw: Mapping[str, Any], where: str) -> Rule:
    _require_known(where, "key of a rule", raw, ("kinds", "layers", "models", "format"))
    kinds = raw.get("kinds", [])
    if not isinstance(kinds, list):
        raise RecipeError(f"{where} has kinds = {kinds!r} in a rule, which should be a list.")
    rule = Rule(
        kinds=frozenset(map(str, kinds)),
        layers=_text(raw, "layers", where, "all"),
        models=_text(raw, "models", where, "all"),
        format=_text(raw, "format", where),
    )
    _require_known(where, "kind of tensor", sorted(rule.kinds), (*KINDS, "other"))
    _require_known(where, "choice of layers", [rule.layers], LAYERS)
    _require_known(where, "choice of models", [rule.models], MODELS)
    _require_known(where, "format", [rule.format], formats.FORMATS)
    return rule


def _text(raw: Mapping[str, Any], key: str, where: str, default: str | None = None) -> str:
    value = raw.get(key, default)
    if not isinstance(value, str):
        raise RecipeError(f"{where} has no {key}." if value is None else f"{where} has {key} = {value!r}, no text.")
    return value


def _require_known(where: str, what: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Refuse the first of `names` that is not known, with the nearest of those that are."""
    known = list(known)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
            raise RecipeError(f"{where} has the unknown {what} {name!r}{hint} Known: {', '.join(known)}.")


@cache
def recipes() -> Registry[Recipe]:
    """The recipes that come with fewbits, by name."""
    registry: Registry[Recipe] = Registry("recipe", RecipeError)
    folder = resources.files("fewbits.planning") / "recipes"
    for entry in sorted(folder.iterdir(), key=lambda e: e.name):
        if entry.name.endswith(".toml"):
            recipe = parse_recipe(entry.read_text(encoding="utf-8"), entry.name)
            registry.add(recipe.name, recipe)
    return registry


def get(name: str) -> Recipe:
    """The recipe called `name`, in any case; raises RecipeError, naming the nearest known names."""
    known = {n.upper(): n for n in recipes()}
    return recipes().get(known.get(name.upper(), name))
