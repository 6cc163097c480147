"""Which format each tensor gets."""

from __future__ import annotations

from fewbits.planning.recipe import Decision, Recipe, Rule, get, recipes

__all__ = ["Decision", "Recipe", "Rule", "get", "recipes"]
