"""Which format each tensor gets."""

from __future__ import annotations

from fewbits.planning.library import get, recipes
from fewbits.planning.recipe import Decision, Recipe
from fewbits.planning.rule import Rule

__all__ = ["Decision", "Recipe", "Rule", "get", "recipes"]
