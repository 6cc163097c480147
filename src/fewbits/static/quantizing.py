"""`fewbits.static.quantize`: export, fold, observe, judge each layer, plan, build."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch

from fewbits.errors import StaticError
from fewbits.static.affine import KINDS, Affine
from fewbits.static.building import Built, build
from fewbits.static.exporting import Exported, export
from fewbits.static.folding import folded
from fewbits.static.inputs import Batch, collected
from fewbits.static.module import StaticModule
from fewbits.static.observing import Observed, observe, ordered
from fewbits.static.operators import EMBEDDING, PRODUCTS
from fewbits.static.planning import Plan, affines, observed, plan
from fewbits.static.program import Program, Step, run
from fewbits.static.record import FloatStep, LayerRecord, Record
from fewbits.static.sensitivity import errors_alone, relative_error
from fewbits.static.weights import WeightFormat

TOLERANCE = 0.1
"""A layer stays in float where it alone, quantized, changes the outputs by more than this (relative RMS)."""


def quantize(
    module: torch.nn.Module,
    calibration: Iterable[Any],
    *,
    observer: str = "mse",
    activation: str = "uint8",
    symmetric: bool = False,
    weights: str = "channel",
    weight_bits: int = 8,
    float_layers: Sequence[str] = (),
    tolerance: float | None = TOLERANCE,
    dynamic_batch: bool = True,
) -> StaticModule:
    """A new module that computes `module` in whole numbers of 8 bits, with scales that a calibration set has fixed.

    `calibration` holds batches: a tensor, a tuple of tensors by position, or a mapping from names to tensors.
    `observer` chooses the range of each activation (minmax, moving_average, percentile, entropy, mse); `activation` is
    uint8 or int8, `symmetric` puts its zero in the middle; `weights` have a scale per "channel" or per "tensor", and 8
    bits or 7, with which ONNX Runtime is faster on processors without VNNI.
    Layers that match a pattern of `float_layers` stay in float, and so do those that alone change the outputs by more
    than `tolerance` (None judges no layer). `module` is left as it is. Raises FewbitsError.

    >>> network = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
    >>> quantized = quantize(network, [torch.randn(32, 8), torch.randn(32, 8)])
    >>> quantized(torch.randn(5, 8)).shape, [layer.weight_scales for layer in quantized.record.layers]
    (torch.Size([5, 2]), [16, 2])
    """
    KINDS.get(activation)
    batches = collected(module, calibration)
    exported, merged = folded(export(module, batches[0], dynamic_batch=dynamic_batch))
    options = _Options(
        observer, activation, symmetric, WeightFormat(weights, weight_bits), tuple(float_layers), tolerance
    )
    with torch.no_grad():
        return _Work(module, exported, merged, batches, options).done()


@dataclass(frozen=True)
class _Options:
    observer: str
    activation: str
    symmetric: bool
    weights: WeightFormat
    float_layers: tuple[str, ...]
    tolerance: float | None


@dataclass(frozen=True)
class _Work:
    module: torch.nn.Module
    exported: Exported
    merged: tuple[str, ...]
    batches: Sequence[Batch]
    options: _Options

    @property
    def program(self) -> Program:
        """The steps."""
        return self.exported.program

    def done(self) -> StaticModule:
        """Measure, judge, plan, build."""
        names = layer_names(self.exported)
        kept = self._named(names)
        first = plan(self.program, self.exported.constants, kept)
        ranges, outputs = observe(
            self.program,
            self.exported.constants,
            self.batches,
            observed(self.program, first),
            self.options.observer,
            symmetric=self.options.symmetric,
        )
        errors = self._errors(first, ranges, outputs)
        kept |= {name: self._costly(error) for name, error in errors.items() if self._is_costly(error)}
        final = plan(self.program, self.exported.constants, kept)
        codes = self._codes(final, ranges)
        built = build(self.program, self.exported.constants, names, final, codes, self.options.weights)
        self._require_any(final, built)
        return self._module(built, final, codes, names, errors, outputs)

    def _named(self, names: Mapping[str, str]) -> dict[str, str]:
        """Layers that are to stay in float; raises StaticError for a pattern that matches none."""
        kept: dict[str, str] = {}
        for pattern in self.options.float_layers:
            hits = [step for step, name in names.items() if fnmatchcase(name, pattern)]
            if not hits:
                raise StaticError(
                    f"float_layers has {pattern!r}, which no layer matches; there are {', '.join(names.values())}."
                )
            kept |= dict.fromkeys(hits, "it was named in float_layers")
        return kept

    def _codes(self, plan: Plan, ranges: Observed) -> dict[str, Affine]:
        kind, symmetric = self.options.activation, self.options.symmetric
        return affines(self.program, plan, ranges.range, kind, symmetric=symmetric)

    def _errors(self, plan: Plan, ranges: Observed, outputs: list[tuple[Any, ...]]) -> dict[str, float]:
        if self.options.tolerance is None:
            return {}
        codes, constants = self._codes(plan, ranges), self.exported.constants
        return errors_alone(self.program, constants, plan, codes, self.batches, outputs, self.options.weights)

    def _is_costly(self, error: float) -> bool:
        return self.options.tolerance is not None and not error <= self.options.tolerance

    def _costly(self, error: float) -> str:
        return f"alone it changes the outputs by {error:.3f}, more than {self.options.tolerance}"

    def _require_any(self, plan: Plan, built: Built) -> None:
        if not built.keys:
            why = "; ".join(dict.fromkeys(plan.reasons.values())) or "it has no linear layer, convolution or embedding"
            raise StaticError(f"nothing of {type(self.module).__name__} can be quantized: {why}.")

    def _module(
        self,
        built: Built,
        plan: Plan,
        codes: Mapping[str, Affine],
        names: Mapping[str, str],
        errors: Mapping[str, float],
        outputs: Sequence[tuple[Any, ...]],
    ) -> StaticModule:
        layers = [self._layer(s, built, plan, codes, names, errors) for s in self.program.steps if s.name in names]
        result = StaticModule(built.program, built.layers, built.constants, self._record(layers, plan, names))
        made = [run(built.program, ordered(self.program, b), built.constants, result.apply_step) for b in self.batches]
        result.record = self._record(layers, plan, names, relative_error(made, outputs), _bytes(result))
        return result

    def _record(
        self,
        layers: Sequence[LayerRecord],
        plan: Plan,
        names: Mapping[str, str],
        error: float = 0.0,
        bytes_after: int = 0,
    ) -> Record:
        floats = tuple(
            FloatStep(step.name, step.op, step.where, plan.reasons[step.name])
            for step in self.program.steps
            if step.name in plan.reasons and step.name not in names
        )
        notes = ["the ranges come from one batch."] if len(self.batches) == 1 else []
        return Record(
            network=type(self.module).__name__,
            observer=self.options.observer,
            activation=self.options.activation + (" symmetric" if self.options.symmetric else ""),
            weights=self.options.weights.name,
            tolerance=self.options.tolerance,
            samples=sum(batch.samples() for batch in self.batches),
            batches=len(self.batches),
            layers=tuple(layers),
            floats=floats,
            folded=tuple(names[name] for name in self.merged),
            error=error,
            bytes_before=_bytes(self.module),
            bytes_after=bytes_after,
            notes=tuple(notes),
        )

    def _layer(
        self,
        step: Step,
        built: Built,
        plan: Plan,
        codes: Mapping[str, Affine],
        names: Mapping[str, str],
        errors: Mapping[str, float],
    ) -> LayerRecord:
        read = [self.exported.constants[name] for name in step.reads() if name in self.exported.constants]
        before = sum(tensor.numel() * tensor.element_size() for tensor in read)
        layer = built.layers[built.keys[step.name]] if step.name in built.keys else None
        error = errors.get(step.name)
        if layer is None:
            return LayerRecord(names[step.name], step.op, before, before, error=error, kept=plan.reasons[step.name])
        product = step.op in PRODUCTS
        return LayerRecord(
            names[step.name],
            step.op,
            before,
            _bytes(layer),
            source=codes[step.args[0].name] if product else None,
            target=codes[plan.tail(step)] if step.name in plan.coded else None,
            weight_scales=layer.get_buffer("weight_scale").numel(),
            error=error,
        )


def layer_names(exported: Exported) -> dict[str, str]:
    """Step -> the name of the layer that it is: its weight's without the ending; a second use gets a number."""
    names: dict[str, str] = {}
    for step in exported.program.steps:
        place = 1 if step.op in PRODUCTS else 0 if step.op == EMBEDDING else None
        weight = step.args[place] if place is not None else None
        path = exported.paths.get(getattr(weight, "name", ""))
        if place is None or path is None:
            continue
        name = path.removesuffix(".weight")
        used = sum(each == name or each.startswith(f"{name}#") for each in names.values())
        names[step.name] = f"{name}#{used + 1}" if used else name
    return names


def _bytes(module: torch.nn.Module) -> int:
    """Bytes of everything that a module stores."""
    tensors = {id(t): t for t in [*module.parameters(), *module.buffers()]}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
