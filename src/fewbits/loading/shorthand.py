"""What users call a format when they load a model, as the name of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from fewbits import planning
from fewbits.errors import RecipeError

_GROUP = 64
"""bitsandbytes' columns per scale."""
_WHOLE_GROUP = 128
"""GPTQ's and AWQ's."""


def _codebook(name: str, size: int | None, symmetric: bool, doubled: bool) -> str:
    return f"{name}_g{size or _GROUP}{'_dq' if doubled else ''}"


def _whole(bits: int) -> Callable[[int | None, bool, bool], str]:
    def name(size: int | None, symmetric: bool, doubled: bool) -> str:
        kind = "sym" if symmetric else "asym"
        return f"{'' if symmetric else 'u'}int{bits}_g{size or _WHOLE_GROUP}_{kind}{'_dq' if doubled else '_f16'}"

    return name


def _bytes(size: int | None, symmetric: bool, doubled: bool) -> str:
    if size or doubled or not symmetric:
        return _whole(8)(size, symmetric, doubled)
    return "int8_row_sym"


_SHORT: Mapping[str, Callable[[int | None, bool, bool], str]] = MappingProxyType(
    {
        "nf4": lambda size, symmetric, doubled: _codebook("nf4", size, symmetric, doubled),
        "fp4": lambda size, symmetric, doubled: _codebook("fp4_bnb", size, symmetric, doubled),
        "int2": _whole(2),
        "int3": _whole(3),
        "int4": _whole(4),
        "int8": _bytes,
        "fp8": lambda size, symmetric, doubled: "fp8_e4m3_row",
    }
)
"""Short name -> the format's, of columns per scale, symmetry, and whether scales are quantized too."""


def recipe_name(recipe: str, *, group_size: int | None, symmetric: bool, double_quant: bool) -> str:
    """The recipe that is meant; raises RecipeError where there is none, or a full name leaves no choice of options.

    >>> recipe_name("int4", group_size=None, symmetric=False, double_quant=False)
    'uint4_g128_asym_f16'
    """
    short = _SHORT.get(recipe.lower())
    if short is not None:
        name = short(group_size, symmetric, double_quant)
    elif group_size is not None or double_quant or not symmetric:
        raise RecipeError(
            f"group_size, symmetric and double_quant complete {', '.join(_SHORT)}, and {recipe!r} is none of these; "
            "leave them out, or take one."
        )
    else:
        name = recipe
    planning.get(name)
    return name
