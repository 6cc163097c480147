"""Slabs of fields put together until a matrix is whole, for containers that lay out whole matrices."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from threading import Lock

import numpy as np

from fewbits.checkpoints.fields import Matrix
from fewbits.errors import CheckpointError
from fewbits.formats import Fields


class Gathering:
    """Fields of matrices that come in slabs of rows, in any order and from any thread."""

    def __init__(self, matrices: Mapping[str, Matrix]) -> None:
        self._matrices = matrices
        self._begun: dict[str, Fields] = {}
        self._missing: dict[str, int] = {}
        self._lock = Lock()

    def add(self, name: str, first_row: int, fields: Fields) -> Fields | None:
        """Take rows from `first_row` on, which begins a line of each field; all fields, once the matrix is whole."""
        shapes = self._matrices[name].shapes
        rows = prod(self._matrices[name].shape[:-1])
        with self._lock:
            if name not in self._begun:
                whole = {key: np.empty(shape, dtype) for key, (dtype, shape) in shapes.items()}
                self._begun[name] = whole
                self._missing[name] = sum(each.nbytes for each in whole.values())
            begun = self._begun[name]
        for key, array in fields.items():
            line = first_row * len(begun[key]) // rows
            if line + len(array) > len(begun[key]):
                raise CheckpointError(f"tensor {name} got more of {key} than its {len(begun[key])} lines; a bug.")
            begun[key][line : line + len(array)] = array
        with self._lock:
            self._missing[name] -= sum(array.nbytes for array in fields.values())
            if self._missing[name]:
                return None
            del self._missing[name]
            return self._begun.pop(name)
