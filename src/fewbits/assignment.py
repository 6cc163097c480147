"""Which format each tensor of a source gets, before any weight is read: recipe, overrides, importance and refusals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from fewbits import activations, formats, kernels
from fewbits.checkpoints.base import Conversion, Placement
from fewbits.checkpoints.fields import PLAIN
from fewbits.checkpoints.imatrix import Importance, ImportanceMatrix
from fewbits.errors import CheckpointError, RecipeError
from fewbits.formats.fields import stored_bits
from fewbits.methods import Method
from fewbits.planning import Decision, Recipe, require_meaning, wants_importance
from fewbits.qtensor import outlier_shapes
from fewbits.reporting.record import ImportanceUsed, PlannedTensor
from fewbits.sites import Site, find_sites

MAKE_ONE = "make one with llama-imatrix -m MODEL-F16.gguf -f TEXT -o imatrix.gguf and give it with --importance"


@dataclass(frozen=True)
class Assignment:
    """The decision for every tensor, in the order of the target file."""

    tensors: tuple[PlannedTensor, ...]
    importance: Mapping[str, Importance]
    """Target name -> what errors are weighed by; tensors that are not named count evenly."""
    used: ImportanceUsed | None
    notes: tuple[str, ...]


class Container(Protocol):
    """What is asked of the kind of output."""

    def refuses(self, format_name: str) -> str | None:
        """Why tensors of this format cannot be written; None when they can."""

    def refuses_inputs(self, what: str) -> str | None:
        """Why what happens to a matrix's inputs at run time cannot be said there; None when it can."""

    def plain_format(self, placement: Placement) -> str:
        """The format of a tensor that no recipe quantizes."""

    def instead(self, kind: str, format_name: str, placement: Placement) -> tuple[str, str] | None:
        """The format of a matrix of this kind in place of that one, and why; None where it may be that one."""


def assign(
    conversion: Conversion,
    recipe: Recipe,
    method: Method,
    importance: ImportanceMatrix | None,
    container: Container,
    *,
    measured: bool = False,
) -> Assignment:
    """Decide for every tensor of `conversion`; raises FewbitsError where a rule, a format or an importance is amiss.

    `measured` says that text will be looked at, which weighs errors as an importance matrix does: recipes choose as if
    one were given.
    """
    sites = find_sites(conversion)
    require_meaning(recipe.rules, sites.values())
    weights = _weights(sites, importance) if importance else {}
    tensors = []
    for placement in conversion.placements:
        site = sites[placement.name]
        tensors.append(
            _plan(
                placement,
                site,
                recipe,
                method,
                container,
                given=measured or importance is not None,
                weighed=site.name in weights,
            )
        )
    weighed = [t for t in tensors if t.weighed]
    used = None
    if importance:
        used = ImportanceUsed(str(importance.path), importance.text, importance.chunks, len(weights), len(weighed))
    return Assignment(
        tensors=tuple(tensors),
        importance={t.name: weights[t.name] for t in weighed},
        used=used,
        notes=(*([] if measured else _wanting(tensors, sites, recipe)), *_gaps(tensors, importance, weights)),
    )


def _weights(sites: Mapping[str, Site], importance: ImportanceMatrix) -> dict[str, Importance]:
    found = {}
    for name, site in sites.items():
        # As in llama.cpp, an entry for an embedding of another size is no sign of another model.
        embedding = site.kind == "token_embd" and name in importance.entries
        if embedding and importance.entries[name].sums.size != site.cols:
            continue
        rows = importance.of(name, site.shape) if site.kind != "kept" else None
        if rows is not None:
            found[name] = rows
    if not found:
        known = next(iter(importance.entries), "nothing")
        raise CheckpointError(
            f"{importance.path} names no tensor of this model (it knows {known}, for instance); it was measured on "
            "another one."
        )
    return found


