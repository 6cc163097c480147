"""Error feedback where several columns are rounded together: nothing is fed from one column of a vector to the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")


class Corners:
    """A triangle of a factor (cols, cols) in whole vectors of `vector` columns, and its corners, one per vector.

    What reaches a vector has to be multiplied with the inverse of its corner, by `undone`; `within` is the triangle so.
    With vectors of one column, corners are 1 and everything stays as it is.

    >>> import torch
    >>> triangle = torch.tensor([[1.0, 0.5, 2.0, 4.0], [0, 1, 3, 5], [0, 0, 1, 0.25], [0, 0, 0, 1]])
    >>> Corners(triangle, 2).within[:2, 2:] @ triangle[2:, 2:]
    tensor([[2., 4.],
            [3., 5.]])
    """

    def __init__(self, triangle: torch.Tensor, vector: int) -> None:
        self._triangle, self._vector = triangle, vector
        self.within = self.undone(triangle).contiguous()

    def part(self, cols: slice) -> Corners:
        """The corners of some columns, whole vectors."""
        return Corners(self._triangle[cols, cols], self._vector)

    def undone(self, fed: torch.Tensor) -> torch.Tensor:
        """`fed` (rows, cols) times the inverse of the corners."""
        return self._times(
            fed, lambda vectors, own: torch.linalg.solve_triangular(own, vectors, upper=True, left=False)
        )

    def settled(self, fed: torch.Tensor) -> torch.Tensor:
        """How `fed` (rows, cols) changes the columns while none of them is rounded: each makes up for the others."""
        settled: torch.Tensor = torch.linalg.solve_triangular(self._triangle, fed, upper=True, left=False)
        return settled

    def done(self, missed: torch.Tensor) -> torch.Tensor:
        """`missed` (rows, cols) times the corners."""
        return self._times(missed, torch.matmul)

    def weights(self, energy: torch.Tensor) -> torch.Tensor:
        """What it costs, on average 1, that a column alone of its vector misses its target: (cols,) float32."""
        if self._vector == 1:
            return torch.ones_like(energy, dtype=torch.float32)
        weights = (self._own().square() @ energy.reshape(-1, self._vector, 1)).flatten()
        return (weights / weights.mean()).float()

    def _own(self) -> torch.Tensor:
        """The corners (vectors, vector, vector)."""
        starts = range(0, len(self._triangle), self._vector)
        return torch.stack([self._triangle[at : at + self._vector, at : at + self._vector] for at in starts])

    def _times(self, x: torch.Tensor, product: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> torch.Tensor:
        if self._vector == 1:
            return x
        vectors = x.reshape(len(x), -1, self._vector).transpose(0, 1)
        return product(vectors, self._own()).transpose(0, 1).reshape(x.shape)
