"""A tensor through one format, slab by slab: natively where there is a codec, else in torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from fewbits import formats, kernels
from fewbits.explanation.histogram import BINS, Bins, Counts
from fewbits.explanation.levels import levels
from fewbits.explanation.matrix import Floats, Matrix, walk
from fewbits.formats import Format, Params


@dataclass
class Trial:
    """What `format` makes of the rows seen so far."""

    format: Format
    matrix: Matrix
    slabs: list[tuple[int, int]]
    bins: Bins
    squared_error: float = 0.0
    squares: float = 0.0
    largest_error: float = 0.0
    histogram: Counts = field(default_factory=lambda: np.zeros(BINS, np.int64))
    _row: int = 0

    def add(self, w: Floats) -> None:
        """Store the next slab, read it back and take its errors in."""
        back = self._there_and_back(w)
        self._row += len(w)
        error = w.astype(np.float64) - back
        self.squared_error += float(np.square(error).sum())
        self.squares += float(np.square(w, dtype=np.float64).sum())
        self.largest_error = max(self.largest_error, float(np.abs(error).max()))
        self.histogram += self.bins.count(back)

    @property
    def relative_rms(self) -> float:
        """Root of sum (w - stored)^2 / sum w^2; 0 for zeros that come back exact."""
        if self.squares:
            return float(np.sqrt(self.squared_error / self.squares))
        return float(np.inf) if self.squared_error else 0.0

    def levels(self) -> tuple[float, ...]:
        """What the first column of the middle slab can become."""
        start, stop = self.slabs[len(self.slabs) // 2]
        seen = sum(last - first for first, last in self.slabs[: len(self.slabs) // 2])
        rows = min(stop - start, self.format.rows or stop - start)
        w = self.matrix.floats(start, start + rows)[:, : self.format.span or None]
        return levels(self.format, w, self._shared.slice(seen, seen + rows) if self._shared else None)

    @cached_property
    def _there_and_back(self) -> Callable[[Floats], Floats]:
        return self._native if self.format.name in kernels.formats() else self._in_torch

    def _native(self, w: Floats) -> Floats:
        width = formats.row_bytes(self.format, w.shape[1])
        encoded = kernels.encode_rows(self.format.name, w.view(np.uint8), "F32", width)
        return kernels.decode_rows(self.format.name, encoded.stored, w.shape[1])

    def _in_torch(self, w: Floats) -> Floats:
        import torch

        like = self._shared.slice(self._row, self._row + len(w)) if self._shared else None
        matrix = torch.from_numpy(w)
        params = self.format.fit(matrix, like=like)
        back: Floats = self.format.decode(self.format.encode(matrix, params), params).numpy()
        return back

    @cached_property
    def _shared(self) -> Params | None:
        """What the format shares between rows, from a pass over the rows that are looked at."""
        import torch

        return self.format.prepare(torch.from_numpy(w) for w in walk(self.matrix, self.slabs))
