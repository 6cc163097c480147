"""How codes are chosen, by one name: a rotation, transforms, then a method, as in "hadamard+gptq" or "awq+gptq"."""

from __future__ import annotations

from dataclasses import dataclass

from fewbits import methods, transforms
from fewbits.errors import RecipeError
from fewbits.methods import Method
from fewbits.transforms import Hadamard, Transform

PLAIN = "nearest"
"""The method that a transform alone stands for: what it leaves is rounded to nearest."""

BEST = "gptq_search"
"""What is taken where text is given and no method: nearest to the source of those that were measured."""


def asked(method: str | None, *, text: bool) -> str:
    """The name of the way that is taken where `method` was asked for; None leaves it to whether there is `text`.

    >>> asked(None, text=True), asked("awq", text=True), asked(None, text=False)
    ('gptq_search', 'awq', 'nearest')
    """
    return method or (BEST if text else PLAIN)


@dataclass(frozen=True)
class Way:
    """Transforms, in their order, and a method; before them, where there is one, a rotation of the whole model."""

    transforms: tuple[Transform, ...]
    method: Method
    rotation: Hadamard | None = None

    @property
    def name(self) -> str:
        """What cards and previews call it; `way` makes it of that again."""
        before = (self.rotation,) if self.rotation else ()
        return "+".join(part.name for part in (*before, *self.transforms, self.method))

    @property
    def reads_text(self) -> bool:
        """Whether anything is to be measured."""
        return bool(self.method.needs) or any(t.needs for t in self.transforms)


def way(name: str, seed: int = 0) -> Way:
    """The way called `name`, its rotation by `seed`; raises RecipeError, naming what is known.

    >>> way("awq+gptq").name, way("awq").name, way("nearest").reads_text
    ('awq+gptq', 'awq+nearest', False)
    >>> way("hadamard").name, way("hadamard").reads_text
    ('hadamard+nearest', False)
    """
    *before, last = (part.strip() for part in name.split("+"))
    if last in transforms.TRANSFORMS or last in transforms.ROTATIONS:
        before, last = [*before, last], PLAIN
    method = methods.get(last)
    rotation = transforms.ROTATIONS.get(before.pop(0))(seed) if before and before[0] in transforms.ROTATIONS else None
    late = [part for part in before if part in transforms.ROTATIONS]
    if late:
        raise RecipeError(f"{late[0]} turns the whole model before anything is measured, so it comes first, and once.")
    found = tuple(transforms.get(part) for part in before)
    unmeasured = [t.name for t in found if not t.needs <= {"hessian"}]
    if unmeasured:
        raise RecipeError(
            f"the transform {unmeasured[0]} weighs the rounding of activations, which no file made here has; take awq."
        )
    return Way(found, method, rotation)