def _plan(
    placement: Placement,
    site: Site,
    recipe: Recipe,
    method: Method,
    container: Container,
    *,
    given: bool,
    weighed: bool,
) -> PlannedTensor:
    stored = placement.source
    quantizable = site.kind != "kept"
    fallback = chosen_by = activation = None
    if quantizable:
        decision = recipe.decide(site, importance=given)
        format_name, fallback = decision.format, decision.fallback
        chosen_by = (decision.rule.origin if decision.rule else "") or None
        activation = activation_of(decision, site)
        if kept := container.instead(site.kind, format_name, placement):
            format_name, fallback = kept
            activation = None
    else:
        format_name = container.plain_format(placement)
    refused = container.refuses_inputs(f"the recipe {recipe.name} rounds activations") if activation else None
    if refused:
        raise RecipeError(refused)
    refused = container.refuses(format_name)
    if refused:
        raise CheckpointError(f"tensor {site.name} cannot be {format_name} in a GGUF file: {refused}.")
    return PlannedTensor(
        name=placement.name,
        source_name=stored.name,
        shape=stored.shape,
        source_format=stored.format,
        format=format_name,
        method=method.name if quantizable else "kept",
        nominal=format_name == recipe.nominal,
        quantizable=quantizable,
        fallback=fallback,
        bytes_in=stored.bytes,
        bytes_out=formats.bits(formats.get(format_name), stored.rows, stored.cols) // 8,
        chosen_by=chosen_by,
        weighed=weighed and quantizable and format_name in kernels.weighted_formats(),
        activation=activation,
    )


def with_outliers(planned: PlannedTensor, columns: int) -> PlannedTensor:
    """The same tensor with so many columns in 16 bits."""
    rows = planned.parameters // planned.shape[-1]
    shapes = outlier_shapes(rows, columns)
    return replace(planned, outliers=columns, bytes_out=planned.bytes_out + stored_bits(shapes) // 8)


def activation_of(decision: Decision, site: Site) -> str | None:
    """How the inputs of `site` are rounded: those of a layer's matrices, unless they stay in 16 or 32 bits.

    The embedding is looked up, and the output matrix, which every token's probability passes through, gets its inputs
    as they are. Raises RecipeError for experts, whose inputs no evaluation here can round yet.
    """
    stated = decision.rule.activation if decision.rule else ""
    if not stated or site.kind in {"token_embd", "output"} or decision.format in PLAIN:
        return None
    if site.model.experts:
        raise RecipeError(
            f"tensor {site.name} belongs to a model with experts, whose rounding of inputs cannot be evaluated yet; "
            "take a recipe that rounds no activations."
        )
    rounding = formats.get(activations.get(stated).format)
    if not formats.fits(rounding, site.cols):
        raise RecipeError(
            f"tensor {site.name} has {site.cols} inputs, and {stated} rounds {rounding.span} together; take int8_token."
        )
    return stated


def _wanting(tensors: Iterable[PlannedTensor], sites: Mapping[str, Site], recipe: Recipe) -> list[str]:
    """The note about tensors that are poor because nothing weighs their errors."""
    wanting = [t for t in tensors if not t.weighed and wants_importance(recipe.name, t.format, sites[t.name])]
    if not wanting:
        return []
    kinds = ", ".join(dict.fromkeys(t.format for t in wanting))
    note = (
        f"{kinds} wants an importance matrix and {_count(len(wanting), 'tensor')} in it {_have(len(wanting))} none: "
        f"their errors count evenly, where llama-quantize would refuse; {MAKE_ONE}."
    )
    return [note]


def _gaps(
    tensors: Iterable[PlannedTensor], importance: ImportanceMatrix | None, weights: Mapping[str, Importance]
) -> list[str]:
    """Notes about what the importance matrix does not know, and what it knows in vain."""
    if importance is None:
        return []
    notes = []
    weighable = kernels.weighted_formats()
    missing = [t.name for t in tensors if t.quantizable and t.format in weighable and t.name not in weights]
    if missing:
        notes.append(
            f"{importance.path} does not know {_count(len(missing), 'tensor')} ({missing[0]}"
            f"{' and others' if len(missing) > 1 else ''}), whose errors count evenly."
        )
    if not any(t.weighed for t in tensors):
        notes.append(
            "None of these formats searches by importance: the matrix changes at most which formats are chosen."
        )
    strange = [name for name in importance.entries if name not in weights]
    if strange:
        notes.append(
            f"{importance.path} knows {_count(len(strange), 'tensor')} that this model does not have or that stay as "
            f"they are ({strange[0]}{' and others' if len(strange) > 1 else ''})."
        )
    return notes


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _have(number: int) -> str:
    return "has" if number == 1 else "have"
