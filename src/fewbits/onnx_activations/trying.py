"""Everything that is found out about a graph before it is rounded: ranges, codes, and what each product costs alone.

Where the products cost too much together, those that cost more than their share get a second chance: the values that
they read are divided column by column (smoothing.py), and where that makes them cheaper it stays. What stays in floats
is chosen by what they cost then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from fewbits.onnx_activations.asking import Asked
from fewbits.onnx_activations.numbers import Weight
from fewbits.onnx_activations.observing import Steps, observe, observe_columns
from fewbits.onnx_activations.samples import Batch, Samples
from fewbits.onnx_activations.sensitivity import TOLERANCE, errors_alone, worst_of
from fewbits.onnx_activations.smoothing import Smoothing, accepted, choose, smooth, smoothable
from fewbits.onnx_activations.source import Source, format_of
from fewbits.onnx_activations.static import encode_weights
from fewbits.onnx_activations.way import Progress

TRIED = 1
"""Batches on which every product is tried alone."""


@dataclass(frozen=True)
class Tried:
    """A graph, and what is known of it."""

    source: Source
    steps: Mapping[str, Steps]
    weights: Mapping[str, Weight]
    errors: Mapping[str, float]
    """Product, by its output -> squared relative error of the graph's outputs where it alone is rounded."""
    smoothed: tuple[Smoothing, ...] = ()
    before: Mapping[str, float] = field(default_factory=dict)
    """The errors before anything was divided."""


@dataclass(frozen=True)
class Trial:
    """How to find out."""

    asked: Asked
    samples: Samples
    threads: int
    progress: Progress

    def of(self, source: Source) -> Tried:
        """The graph as it is, or with values divided where that is cheaper."""
        plan = source.plan
        steps = observe(
            source.graph, plan.roots, self.samples, str(self.asked.observer), self.threads, self._told("calibrate")
        )
        weights = self._weights(source, steps)
        errors = errors_alone(source.graph, plan, steps, weights, self._batches(), self.threads, self._told("try"))
        plain = Tried(source, steps, weights, errors)
        return self._smoothed(plain) if worst_of(errors) else plain

    def _smoothed(self, plain: Tried) -> Tried:
        """`plain` with what is cheaper divided; itself where nothing is."""
        share = TOLERANCE / len(plain.errors)
        costly = {output for output, error in plain.errors.items() if error > share}
        source = plain.source
        groups = smoothable(source.facts, source.plan, costly)
        if not groups:
            return plain
        columns = observe_columns(source.graph, list(groups), self.samples, self.threads, self._told("smooth"))
        several = [choose(source.facts, value, group, columns[value]) for value, group in groups.items()]
        steps = self._steps(plain, several)
        tried = {output for each in several for output in each.products}
        divided = source.rewritten(partial(smooth, several=several))
        weights = self._weights(divided, steps)
        errors = errors_alone(
            divided.graph, divided.plan, steps, weights, self._batches(), self.threads, self._told("try"), tried
        )
        better = accepted(several, plain.errors, errors)
        mixed = {**plain.errors, **{output: errors[output] for each in better for output in each.products}}
        return self._left(plain, better, steps, mixed)

    def _left(
        self, plain: Tried, better: list[Smoothing], steps: Mapping[str, Steps], errors: Mapping[str, float]
    ) -> Tried:
        """`plain` with `better` alone, and with none of it for products that will stay in floats."""
        worst = worst_of(errors)
        kept = [each.without(worst) for each in better]
        kept = [each for each in kept if each.products]
        if not kept:
            return Tried(plain.source, plain.steps, plain.weights, errors, (), plain.errors)
        source = plain.source.rewritten(partial(smooth, several=kept))
        return Tried(source, steps, self._weights(source, steps), errors, tuple(kept), plain.errors)

    def _steps(self, plain: Tried, several: list[Smoothing]) -> dict[str, Steps]:
        """The ranges that are known, and those of the divided values."""
        divided = plain.source.rewritten(partial(smooth, several=several))
        names = [each.name for each in several]
        new = observe(divided.graph, names, self.samples, str(self.asked.observer), self.threads, self._told("smooth"))
        return {**plain.steps, **new}

    def _weights(self, source: Source, steps: Mapping[str, Steps]) -> dict[str, Weight]:
        formats = {each.weight: format_of(self.asked, each) for each in source.plan.products if each.weight}
        return encode_weights(source.facts, source.plan, steps, formats)

    def _batches(self) -> list[Batch]:
        return [batch for _, batch in self.samples.first(TRIED)]

    def _told(self, what: str) -> partial[None]:
        return partial(self.progress, what)
