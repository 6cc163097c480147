"""Which way codes are chosen: what the user asked for, what the recipe says, or what the text allows."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from fewbits import formats
from fewbits.checkpoints.fields import PLAIN
from fewbits.errors import RecipeError
from fewbits.formats import is_row_format
from fewbits.planning import Recipe
from fewbits.reporting.record import PlannedTensor
from fewbits.way import Way, asked, way


def choose(recipe: Recipe, method: str | None, *, text: bool, seed: int = 0) -> Way:
    """The way of `method`, which may not be another than the recipe's own; `text` says whether text was given.

    >>> from fewbits import planning
    >>> choose(planning.get("awq"), None, text=False).name
    'awq+nearest'
    """
    if method and recipe.method and way(method).name != way(recipe.method).name:
        others = f"--to {recipe.nominal}" if not recipe.activations else "a recipe without a method, as w8a8"
        raise RecipeError(
            f"the recipe {recipe.name} chooses codes by {way(recipe.method).name}, and --method says {method}; leave "
            f"--method out, or take {others}."
        )
    return way(asked(method or recipe.method or None, text=text), seed)


def require_legal(
    chosen: Way,
    recipe: Recipe,
    tensors: Iterable[PlannedTensor],
    refuses_inputs: Callable[[str], str | None],
) -> None:
    """Refuse a way that these `tensors`, or the container that `refuses_inputs`, cannot have; raises RecipeError."""
    matrices = [t for t in tensors if t.quantizable and t.format not in PLAIN]
    if chosen.weighs_activations and not any(t.activation for t in matrices):
        raise RecipeError(
            f"the transform {chosen.weighs_activations} weighs the rounding of activations, and {recipe.name} rounds "
            "none; take awq, or a recipe that rounds them, as --to smoothquant."
        )
    if chosen.split is None:
        return
    if refused := refuses_inputs(f"the method {chosen.name} keeps columns in 16 bits, with inputs of their own"):
        raise RecipeError(refused)
    rows = next((t for t in matrices if is_row_format(formats.get(t.format))), None)
    if rows:
        raise RecipeError(
            f"{chosen.name} keeps columns in 16 bits beside a matrix's fields, and {rows.name} as {rows.format} is one "
            "string of bytes per row; take a format with fields, int8_row_sym for instance."
        )
