"""Which mix a GGUF file is: what it says of itself, checked against what the recipe of that name would choose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fewbits import planning
from fewbits.checkpoints.base import Conversion, Placement, StoredTensor, Value
from fewbits.errors import FewbitsError
from fewbits.planning import Recipe
from fewbits.sites import Site, find_sites

CUSTOM = "custom"
_GUESSED = 1024
"""llama.cpp adds this to a file type that it guessed from the tensors."""


@dataclass(frozen=True)
class Difference:
    """A tensor in another format than the recipe would choose for it."""

    tensor: str
    format: str
    expected: str


@dataclass(frozen=True)
class Mix:
    """What a file is called, and by whom."""

    name: str
    """A recipe whose every choice the file agrees with, or "custom"."""
    stated: str | None
    """What the file says of itself ("Q4_K_M"), true or not; None where it says nothing that is known."""
    nearest: str | None
    """For a custom mix, the recipe that it differs from least."""
    differences: tuple[Difference, ...]
    """Where a custom mix differs from it."""

    def to_json(self) -> dict[str, Any]:
        """The mix as plain data."""
        return {**asdict(self), "differences": [asdict(difference) for difference in self.differences]}


def find_mix(architecture: str, metadata: Mapping[str, Value], tensors: tuple[StoredTensor, ...]) -> Mix | None:
    """The mix of a file's tensors; None where no matrix is of a kind that recipes speak of.

    The recipe that the file names comes first; then any other that chooses the same format for every matrix. Some
    recipes choose otherwise with an importance matrix, and such a file says that there was one.
    """
    placements = tuple(Placement(tensor.name, tensor) for tensor in tensors)
    sites = find_sites(Conversion(architecture, metadata, placements, ()))
    stored = {t.name: t.format for t in tensors if sites[t.name].kind != "kept"}
    if not stored:
        return None
    stated = _stated(metadata)
    said = stated.removeprefix("MOSTLY_").removeprefix("ALL_") if stated else None
    most = Counter(stored.values()).most_common(1)[0][0]
    known = [planning.recipes().get(name) for name in planning.recipes()]
    # Several recipes may share a file type: Q4_K_L is written as Q4_K_M.
    recipes = sorted(known, key=lambda r: (r.file_type != stated, r.name != said, r.nominal != most))
    weighed = "quantize.imatrix.file" in metadata
    found: dict[str, tuple[Difference, ...]] = {}
    for recipe in recipes:
        differences = _differences(recipe, sites, stored, weighed)
        if differences == ():
            return Mix(recipe.name, said, None, ())
        if differences is not None:
            found[recipe.name] = differences
    # A file that names its mix differs from that one, whatever others are nearer.
    named = next((recipe.name for recipe in recipes if recipe.file_type == stated and recipe.name in found), None)
    nearest = named or min(found, key=lambda name: len(found[name]))
    return Mix(CUSTOM, said, nearest, found[nearest])


def _stated(metadata: Mapping[str, Value]) -> str | None:
    """The file type in the metadata, as ggml names it."""
    from gguf import LlamaFileType

    number = metadata.get("general.file_type")
    if number is None or not isinstance(number.value, int):
        return None
    types = {int(kind): kind.name for kind in LlamaFileType}
    return types.get(number.value, types.get(number.value - _GUESSED))


def _differences(
    recipe: Recipe, sites: Mapping[str, Site], stored: Mapping[str, str], weighed: bool
) -> tuple[Difference, ...] | None:
    """Where the file differs from `recipe`; None where the recipe cannot decide for such a model."""
    try:
        chosen = {name: recipe.decide(sites[name], importance=weighed).format for name in stored}
    except FewbitsError:
        return None
    return tuple(Difference(name, stored[name], chosen[name]) for name in stored if stored[name] != chosen[name])
