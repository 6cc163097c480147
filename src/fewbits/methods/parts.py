"""Where the parameters of a matrix can be chosen part by part, and the choice between two results, part by part."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewbits.formats.base import Format, Params
from fewbits.formats.exact import lane_sum
from fewbits.lazy import LazyModule
from fewbits.qtensor import QTensor

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")


def parts_of(q: QTensor) -> int:
    """Into how many parts, from left to right, the columns fall that have parameters of their own.

    What all rows share does not count: whoever chooses part by part leaves it as it is.

    >>> import torch
    >>> from fewbits import formats
    >>> w = torch.ones(2, 512)
    >>> [parts_of(rounded(w, formats.get(name))) for name in ("Q4_K", "nf4_g64_dq", "int8_row_sym", "BF16")]
    [2, 8, 1, 1]
    """
    return q.shape[1] // q.format.span if q.format.span > 1 else 1


def rounded(
    w: torch.Tensor, format: Format, *, importance: torch.Tensor | None = None, like: Params | None = None
) -> QTensor:
    """`w` (rows, cols) rounded to nearest: fitted and encoded in the weights `importance` (rows, cols)."""
    params = format.fit(w, importance=importance, like=like)
    return QTensor(format, format.encode(w, params, importance=importance), params)


def part_of(q: QTensor, place: int) -> QTensor:
    """Part `place` of a matrix, as a matrix."""
    count, rows = parts_of(q), q.params.rows
    params = {
        name: array if rows.get(name, 1) == 0 else _part(array, place, count) for name, array in q.params.arrays.items()
    }
    return QTensor(q.format, _part(q.codes, place, count), Params(params, rows))


def _part(array: torch.Tensor, place: int, count: int) -> torch.Tensor:
    width = array.shape[1] // count
    return array[:, place * width : (place + 1) * width]


def joined(parts: list[QTensor]) -> QTensor:
    """Parts put together again, in order; what all rows share is the first one's."""
    first = parts[0]
    rows = first.params.rows
    params = {
        name: array if rows.get(name, 1) == 0 else torch.cat([part.params[name] for part in parts], 1)
        for name, array in first.params.arrays.items()
    }
    return QTensor(first.format, torch.cat([part.codes for part in parts], 1), Params(params, rows))


def same_shared(one: QTensor, other: QTensor) -> bool:
    """Whether both have the same of what all rows share."""
    return all(torch.equal(one.params[name], other.params[name]) for name, rows in one.params.rows.items() if rows == 0)


def better_of(
    one: QTensor, other: QTensor, cost: torch.Tensor, other_cost: torch.Tensor
) -> tuple[QTensor, torch.Tensor]:
    """What costs less, and what it costs: row by row and part by part; for rows that share parameters, in sum.

    Costs are (rows, parts), or (rows, 1) where all parts are taken at once. Where both cost the same, `one` stays.
    """
    if not same_shared(one, other):
        less = bool((_summed(other_cost, len(cost)) < _summed(cost, len(cost))).all())
        return (other, other_cost) if less else (one, cost)
    each = max(one.format.rows, 1)
    lines = _summed(other_cost, each) < _summed(cost, each)
    rows = lines.repeat_interleave(each, 0)[: len(cost)]

    def chosen(name: str, array: torch.Tensor) -> torch.Tensor:
        shared = one.params.rows.get(name, 1)
        return array if shared == 0 else _where(rows if shared == 1 else lines, other.params[name], array)

    params = {name: chosen(name, array) for name, array in one.params.arrays.items()}
    codes = _where(rows, other.codes, one.codes)
    return QTensor(one.format, codes, Params(params, one.params.rows)), torch.where(rows, other_cost, cost)


def _where(lower: torch.Tensor, other: torch.Tensor, one: torch.Tensor) -> torch.Tensor:
    return torch.where(lower.repeat_interleave(one.shape[1] // lower.shape[1], 1), other, one)


def _summed(cost: torch.Tensor, each: int) -> torch.Tensor:
    """Costs (lines, parts) of lines of `each` rows."""
    if each == 1:
        return cost
    padded = torch.nn.functional.pad(cost.T, (0, -len(cost) % each))
    return lane_sum(padded.reshape(cost.shape[1], -1, each)).T
