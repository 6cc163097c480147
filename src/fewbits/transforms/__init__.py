"""Exact rewrites of a model before its weights are rounded; adding one that scales groups is a file and a line here.

Transforms rewrite group after group while a model is walked; rotations the whole model before anything looks at it.
"""

from __future__ import annotations

from collections.abc import Callable

from fewbits.errors import RecipeError
from fewbits.registry import Registry
from fewbits.transforms.awq import AWQ
from fewbits.transforms.base import Transform
from fewbits.transforms.edits import Edits
from fewbits.transforms.groups import Group, Stream, groups_of, stream_of
from fewbits.transforms.hadamard import Hadamard
from fewbits.transforms.outliers import OutlierSplit, split, taken_out
from fewbits.transforms.smooth import Smooth

__all__ = [
    "ROTATIONS",
    "SPLITS",
    "TRANSFORMS",
    "Edits",
    "Group",
    "Hadamard",
    "OutlierSplit",
    "Stream",
    "Transform",
    "get",
    "groups_of",
    "split",
    "stream_of",
    "taken_out",
]

TRANSFORMS: Registry[Transform] = Registry("transform", RecipeError)
for _transform in (Smooth(), AWQ()):
    TRANSFORMS.add(_transform.name, _transform)


ROTATIONS: Registry[Callable[[int], Hadamard]] = Registry("rotation", RecipeError)
"""Name -> the rotation by a seed."""
ROTATIONS.add("hadamard", lambda seed: Hadamard(seed=seed))

SPLITS: Registry[OutlierSplit] = Registry("outlier split", RecipeError)
SPLITS.add("outliers", OutlierSplit())

_NAMES: Registry[str] = Registry("transform", RecipeError)
for _name in (*TRANSFORMS, *ROTATIONS, *SPLITS):
    _NAMES.add(_name, _name)


def get(name: str) -> Transform:
    """The transform of groups called `name`; raises RecipeError, naming the nearest known names, rotations too."""
    return TRANSFORMS.get(_NAMES.get(name))
