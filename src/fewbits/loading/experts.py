"""Stacks of experts taken apart where the checkpoint has every expert's matrices, so that these stay packed."""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping
from types import MappingProxyType
from typing import Any

import torch

from fewbits.checkpoints.fields import StoredMatrix
from fewbits.layers.experts import DOWN, GATE_AND_UP, PARTS, in_place_of, why_not
from fewbits.loading.pieces import Made, Piece, is_quantized, is_turned, stays_packed

_NAME = re.compile(r"(?P<stem>.+\.experts)\.(?P<number>\d+)\.(?P<part>\w+)\.weight")
_PARTS = MappingProxyType({**{part: part for part in PARTS}, "w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"})
"""What checkpoints call an expert's matrices (Mixtral: w1, w3, w2) -> what networks do."""
_STEMS = MappingProxyType({".block_sparse_moe.": ".mlp."})
"""Of what checkpoints call a layer -> what networks do."""


def unstack(
    network: Any, pieces: MutableMapping[str, Piece], apart: Mapping[str, StoredMatrix], dtype: torch.dtype
) -> tuple[str, ...]:
    """Put layers in the place of stacks whose experts can all stay packed, and their matrices, by the names of these
    layers, into `pieces`; why other stacks of quantized experts are decoded, a sentence each.

    `apart` has matrices of experts that the checkpoint holds as stacks too, by the names that the layers have.
    """
    named = _by_own_names(pieces)
    prefix, reasons = f"{network.base_model_prefix}.", dict[str, str]()
    for name, module in list(network.named_modules()):
        why = why_not(module)
        if why == "":
            continue
        count, hidden, width = module.get_parameter(DOWN).shape
        shapes = {"gate_proj": (width, hidden), "up_proj": (width, hidden), "down_proj": (hidden, width)}
        wanted = {f"{name}.{e}.{part}.weight": shapes[part] for e in range(count) for part in PARTS}
        found = {own: _one_of(own, prefix, named, pieces, apart) for own in wanted}
        packed = {own: piece for own, (_, piece) in found.items() if _stays(piece, wanted[own], dtype)}
        if why is None and len(packed) == len(wanted):
            for own in (*(each for each, _ in found.values()), f"{name}.{GATE_AND_UP}", f"{name}.{DOWN}"):
                pieces.pop(own, None)
            pieces.update(packed)
            network.set_submodule(name, in_place_of(module))
        elif any(piece is not None and is_quantized(piece) for _, piece in found.values()):
            reasons.setdefault(why or "its experts' matrices are not all stored each by itself", name)
    return tuple(f"The experts of {name} are decoded: {why}." for why, name in reasons.items())


def _stays(piece: Piece | None, shape: tuple[int, int], dtype: torch.dtype) -> bool:
    if piece is None or isinstance(piece, Made) or is_turned(piece):
        return False
    return tuple(piece.shape) == shape and stays_packed(piece, dtype)


def _one_of(
    own: str,
    prefix: str,
    named: Mapping[str, str],
    pieces: Mapping[str, Piece],
    apart: Mapping[str, StoredMatrix],
) -> tuple[str, Any]:
    """The name and the piece of an expert's matrix, with or without the prefix of the base model; None for no piece."""
    for each in (own, prefix + own, own.removeprefix(prefix)):
        if each in named:
            return named[each], pieces[named[each]]
    return own, apart.get(own)


def _by_own_names(pieces: Mapping[str, Piece]) -> dict[str, str]:
    """What networks call the matrices of experts -> what the checkpoint does."""
    found = {}
    for name in pieces:
        match = _NAME.fullmatch(name)
        if match and match["part"] in _PARTS:
            stem = match["stem"]
            for theirs, ours in _STEMS.items():
                stem = stem.replace(theirs, ours)
            found[f"{stem}.{match['number']}.{_PARTS[match['part']]}.weight"] = name
    return found
