"""What a rotated model must hold, worked out again by a stranger: from the source, the architecture's facts and a seed.

Nothing is shared with what rotated it. Who is turned by what is read off the facts here; Hadamard matrices come from
the definitions, entry by entry, and are multiplied with as dense factors. Numbers are float64 and rounded once to
float32, so both ways agree but for a last bit here and there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import numpy.typing as npt

from fewbits import kernels
from fewbits.checkpoints.base import Bytes, Order, StoredTensor
from fewbits.errors import VerificationError
from fewbits.models import Architecture

Floats = npt.NDArray[np.float64]
Rows = Callable[[int, int], Bytes]
"""Rows start to stop of a tensor, as bytes of float32."""

WIDEST = 5
"""Doublings of one dense factor: 32 rows and columns."""

COLUMNS = 512
"""Columns in memory at once in float64, where columns do not mix."""


@dataclass(frozen=True)
class Turn:
    """Times R = diag(signs) H / sqrt(size), in pieces of `size` numbers."""

    size: int
    seed: int

    def applied(self, x: Floats) -> Floats:
        """The rows of `x` (n, a multiple of size) times R."""
        drawn = np.random.default_rng(self.seed).integers(0, 2, self.size)
        found: Floats = x.reshape(-1, self.size) * (2.0 * drawn - 1.0) / np.sqrt(self.size)
        after = self.size
        for factor in factors(self.size):
            after //= len(factor)
            found = np.matmul(factor.T, found.reshape(-1, len(factor), after))
        return found.reshape(x.shape)


@dataclass(frozen=True)
class Turned:
    """One tensor of the rotated model: rows of `source`, columns times `gain`, then turned on either side."""

    source: StoredTensor
    ones: bool = False
    """It is a gain that went elsewhere."""
    gain: Floats | None = None
    columns: Turn | None = None
    rows: Turn | None = None

    def reader(self, order: Order | None) -> Rows:
        """How rows are read, in the file's order; where rows are mixed, the whole is worked out now."""
        if self.ones:
            return lambda start, stop: np.ones((stop - start, self.source.cols), np.float32).view(np.uint8)
        read = partial(_numbers, self.source, order)
        if self.rows is None:
            return lambda start, stop: _bytes(self._columns_done(read(start, stop)))
        if self.rows.size < self.source.rows:
            return lambda start, stop: self._heads(read, start, stop)
        whole = self._mixed(read(0, self.source.rows))
        return lambda start, stop: whole[start:stop].view(np.uint8)

    def _columns_done(self, w: npt.NDArray[np.float32]) -> Floats:
        found = w.astype(np.float64) if self.gain is None else w * self.gain
        return found if self.columns is None else self.columns.applied(found)

    def _rows_done(self, w: npt.NDArray[np.float32]) -> Floats:
        assert self.rows is not None, "rows are mixed"
        return self.rows.applied(np.ascontiguousarray(self._columns_done(w).T)).T

    def _heads(self, read: Callable[[int, int], npt.NDArray[np.float32]], start: int, stop: int) -> Bytes:
        """Rows that are mixed head by head, of all the heads that they belong to."""
        assert self.rows is not None, "rows are mixed"
        size = self.rows.size
        first = start // size * size
        return _bytes(self._rows_done(read(first, -(-stop // size) * size))[start - first : stop - first])

    def _mixed(self, w: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """All rows of a matrix, in place; as many columns at a time as do not mix with others."""
        width = self.columns.size if self.columns else 1
        step = w.shape[1] if self.gain is not None else -(-COLUMNS // width) * width
        for start in range(0, w.shape[1], step):
            w[:, start : start + step] = self._rows_done(w[:, start : start + step])
        return w


def expect_rotated(
    architecture: Architecture, layers: int, key_heads: int, sources: Mapping[str, StoredTensor], seed: int
) -> dict[str, Turned]:
    """Name in transformers -> what must become of it, for each of `sources` by those names and for a tied head.

    Raises VerificationError for a matrix of which the facts do not say it.
    """
    stream = architecture.stream
    embedding = sources[stream.embedding]
    heads = {stream.head: embedding} if stream.head not in sources else {}
    every = {**sources, **heads}
    whole = Turn(embedding.cols, seed)
    found = {stream.embedding: Turned(embedding, columns=whole)}
    for layer in [*range(layers), None]:
        found |= _behind_norms(architecture, layer, every, whole)
    for layer in range(layers):
        writers = [name for template in stream.writers if (name := template.format(layer=layer)) in every]
        found |= {name: Turned(every[name], rows=whole) for name in writers}
        _turn_values(architecture, layer, key_heads, found, every, seed + 1 + layer)
    left = [name for name, source in every.items() if name not in found and len(source.shape) > 1]
    if left or any(len(turned.source.shape) > 2 for turned in found.values()):
        raise VerificationError(f"it is not known how {(left or list(found))[0]} is rotated; the file is not kept.")
    return found


def _behind_norms(
    architecture: Architecture, layer: int | None, every: Mapping[str, StoredTensor], whole: Turn
) -> dict[str, Turned]:
    """Readers of the stream take the gain of their norm over, which is 1 from then on."""
    found = {}
    for group in architecture.groups:
        if group.kind != "norm" or group.layered != (layer is not None):
            continue
        norm = group.producers[0].format(layer=layer)
        gain = _numbers(every[norm], None, 0, every[norm].rows).astype(np.float64).reshape(-1)
        found[norm] = Turned(every[norm], ones=True)
        for template in group.consumers:
            name = template.format(layer=layer)
            if name in every:
                found[name] = Turned(every[name], gain=gain, columns=whole)
    return found


def _turn_values(
    architecture: Architecture,
    layer: int,
    key_heads: int,
    found: dict[str, Turned],
    every: Mapping[str, StoredTensor],
    seed: int,
) -> None:
    """The rows of every head of values are turned alike, and the columns that read them."""
    for group in architecture.groups:
        if group.kind != "heads":
            continue
        made = [name.format(layer=layer) for name in group.producers]
        turn = Turn(every[made[0]].rows // key_heads, seed)
        for name in (name for name in made if name in every):
            before = found.get(name, Turned(every[name]))
            found[name] = Turned(before.source, gain=before.gain, columns=before.columns, rows=turn)
        for name in (template.format(layer=layer) for template in group.consumers):
            found[name] = Turned(every[name], columns=turn, rows=found[name].rows)


def _numbers(source: StoredTensor, order: Order | None, start: int, stop: int) -> npt.NDArray[np.float32]:
    rows = source.slab(start, stop) if order is None else source.slab(0, source.rows)[order[start:stop]]
    return kernels.decode_rows(source.format, rows, source.cols)


def _bytes(numbers: Floats) -> Bytes:
    found: Bytes = np.ascontiguousarray(numbers, np.float32).view(np.uint8)
    return found


@cache
def factors(size: int) -> tuple[Floats, ...]:
    """Dense matrices whose Kronecker product is the Hadamard matrix of `size`, the outermost first.

    >>> [len(factor) for factor in factors(5120)]
    [20, 32, 8]
    """
    doublings = next((k for k in reversed(range(size.bit_length())) if size % 2**k == 0 and _has_core(size >> k)), None)
    if doublings is None:
        raise VerificationError(f"no Hadamard matrix of {size} columns is known, so the file cannot be right.")
    core = [_core(size >> doublings)] if size >> doublings > 1 else []
    widths = [min(WIDEST, doublings - done) for done in range(0, doublings, WIDEST)]
    return (*core, *(_sylvester(width) for width in widths))


def _sylvester(doublings: int) -> Floats:
    """1 where row and column number have an even number of bits in common, else -1 (Sylvester 1867)."""
    place = range(2**doublings)
    return np.array([[(-1.0) ** (i & j).bit_count() for j in place] for i in place])


def _has_core(size: int) -> bool:
    return size == 1 or (size % 4 == 0 and (_prime(size - 1) or (size // 2 % 4 == 2 and _prime(size // 2 - 1))))


def _core(size: int) -> Floats:
    """Paley's matrix of `size` (1933): I + S of a prime size - 1, or else of size / 2 - 1, with each entry doubled."""
    once = _prime(size - 1)
    prime = size - 1 if once else size // 2 - 1
    border = np.array(
        [[_conference(i, j, prime, -1 if once else 1) for j in range(prime + 1)] for i in range(prime + 1)]
    )
    if once:
        return border + np.eye(size)
    found = np.empty((size, size))
    for i in range(prime + 1):
        for j in range(prime + 1):
            inside = [[1, -1], [-1, -1]] if i == j else border[i, j] * np.array([[1, 1], [1, -1]])
            found[2 * i : 2 * i + 2, 2 * j : 2 * j + 2] = inside
    return found


def _conference(i: int, j: int, prime: int, below: int) -> float:
    """0 on the diagonal, 1 in the first row, `below` in the first column, else the Legendre symbol of i - j."""
    if i == j:
        return 0.0
    if i == 0 or j == 0:
        return 1.0 if i == 0 else float(below)
    return 1.0 if pow(i - j, (prime - 1) // 2, prime) == 1 else -1.0  # Euler's criterion


def _prime(n: int) -> bool:
    return n > 2 and all(n % d for d in range(2, n) if d * d <= n)
