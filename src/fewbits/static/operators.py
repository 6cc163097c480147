"""Which operations have a form in whole numbers, and of what kind that is; a new one is one line in its table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

from fewbits.static.program import Ref, Step

PRODUCTS: Mapping[str, int] = MappingProxyType(
    {"aten.linear.default": 0, "aten.conv1d.default": 1, "aten.conv2d.default": 2}
)
"""Products with a constant weight -> the number of dimensions that a kernel moves along."""

EMBEDDING = "aten.embedding.default"

LIMITS: Mapping[str, Callable[[Step], tuple[float, float]]] = MappingProxyType(
    {
        "aten.relu.default": lambda step: (0.0, math.inf),
        "aten.hardtanh.default": lambda step: _bounds(step, -1.0, 1.0),
        "aten.clamp.default": lambda step: _bounds(step, -math.inf, math.inf),
        "aten.clamp_min.default": lambda step: _bounds(step, -math.inf, math.inf),
    }
)
"""Operations that keep numbers within bounds: on codes, bounds of codes."""

MOVES = frozenset(
    {
        "aten.max_pool2d.default",
        "aten.view.default",
        "aten.reshape.default",
        "aten._unsafe_view.default",
        "aten.flatten.using_ints",
        "aten.permute.default",
        "aten.transpose.int",
        "aten.t.default",
        "aten.squeeze.dim",
        "aten.squeeze.dims",
        "aten.squeeze.default",
        "aten.unsqueeze.default",
        "aten.slice.Tensor",
        "aten.select.int",
        "aten.expand.default",
    }
)
"""Operations whose results are numbers of their first input, each as it was: codes pass through.

torch has no `max_pool1d` of bytes.
"""

ADD, JOIN = "aten.add.Tensor", "aten.cat.default"
SUMS = frozenset({ADD, JOIN})
"""Operations on several activations, each with a scale of its own."""


def _bounds(step: Step, low: float, high: float) -> tuple[float, float]:
    """The bounds that a step states behind its input; None states none."""
    stated = [*step.args[1:], None, None][:2]
    words = dict(step.kwargs)
    stated = [words.get("min", words.get("min_val", stated[0])), words.get("max", words.get("max_val", stated[1]))]
    known = [default if given is None else given for given, default in zip(stated, (low, high), strict=True)]
    return float(known[0]), float(known[1])


def averaged(step: Step) -> tuple[int, ...] | None:
    """The dimensions over which a step takes the mean of all numbers, from the end; None for another operation.

    >>> averaged(Step("y", "aten.adaptive_avg_pool2d.default", (Ref("x"), (1, 1))))
    (-2, -1)
    """
    if step.op == "aten.adaptive_avg_pool2d.default" and tuple(step.args[1]) == (1, 1):
        return (-2, -1)
    if step.op == "aten.adaptive_avg_pool1d.default" and tuple(step.args[1]) == (1,):
        return (-1,)
    if step.op == "aten.mean.dim" and isinstance(step.args[1], tuple) and not step.kwargs:
        return tuple(int(dim) for dim in step.args[1])
    return None


def keeps(step: Step) -> bool:
    """Whether the dimensions that an average is over stay, with one number each."""
    return step.op != "aten.mean.dim" or (len(step.args) > 2 and bool(step.args[2]))


def pooled(step: Step) -> bool:
    """Whether a step averages windows that lie wholly inside: `avg_pool2d` without padding, each window alike."""
    if step.op != "aten.avg_pool2d.default" or step.kwargs:
        return False
    padding, ceiling = [*step.args[3:5], (0, 0), False][:2] if len(step.args) < 5 else step.args[3:5]
    divisor = step.args[6] if len(step.args) > 6 else None
    return not any(padding) and not ceiling and divisor is None


def windows(step: Step) -> tuple[tuple[int, int], tuple[int, int]]:
    """Size and stride of the windows of `avg_pool2d`."""
    size = _pair(step.args[1])
    stride = _pair(step.args[2]) if len(step.args) > 2 and step.args[2] else size
    return size, stride


def _pair(given: tuple[int, ...]) -> tuple[int, int]:
    return (given[0], given[-1])


def is_average(step: Step) -> bool:
    """Whether a step is a mean that has a form in whole numbers."""
    return averaged(step) is not None or pooled(step)


def summands(step: Step) -> tuple[Ref, ...] | None:
    """What a sum or a concatenation puts together, where all of it are values and nothing scales them."""
    parts = step.args[0] if step.op == JOIN else step.args
    plain = not step.kwargs and all(isinstance(part, Ref) for part in parts)
    return tuple(parts) if plain else None
