"""Packed matrices put into a network that has no memory yet; whatever has no module of its own is left to others."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fewbits.checkpoints.base import StoredTensor
from fewbits.checkpoints.fields import StoredMatrix
from fewbits.checkpoints.quoting import quoted
from fewbits.errors import LoadingError, RecipeError
from fewbits.layers.matrix import PackedMatrix
from fewbits.layers.modules import Conv1D, kind_of, pack_module
from fewbits.layers.places import as_matrix, multiplies
from fewbits.layers.products import require_known
from fewbits.loading.pieces import Made, Piece, is_turned, packed, stays_packed
from fewbits.mapped import let_go

_LOOKED_AT = 1 << 26
"""Bytes of mapped files after which their pages are given back."""


@dataclass
class Pages:
    """What was looked at of mapped files, so that their pages do not stay beside the copies."""

    files: Iterable[Path]
    seen: int = 0

    def look(self, size: int) -> None:
        """`size` more bytes were read."""
        self.seen += size
        if self.seen >= _LOOKED_AT:
            self.let_go()

    def let_go(self) -> None:
        """Give all pages back."""
        self.seen = 0
        for file in self.files:
            let_go(file)


@dataclass(frozen=True)
class Place:
    """A module that a matrix is for, and those that share it."""

    users: tuple[str, ...]
    shape: torch.Size
    """The weight's own."""
    piece: StoredMatrix | StoredTensor


def make_room(network: Any, pieces: dict[str, Piece], dtype: torch.dtype) -> list[Place]:
    """Take the weights of modules that can hold packed matrices out of `network`, and these matrices out of `pieces`.

    What stays in `pieces` has no module, another shape, or numbers as wide as `dtype`. transformers gives everything
    that a network has and no checkpoint brings new memory, so that matrices come in when it is done: see `fill`.
    """
    found = []
    tied = _tied(network, pieces)
    for name, piece in list(pieces.items()):
        module = module_for(network, name)
        if module is None or isinstance(piece, Made) or not _fits(network.get_submodule(module), piece):
            continue
        if not stays_packed(piece, dtype):
            continue
        users = (module, *tied.get(module, ()))
        found.append(Place(users, network.get_submodule(module).weight.shape, piece))
        for each in users:
            empty(network.get_submodule(each))
        del pieces[name]
    untie(network, {f"{each}.weight" for place in found for each in place.users})
    return found


def empty(module: torch.nn.Module) -> None:
    """Take the weight of `module` away; transformers is told that nothing of it is to be made at random.

    A tensor without memory stays there for whoever looks at it, which is no parameter that could be missing.
    """
    weight = module._parameters.pop("weight")
    assert weight is not None, "who calls this has asked before"
    module.__dict__["weight"] = weight.detach()
    module.__dict__["weight"]._is_hf_initialized = True
    module._is_hf_initialized = True  # type: ignore[assignment]


def fill(
    network: Any, places: Iterable[Place], dtype: torch.dtype, pages: Pages, inputs: str
) -> dict[str, PackedMatrix]:
    """Put the matrices into the modules that were emptied for them; name of the first user -> matrix.

    Inputs are taken as a matrix says, or where it says nothing as `inputs` does (layers/products.py).
    """
    found = {}
    for place in places:
        matrix = packed(place.piece)
        for each in place.users:
            put(network.get_submodule(each), matrix, place.shape, dtype, activation_of(place.piece) or inputs)
        found[place.users[0]] = matrix
        pages.look(place.piece.bytes)
    return found


def module_for(network: Any, name: str) -> str | None:
    """The module whose weight a checkpoint calls `name`, with or without the prefix of the base model."""
    stem, prefix = name.removesuffix(".weight"), f"{network.base_model_prefix}."
    if stem == name:
        return None
    known = network.get_submodule
    for each in (stem, prefix + stem, stem.removeprefix(prefix)):
        try:
            module = known(each)
        except AttributeError:
            continue
        return each if kind_of(module) is not None else None
    return None


def _fits(module: torch.nn.Module, piece: StoredMatrix | StoredTensor) -> bool:
    """Whether the module's weight is that matrix, rows being outputs or what is looked up."""
    return is_turned(piece) == (kind_of(module) is Conv1D) and tuple(as_matrix(module).shape) == piece.shape


def activation_of(piece: StoredMatrix | StoredTensor) -> str | None:
    """How the inputs of a matrix are rounded, where it says so."""
    return piece.activation if isinstance(piece, StoredMatrix) else None


def require_roundings(path: Path, network: Any, rounding: Iterable[StoredMatrix]) -> None:
    """Raise LoadingError, naming the tensor, where a module of `network` cannot round its inputs as its matrix says."""
    for stored in rounding:
        try:
            require_known(stored.activation or "")
        except RecipeError as error:
            raise LoadingError(
                f"{path}: the inputs of {quoted(stored.name)} cannot be rounded as {quoted(str(stored.activation))}; a "
                "newer fewbits may know."
            ) from error
        if not multiplies(network.get_submodule(stored.name.removesuffix(".weight"))):
            raise LoadingError(
                f"{path}: {quoted(stored.name)} is no matrix of a linear layer, so no inputs can be rounded."
            )


def put(module: torch.nn.Module, matrix: PackedMatrix, shape: torch.Size, dtype: torch.dtype, inputs: str) -> None:
    """Make `module`, which has no weight any more, compute in `dtype` with `matrix` as a weight of `shape`."""
    module.__dict__.pop("weight", None)
    device = matrix.get_buffer(matrix.fields[0]).device
    none = torch.empty((), dtype=dtype, device=device).expand(shape)
    module._parameters["weight"] = torch.nn.Parameter(none, requires_grad=False)
    pack_module(module, matrix, inputs)


def _tied(network: Any, pieces: Mapping[str, Piece]) -> dict[str, list[str]]:
    """Module -> those that have its weight too and nothing of their own in the checkpoint."""
    own = {module_for(network, name) for name in pieces}
    groups: dict[str, set[str]] = {}
    for target, source in network.all_tied_weights_keys.items():
        groups.setdefault(source, {source}).add(target)
    found: dict[str, list[str]] = {}
    for group in groups.values():
        modules = sorted(name.removesuffix(".weight") for name in group if name.endswith(".weight"))
        for each in set(modules) & own:
            found[each] = [other for other in modules if other not in own and _is_layer(network, other)]
    return found


def _is_layer(network: Any, name: str) -> bool:
    return kind_of(network.get_submodule(name)) is not None


def untie(network: Any, gone: Collection[str]) -> None:
    """Let transformers forget the ties of the parameters `gone`, whose modules share a matrix from now on."""
    network.all_tied_weights_keys = _without(network.all_tied_weights_keys, "", gone)
    for prefix, module in network.named_modules():
        if stated := getattr(module, "_tied_weights_keys", None):
            # Of this network alone, not of its class: `tie_weights` asks for it again.
            module._tied_weights_keys = _without(stated, f"{prefix}." if prefix else "", gone)


def _without(tied: Mapping[str, str], prefix: str, gone: Collection[str]) -> dict[str, str]:
    return {a: b for a, b in tied.items() if prefix + a not in gone and prefix + b not in gone}
