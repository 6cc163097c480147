"""Recipes: ordered rules from a site to a format. The first rule that matches wins."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from types import MappingProxyType

from fewbits import formats
from fewbits.errors import RecipeError
from fewbits.planning.rule import Rule
from fewbits.sites import Site

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - Python 3.10
    import tomli as tomllib


@dataclass(frozen=True)
class Decision:
    """The format of one site; `fallback` says why it is not the one that `rule` names."""

    format: str
    fallback: str | None = None
    rule: Rule | None = None


@dataclass(frozen=True)
class Recipe:
    """Ordered rules and what their result is called."""

    name: str
    nominal: str
    """The format that gives the recipe its name."""
    file_type: str
    """llama.cpp's name of the mix, stored in the file's metadata; "" where the user's own mix has none."""
    description: str
    rules: tuple[Rule, ...]
    aliases: tuple[str, ...] = ()
    source: str = ""
    """The file that states a user's own recipe."""
    overrides: tuple[str, ...] = ()
    """"PATTERN=FORMAT" of the rules that were put first."""
    method: str = ""
    """How codes are chosen, as `--method` says it; "" where the recipe leaves that open."""
    dialect: str = ""
    """How a model directory lays out its matrices, as `--dialect` says it; "" for our own."""

    @property
    def activations(self) -> tuple[str, ...]:
        """How its rules round inputs, each way once."""
        return tuple(dict.fromkeys(rule.activation for rule in self.rules if rule.activation))

    def decide(self, site: Site, *, importance: bool = False) -> Decision:
        """The format for `site`, falling back where its width does not divide; raises RecipeError without a rule.

        `importance` says whether there is an importance matrix: some mixes spend their bits otherwise then.
        """
        nominal_fits = formats.fits(formats.get(self.nominal), site.cols)
        for rule in self.rules:
            if rule.matches(site, importance=importance, nominal_fits=nominal_fits):
                return _decision(rule, site)
        raise RecipeError(
            f"recipe {self.name} has no rule for tensor {site.name}; end it with a rule for every matrix."
        )

    def renamed(self, names: Mapping[str, str]) -> tuple[Recipe, tuple[str, ...]]:
        """The same recipe with other formats for those in `names`, and a note on each that it has."""
        rules = tuple(replace(rule, format=names.get(rule.format, rule.format)) for rule in self.rules)
        found = dict.fromkeys(rule.format for rule in self.rules if rule.format in names)
        notes = tuple(f"{name} becomes {names[name]}: the same, rounded as the output's readers do." for name in found)
        return replace(self, rules=rules, nominal=names.get(self.nominal, self.nominal)), notes

    def with_overrides(self, rules: tuple[Rule, ...]) -> Recipe:
        """The same recipe with `rules`, a pattern each, before its own."""
        overrides = tuple(f"{rule.match[0]}={rule.format}" for rule in rules)
        return replace(self, rules=(*rules, *self.rules), overrides=overrides)


def _decision(rule: Rule, site: Site) -> Decision:
    decision = fitting(rule.format, site)
    if rule.exact and decision.fallback:
        raise RecipeError(
            f"{rule.origin} gives {site.name} the format {rule.format}, but its {decision.fallback}; "
            f"choose another format for it, {decision.format} for instance."
        )
    return Decision(decision.format, decision.fallback, rule)


@cache
def fallbacks() -> Mapping[str, str]:
    """Format -> the one that is taken when a width is not a multiple of its span, as llama.cpp does."""
    text = (resources.files("fewbits.planning") / "fallbacks.toml").read_text(encoding="utf-8")
    return MappingProxyType(tomllib.loads(text)["fallbacks"])


def fitting(name: str, site: Site) -> Decision:
    """`name` where the site's width allows it, else its fallbacks in turn; F16 fits every width."""
    chosen = current = formats.get(name)
    while not formats.fits(current, site.cols):
        current = formats.get(fallbacks().get(current.name, "F16"))
    if current is chosen:
        return Decision(chosen.name)
    why = f"width {site.cols} is not a multiple of {chosen.span}, the span of {chosen.name}"
    return Decision(current.name, why)
