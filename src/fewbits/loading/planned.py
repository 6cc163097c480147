"""Which format each weight of a network gets that is quantized while it is loaded, and in which dialect it is saved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import torch

from fewbits import planning
from fewbits.assignment import Assignment, assign
from fewbits.checkpoints import dialects
from fewbits.checkpoints.dialects import OWN, Dialect, require_held
from fewbits.checkpoints.fields import PLAIN, Matrix
from fewbits.choosing import require_legal
from fewbits.errors import CheckpointError, LoadingError
from fewbits.layers.finding import Found, Network, find
from fewbits.layers.in_place import way_in_memory
from fewbits.layers.modules import Conv1D, kind_of
from fewbits.planning import Recipe
from fewbits.reporting.record import PlannedTensor
from fewbits.targets import DirectoryTarget

if TYPE_CHECKING:
    from fewbits.loading.config import Config

PREFERRED = ("compressed-tensors", "bitsandbytes", "fp8", "gptq", "awq", "torchao")
"""Dialects that transformers loads without us, those first whose readers need least."""


@dataclass(frozen=True)
class Plan:
    """The decision for every weight of a network."""

    tensors: Mapping[str, tuple[Found, PlannedTensor]]
    """Parameter of each module that uses it -> the weight."""
    dialect: str
    notes: tuple[str, ...]


def plan(network: Any, config: Config) -> Plan:
    """What happens to the weights of `network`, which may have no memory; a FewbitsError where that is not possible."""
    recipe = planning.get(config.recipe)
    with _with_weights(network):
        found = _without(find(network), config.modules_to_not_convert)
        own = planning.parse_overrides(found.patterns(config.tensors))
        name, assignment = _assigned(found, recipe.with_overrides(own), config)
    pairs = zip(found.found, assignment.tensors, strict=True)
    chosen = {f"{user}.weight": (f, t) for f, t in pairs if t.format not in PLAIN for user in f.users}
    if not chosen:
        raise LoadingError(f"{config.recipe} quantizes nothing of a {type(network).__name__}; take another recipe.")
    left = found.left[0] if len(found.left) == 1 else f"{len(found.left)} parameters ({', '.join(found.left[:1])}, ...)"
    notes = (f"{left} stay as they are: no module that is quantized has them.",) if found.left else ()
    return Plan(chosen, name, (*assignment.notes, *notes))


def _assigned(found: Network, recipe: Recipe, config: Config) -> tuple[str, Assignment]:
    """The dialect that was asked for, or the first that holds all matrices, and what each of them is there."""
    if config.dialect is not None:
        return config.dialect, _assigned_in(config.dialect, found, recipe, config)
    for name in (recipe.dialect, *PREFERRED) if recipe.dialect else PREFERRED:
        try:
            return name, _assigned_in(name, found, recipe, config)
        except CheckpointError:
            continue  # this dialect does not hold one of them
    return OWN, _assigned_in(OWN, found, recipe, config)


def _assigned_in(name: str, found: Network, recipe: Recipe, config: Config) -> Assignment:
    """Formats by `recipe` as the dialect `name` has them; raises CheckpointError where it cannot hold one."""
    dialect = None if name == OWN else dialects.get(name)
    target = DirectoryTarget(dialect)
    named, notes = recipe.renamed(target.own_formats)
    way = way_in_memory(named, config.method, 0)
    assignment = assign(found.conversion(), named, way.method, None, target)
    require_legal(way, named, assignment.tensors, target.refuses_inputs)
    if dialect is not None:
        _require_held(dialect, found, assignment)
    used = {t.format for t in assignment.tensors} & {*target.own_formats.values()}
    return replace(assignment, notes=(*(notes if used else ()), *assignment.notes))


def _require_held(dialect: Dialect, found: Network, assignment: Assignment) -> None:
    matrices = [
        Matrix(f.own, t.format, t.shape, t.activation, transposed=kind_of(f.modules[0]) is Conv1D)
        for f, t in zip(found.found, assignment.tensors, strict=True)
    ]
    require_held(dialect, matrices)
    dialect.configuration([m for m in matrices if m.format not in PLAIN], [])  # which may refuse several formats


def _without(found: Network, patterns: list[str]) -> Network:
    """The network less the weights of modules that match a pattern, or lie in one that does."""
    kept = tuple(f for f in found.found if not any(_matches(user, p) for user in f.users for p in patterns))
    return replace(found, found=kept)


def _matches(module: str, pattern: str) -> bool:
    parts = module.split(".")
    inside = any(".".join(parts[: n + 1]) == pattern for n in range(len(parts)))
    return inside or module.endswith(f".{pattern}") or fnmatchcase(module, pattern)


@contextmanager
def _with_weights(network: Any) -> Iterator[None]:
    """`network` with weights that have a number each, so that it looks like one that is loaded; put back afterwards."""
    kept = [(m, n, p) for m in network.modules() for n, p in m._parameters.items() if p is not None and p.is_meta]
    with torch.device("cpu"):  # transformers makes networks where nothing has memory
        stubs = {id(p): torch.nn.Parameter(torch.empty((), dtype=p.dtype).expand(p.shape), False) for _, _, p in kept}
    for target, source in network.all_tied_weights_keys.items():  # which transformers ties when all is loaded
        stubs[id(network.get_parameter(target))] = stubs[id(network.get_parameter(source))]
    for module, name, parameter in kept:
        module._parameters[name] = stubs[id(parameter)]
    try:
        yield
    finally:
        for module, name, parameter in kept:
            module._parameters[name] = parameter
