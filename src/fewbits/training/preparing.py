"""A network made ready for training with quantization: where it stands, each weight in the format of a recipe."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from fewbits import planning
from fewbits.assignment import Assignment, assign
from fewbits.errors import CheckpointError, TrainingError
from fewbits.layers.finding import Found, Network, find
from fewbits.layers.in_place import InPlace
from fewbits.layers.places import as_matrix, is_convolution, multiplies
from fewbits.methods import get as method_of
from fewbits.reporting.record import PlannedTensor
from fewbits.training.fake.batch_norm import freeze_batch_norm
from fewbits.training.fake.inputs import DynamicInputs, StaticInputs, inputs_of
from fewbits.training.fake.matrix import FakeMatrix
from fewbits.training.fake.modules import Embedding, kind_of, prepare_module, prepared_in

_LOG = logging.getLogger("fewbits")


@dataclass(frozen=True)
class Plan:
    """What was prepared; on the network as `fewbits_plan`."""

    recipe: str
    formats: Mapping[str, str]
    """Weight -> its format."""
    activations: Mapping[str, str]
    """Weight -> how what it multiplies is rounded."""
    notes: tuple[str, ...]
    """What stays as it is and why, one sentence each."""


@dataclass(frozen=True)
class _Options:
    activations: str | Mapping[str, str] | None
    delay: int
    freeze_after: int | None
    observer: str
    learn: str


def prepare(
    module: torch.nn.Module,
    recipe: str | Path,
    *,
    activations: str | Mapping[str, str] | None = None,
    tensors: Mapping[str, str] | Iterable[str] = (),
    delay: int = 0,
    freeze_observers_after: int | None = None,
    freeze_batch_norm_after: int | None = None,
    observer: str = "mse",
    learn: str = "auto",
) -> torch.nn.Module:
    """Let Linear, Conv1d, Conv2d, Embedding and Conv1D of `module` compute with what they will be stored as.

    The module itself is changed and returned: classes become subclasses, weights stay the parameters that they are,
    under their names, so that any loop trains it, and `convert` packs what came of it. `recipe` and `tensors` are as
    `fewbits.quantize` takes them. `activations` says how inputs of products are rounded: a rounding of activations
    ("int8_token"), a static range ("int4_learned", "int8_moving"), or patterns of modules' names with one each;
    without it as the recipe says. Its static ranges begin where `observer` says, at the first batch or by
    `calibrate`, and stay after `freeze_observers_after` steps, as statistics of batch normalization do after
    `freeze_batch_norm_after`. For `delay` steps nothing is rounded. `learn` is "auto" (scales are learned where
    the format has some that can be), "steps" (all have to be) or "none". Raises TrainingError, RecipeError or
    FormatError and leaves the module as it was.

    >>> net = prepare(torch.nn.Sequential(torch.nn.Linear(64, 8)), "int4_row_sym")
    >>> net(torch.ones(1, 64)).sum().backward()
    >>> net[0].weight.grad is not None, net.fewbits_plan.formats
    (True, {'0.weight': 'int4_row_sym'})
    """
    found = _found(module)
    own = _pairs(tensors)
    asked = planning.get(recipe).with_overrides(planning.parse_overrides(found.patterns(own)))
    assignment = assign(found.conversion(), asked, method_of("nearest"), None, InPlace())
    options = _Options(activations, delay, freeze_observers_after, observer, learn)
    works = [
        _Work.of(each, planned, options)
        for each, planned in zip(found.found, assignment.tensors, strict=True)
        if planned.format != planned.source_format and _is_prepared(each)
    ]
    if not works:
        raise TrainingError(f"{asked.name} rounds nothing of a {type(module).__name__}; take another recipe.")
    if freeze_batch_norm_after is not None:
        freeze_batch_norm(module, after=freeze_batch_norm_after)
    plan = _plan(asked.name, works, found, assignment)
    for work in works:
        work.done()
    module.__dict__["fewbits_plan"] = plan
    for note in plan.notes:
        _LOG.warning(note)
    return module


def calibrate(module: torch.nn.Module, batches: Iterable[Any]) -> torch.nn.Module:
    """Let static ranges of a prepared `module` be those of `batches`: tensors, tuples or dicts of what it takes.

    Raises TrainingError where there is no batch, or no static range.
    """
    watching = [m for m in module.modules() if isinstance(m, StaticInputs)]
    if not watching:
        raise TrainingError("no inputs of this module have a static range; prepare it with activations='int8_learned'.")
    for each in watching:
        each.watch()
    training, count = module.training, 0
    module.eval()
    with torch.no_grad():
        for batch in batches:
            count += 1
            _call(module, batch)
    module.train(training)
    if not count:
        raise TrainingError("there is no batch to calibrate with.")
    for each in watching:
        each.settle()
    return module


def _call(module: torch.nn.Module, batch: Any) -> None:
    if isinstance(batch, Mapping):
        module(**batch)
    elif isinstance(batch, torch.Tensor):
        module(batch)
    else:
        module(*batch)


def parameter_groups(
    module: torch.nn.Module, rate: float, steps_rate: float, decay: float = 0.0
) -> list[dict[str, Any]]:
    """Parameters of a prepared `module` for an optimizer: scales and zero points, which do not decay, and the rest.

    >>> net = prepare(torch.nn.Sequential(torch.nn.Linear(64, 8)), "int4_row_sym")
    >>> [(len(group["params"]), group["lr"]) for group in parameter_groups(net, 1e-4, 1e-3)]
    [(2, 0.0001), (1, 0.001)]
    """
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    moves = [p for name, p in named if name.endswith("_move")]
    rest = [p for name, p in named if not name.endswith("_move")]
    groups = [
        {"params": rest, "lr": rate, "weight_decay": decay},
        {"params": moves, "lr": steps_rate, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


@dataclass(frozen=True)
class _Work:
    """One weight, and what will round it and its inputs."""

    found: Found
    planned: PlannedTensor
    fake: FakeMatrix
    inputs: str | None
    options: _Options

    @staticmethod
    def of(found: Found, planned: PlannedTensor, options: _Options) -> _Work:
        """What is made for one weight, before anything is changed."""
        w = as_matrix(found.modules[0])
        if not bool(torch.isfinite(w).all()):
            raise TrainingError(f"{found.own} holds NaN or infinite numbers; training cannot start from it.")
        fake = FakeMatrix(planned.format, w, learn=options.learn, delay=options.delay).to(w.device)
        inputs = _inputs(found, planned, options.activations)
        if inputs is not None:
            asked = inputs_of(inputs, options.observer, 0, None)  # which refuses what is none
            if isinstance(asked, DynamicInputs) and not any(multiplies(module) for module in found.modules):
                inputs = None
        return _Work(found, planned, fake, inputs, options)

    def done(self) -> None:
        """Change the modules."""
        options = self.options
        for place, module in enumerate(self.found.modules):
            rounding = None
            looked_up = kind_of(module) is Embedding
            if self.inputs is not None and not looked_up:
                rounding = inputs_of(self.inputs, options.observer, options.delay, options.freeze_after)
                rounding.to(self.fake.get_buffer("calls").device)
            prepare_module(module, self.fake, rounding, shared=place > 0)


def _inputs(found: Found, planned: PlannedTensor, asked: str | Mapping[str, str] | None) -> str | None:
    if asked is None:
        return planned.activation
    if isinstance(asked, str):
        return asked
    hits = [name for pattern, name in asked.items() if any(fnmatchcase(user, pattern) for user in found.users)]
    return hits[0] if hits else None


def _is_prepared(found: Found) -> bool:
    return all(kind_of(module) is not None for module in found.modules)


def _found(module: torch.nn.Module) -> Network:
    if not isinstance(module, torch.nn.Module):
        raise TrainingError(f"what is trained is a torch module, and this is a {type(module).__name__}.")
    if next(prepared_in(module), None) is not None:
        raise TrainingError(f"{type(module).__name__} is prepared already; convert it, or take a new one.")
    try:
        return find(module)
    except CheckpointError as error:
        raise TrainingError(str(error)) from None


def _pairs(tensors: Mapping[str, str] | Iterable[str]) -> dict[str, str]:
    if isinstance(tensors, Mapping):
        return dict(tensors)
    pairs = (each.rpartition("=") for each in tensors)
    return {pattern: name for pattern, _, name in pairs}


def _plan(recipe: str, works: list[_Work], network: Network, assignment: Assignment) -> Plan:
    left = [each.own for each in network.found if not _is_prepared(each)] + list(network.left)
    more = f" and {len(left) - 1} more" if len(left) > 1 else ""
    notes = [f"{left[0]}{more} are trained as they are: no module that is prepared has them."] if left else []
    plain = [w for w in works if w.inputs is None and _inputs(w.found, w.planned, w.options.activations) is not None]
    whole = [w.found.own for w in plain if is_convolution(w.found.modules[0])]
    if whole:
        more = f" and {len(whole) - 1} more" if len(whole) > 1 else ""
        notes.append(f"{whole[0]}{more}: convolutions get their inputs as they are; a static range rounds them.")
    return Plan(
        recipe,
        {work.found.own: work.fake.format for work in works},
        {work.found.own: work.inputs for work in works if work.inputs is not None},
        (*assignment.notes, *notes),
    )
