"""How codes are chosen, by one name: rotation, transforms, outlier split, method, learning: "awq+gptq+learned"."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from itertools import pairwise

from fewbits import methods, transforms
from fewbits.errors import RecipeError
from fewbits.methods import Learned, Method
from fewbits.transforms import Hadamard, OutlierSplit, Transform

PLAIN = "nearest"
"""The method that all the rest alone stands for: what it leaves, or begins with, is rounded to nearest."""

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
    """What is done to the matrices of a model, in the order in which it is done."""

    transforms: tuple[Transform, ...]
    method: Method
    rotation: Hadamard | None = None
    """A rotation of the whole model, before everything else."""
    split: OutlierSplit | None = None
    """Columns that the method does not get: they stay in 16 bits."""
    learned: Learned | None = None
    """What changes the codes of a whole layer after the method."""

    @property
    def name(self) -> str:
        """What cards and previews call it; `way` makes it of that again."""
        parts = (self.rotation, *self.transforms, self.split, self.method, self.learned)
        return "+".join(part.name for part in parts if part)

    @property
    def needs(self) -> frozenset[str]:
        """Names of the statistics that its parts read."""
        parts = (*self.transforms, self.split, self.method, self.learned)
        return frozenset().union(*(part.needs for part in parts if part))

    @property
    def reads_text(self) -> bool:
        """Whether anything is to be measured."""
        return bool(self.needs)

    @property
    def weighs_activations(self) -> str | None:
        """The transform that weighs what rounding the inputs of matrices costs; None where there is none."""
        return next((t.name for t in self.transforms if "inputs" in t.needs), None)


_PLACES: tuple[tuple[str, Container[str]], ...] = (
    ("rotation", transforms.ROTATIONS),
    ("transform", transforms.TRANSFORMS),
    ("split", transforms.SPLITS),
    ("method", methods.METHODS),
    ("learning", methods.LEARNED),
)
"""The kinds of parts in the order of a name; of transforms alone there may be several."""


def way(name: str, seed: int = 0) -> Way:
    """The way called `name`, its rotation by `seed`; raises RecipeError, naming what is known, or the right order.

    >>> way("awq+gptq").name, way("awq").name, way("nearest").reads_text
    ('awq+gptq', 'awq+nearest', False)
    >>> way("hadamard").name, way("hadamard").reads_text, way("outliers").name
    ('hadamard+nearest', False, 'outliers+nearest')
    >>> way("learned").name, way("awq+gptq+learned").name
    ('nearest+learned', 'awq+gptq+learned')
    """
    parts = [part.strip() for part in name.split("+")]
    placed: dict[str, list[str]] = {kind: [] for kind, _ in _PLACES}
    for number, part in enumerate(parts):
        placed[_kind(part, last=number == len(parts) - 1)].append(part)
    _require_order(parts)
    rotation, split, learned = (placed[kind] for kind in ("rotation", "split", "learning"))
    return Way(
        tuple(transforms.get(part) for part in placed["transform"]),
        methods.get((placed["method"] or [PLAIN])[0]),
        transforms.ROTATIONS.get(rotation[0])(seed) if rotation else None,
        transforms.SPLITS.get(split[0]) if split else None,
        methods.LEARNED.get(learned[0]) if learned else None,
    )


def _kind(part: str, *, last: bool) -> str:
    found = next((kind for kind, registry in _PLACES if part in registry), None)
    if found is not None:
        return found
    known: Callable[[str], object] = methods.get if last else transforms.get
    known(part)  # raises, and names what is near
    raise RecipeError(f"{part} is no part of a method; this is a bug.")


def _require_order(parts: list[str]) -> None:
    places = [kind for kind, _ in _PLACES]
    kinds = [_kind(part, last=False) for part in parts]
    for (one, before), (other, after) in pairwise(zip(parts, kinds, strict=True)):
        if after == "rotation":
            raise RecipeError(
                f"{other} turns the whole model before anything is measured, so it comes first, and once."
            )
        if places.index(after) < places.index(before):
            raise RecipeError(f"the {after} {other} comes before the {before} {one}; write {other}+{one}.")
        if before == after and after != "transform":
            raise RecipeError(f"{one} and {other} are both a {after}, of which there is one; leave one of them out.")
