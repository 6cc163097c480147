"""What was done to each layer, with which scales, and what it cost: kept with the result, and printed as a table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from fewbits.static.affine import Affine


@dataclass(frozen=True)
class LayerRecord:
    """One layer that was, or could have been, quantized."""

    name: str
    operation: str
    bytes_before: int
    bytes_after: int
    source: Affine | None = None
    """How its inputs are rounded; None where they stay floats."""
    target: Affine | None = None
    """How its results are; None where they are floats."""
    weight_scales: int = 0
    """How many its weight has; 0 where it stays in float."""
    error: float | None = None
    """Relative RMS error of the outputs when it alone is quantized; None where that was not measured."""
    kept: str = ""
    """Why it stays in float."""


@dataclass(frozen=True)
class FloatStep:
    """An operation that stays in float."""

    name: str
    operation: str
    where: str
    why: str


@dataclass(frozen=True)
class Record:
    """How a network was quantized statically."""

    network: str
    observer: str
    activation: str
    weights: str
    tolerance: float | None
    samples: int
    batches: int
    layers: tuple[LayerRecord, ...]
    floats: tuple[FloatStep, ...]
    folded: tuple[str, ...]
    """Layers that took up a batch normalization."""
    error: float
    """Relative RMS error of the outputs on the calibration set, all together."""
    bytes_before: int
    bytes_after: int
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return asdict(self)

    def table(self) -> str:
        """One line per layer, then what stays in float, and the sizes."""
        width = max([len(each.name) for each in self.layers] + [len("layer")])
        lines = [f"{'layer':{width}}  {'input':24}  {'output':24}  {'scales':>6}  {'error alone':>11}  bytes"]
        lines += [_line(each, width) for each in self.layers]
        lines += [f"in float: {each.name} ({each.operation}): {each.why}." for each in self.floats]
        lines += [f"note: {note}" for note in self.notes]
        sizes = f"{self.bytes_before} -> {self.bytes_after} bytes"
        last = f"error of the outputs {self.error:.4f}; {sizes}; observer {self.observer}, {self.samples} samples."
        return "\n".join([*lines, last])


def _line(layer: LayerRecord, width: int) -> str:
    error = "-" if layer.error is None else f"{layer.error:.4f}"
    sizes = f"{layer.bytes_before} -> {layer.bytes_after}"
    if layer.kept:
        return f"{layer.name:{width}}  stays in float: {layer.kept} ({error})"
    return (
        f"{layer.name:{width}}  {_said(layer.source):24}  {_said(layer.target):24}  {layer.weight_scales:6}  "
        f"{error:>11}  {sizes}"
    )


def _said(affine: Affine | None) -> str:
    return "float" if affine is None else f"{affine.kind} {affine.scale:.5g} zero {affine.zero}"
