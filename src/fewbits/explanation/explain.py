"""`explain`: what number formats do to a few numbers, or to a tensor of a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import overload

from fewbits.errors import FewbitsError
from fewbits.explanation.numbers import NumbersExplained, explain_numbers
from fewbits.explanation.tensor import SAMPLE, Progress, TensorExplained, explain_tensor


@overload
def explain(*numbers: float, formats: Sequence[str] | None = None) -> NumbersExplained: ...


@overload
def explain(
    *,
    tensor: str | Path,
    formats: Sequence[str] | None = None,
    sample: int = SAMPLE,
    levels: bool = False,
    progress: Progress | None = None,
) -> TensorExplained: ...


def explain(
    *numbers: float,
    tensor: str | Path | None = None,
    formats: Sequence[str] | None = None,
    sample: int = SAMPLE,
    levels: bool = False,
    progress: Progress | None = None,
) -> NumbersExplained | TensorExplained:
    """Store `numbers`, or the tensor at FILE:NAME, in each of `formats` and read them back.

    Without `formats` the usual ones are taken, with ["all"] every one. Of a huge tensor about `sample` numbers are
    looked at, and the result says so; `levels` adds the numbers that one group of it can become. Raises FewbitsError,
    one sentence, for what cannot be stored or read.

    >>> [(in_format.format, in_format.stored[0].value) for in_format in explain(0.1, formats=["F16", "BF16"]).formats]
    [('F16', 0.0999755859375), ('BF16', 0.10009765625)]
    """
    if tensor is None:
        return explain_numbers(numbers, formats)
    if numbers:
        raise FewbitsError("give numbers or a tensor to explain, not both.")
    return explain_tensor(str(tensor), formats, sample=sample, levels=levels, progress=progress)
