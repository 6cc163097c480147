"""What became of an ONNX graph whose products run on whole numbers, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RoundedValue:
    """A value with codes of 8 bits: x ~ scale * (code - zero_point)."""

    name: str
    low: float
    high: float
    """The range that an observer chose."""
    scale: float
    zero_point: int
    shares: str | None = None
    """The value whose codes are handed on to it; None where its range is its own."""


@dataclass(frozen=True)
class IntegerProduct:
    """A product of whole numbers."""

    output: str
    """The value that it makes, by which it is known."""
    operator: str
    weight: str | None
    """The constant that it multiplies by; None where it multiplies two values."""
    error_alone: float | None
    """Squared relative error of the graph's outputs where it alone is rounded; None where that was not measured."""


@dataclass(frozen=True)
class FloatNode:
    """A node that computes in floats as before, though others of its kind do not."""

    output: str
    operator: str
    why: str
    error_alone: float | None = None


@dataclass(frozen=True)
class SmoothedValue:
    """A value whose columns are divided by factors before it is rounded, and the matrices behind multiplied by them."""

    value: str
    power: float
    """a, where the factors are max|x|^a / max|W|^(1 - a)."""
    products: tuple[str, ...]
    """Outputs of the products that read it so."""
    error_before: float
    error_after: float
    """Squared relative error of the graph's outputs, of each of these products rounded alone, added up."""


@dataclass(frozen=True)
class OutputError:
    """How far an output is from the original graph's, both run by ONNX Runtime on samples that measured no range."""

    name: str
    relative_error: float
    """sqrt(sum (a - b)^2 / sum a^2)."""
    cosine: float
    """The mean over rows, each all numbers along the last side."""


@dataclass(frozen=True)
class GraphRounding:
    """Everything that was decided about a graph's values."""

    way: str
    """"static": scales were fixed; "dynamic": they are found at run time."""
    observer: str | None
    samples: int
    samples_held_out: int
    tolerance: float | None
    """Sum of `error_alone` that the products may reach together; those beyond it stay in floats."""
    values: tuple[RoundedValue, ...]
    products: tuple[IntegerProduct, ...]
    floats: tuple[FloatNode, ...]
    folded: tuple[str, ...]
    """Normalizations that went into the convolution before them."""
    outputs: tuple[OutputError, ...]
    float_operators: dict[str, int]
    """Operator -> nodes that compute as before because integers have no kernel for them."""
    smoothed: tuple[SmoothedValue, ...] = ()
    """Values that cost too much as they were, and less since they are divided column by column."""
