"""Which format each tensor gets."""

from __future__ import annotations

from fewbits.planning.library import algorithms, get, recipes
from fewbits.planning.overrides import parse_overrides, require_meaning
from fewbits.planning.recipe import Decision, Recipe
from fewbits.planning.rule import Rule
from fewbits.planning.wanting import wants_importance

__all__ = [
    "Decision",
    "Recipe",
    "Rule",
    "algorithms",
    "get",
    "parse_overrides",
    "recipes",
    "require_meaning",
    "wants_importance",
]
