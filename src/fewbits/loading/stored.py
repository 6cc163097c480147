"""A model that was opened here, on its way through transformers' own loading."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from fewbits.checkpoints.fields import StoredMatrix
from fewbits.layers.matrix import PackedMatrix
from fewbits.layers.products import WIDE
from fewbits.loading.experts import unstack
from fewbits.loading.pieces import Lazy, Piece, bytes_of
from fewbits.loading.placing import Pages, Place, fill, make_room, require_roundings
from fewbits.loading.sources import Source


class Stored:
    """What fills the parameters: packed into modules first, the rest handed to transformers one by one.

    transformers copies configurations deeply; this is not copied with them, since it holds mapped files.
    """

    def __init__(self, source: Source, inputs: str = WIDE, *, own_names: bool = True) -> None:
        self.source = source
        self.inputs = inputs
        """How inputs are taken where a matrix says nothing of them."""
        self.own_names = own_names
        """Whether all tensors come from here, so that the network may have modules that transformers does not know."""
        self.pages = Pages(source.files)
        self.left: dict[str, Piece] = dict(source.pieces)
        self.state: dict[str, Any] = {name: _Looked(piece, self.pages) for name, piece in self.left.items()}
        """What transformers takes tensors from; `make_room` makes it shorter."""
        self.places: list[Place] = []
        self.matrices: dict[str, PackedMatrix] = {}
        """Name of the first module that uses it -> the matrix."""
        self.notes: tuple[str, ...] = ()

    def __deepcopy__(self, memo: dict[int, Any]) -> Stored:
        return self

    @property
    def rounding(self) -> list[StoredMatrix]:
        """The matrices that say how their inputs are rounded, by the names of their modules."""
        return [
            replace(place.piece, name=each)
            for place in self.places
            if isinstance(place.piece, StoredMatrix) and place.piece.activation
            for each in place.users
        ]

    def make_room(self, network: Any, dtype: torch.dtype) -> None:
        """Take the weights of what is packed out of `network`, and out of what transformers loads."""
        if self.own_names:
            self.notes = unstack(network, self.left, self.source.apart, dtype)
        self.places = make_room(network, self.left, dtype)
        for name in set(self.state) - set(self.left):
            del self.state[name]

    def fill(self, network: Any, dtype: torch.dtype) -> None:
        """Put the matrices where room was made for them."""
        require_roundings(self.source.path, network, self.rounding)
        self.matrices = fill(network, self.places, dtype, self.pages, self.inputs)
        self.pages.let_go()


class _Looked(Lazy):
    """A piece whose pages are given back now and then."""

    def __init__(self, piece: Piece, pages: Pages) -> None:
        super().__init__(piece)
        self._size, self._pages = bytes_of(piece), pages

    def __getitem__(self, item: Any) -> torch.Tensor:
        found = super().__getitem__(item)
        self._pages.look(self._size)
        return found
