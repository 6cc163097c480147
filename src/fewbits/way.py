"""How codes are chosen, by one name: transforms, then a method, as in "awq+gptq"."""

from __future__ import annotations

from dataclasses import dataclass

from fewbits import methods, transforms
from fewbits.errors import RecipeError
from fewbits.methods import Method
from fewbits.transforms import Transform

PLAIN = "nearest"
"""The method that a transform alone stands for: its columns are scaled, then rounded to nearest."""


@dataclass(frozen=True)
class Way:
    """Transforms, in their order, and a method."""

    transforms: tuple[Transform, ...]
    method: Method

    @property
    def name(self) -> str:
        """What cards and previews call it; `way` makes it of that again."""
        return "+".join((*(t.name for t in self.transforms), self.method.name))

    @property
    def reads_text(self) -> bool:
        """Whether anything is to be measured."""
        return bool(self.method.needs) or any(t.needs for t in self.transforms)


def way(name: str) -> Way:
    """The way called `name`; raises RecipeError, naming what is known.

    >>> way("awq+gptq").name, way("awq").name, way("nearest").reads_text
    ('awq+gptq', 'awq+nearest', False)
    """
    *before, last = (part.strip() for part in name.split("+"))
    if last in transforms.TRANSFORMS:
        before, last = [*before, last], PLAIN
    method = methods.get(last)
    found = tuple(transforms.get(part) for part in before)
    unmeasured = [t.name for t in found if not t.needs <= {"hessian"}]
    if unmeasured:
        raise RecipeError(
            f"the transform {unmeasured[0]} weighs the rounding of activations, which no file made here has; take awq."
        )
    return Way(found, method)
