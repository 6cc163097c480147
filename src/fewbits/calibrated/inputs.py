"""Layers whose matrices get rounded inputs, as at run time: what comes behind is measured on that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fewbits import activations
from fewbits.calibrated.ground import Ground
from fewbits.formats import Fields
from fewbits.qtensor import kept_columns

if TYPE_CHECKING:
    import torch

Hook = Callable[[Any, tuple[Any, ...]], tuple[Any, ...]]


@contextmanager
def rounded_inputs(
    ground: Ground, prefix: str, sites: Mapping[str, Any], fields: Mapping[str, Fields]
) -> Iterator[None]:
    """Until the end of the block, the modules `sites` round their inputs as planned, less columns kept in 16 bits."""
    hooks = []
    for name, module in sites.items():
        target = ground.parameters.find(f"{prefix}.{name}.weight").target
        rounding = ground.planned[target].activation
        if rounding:
            kept = kept_columns(fields[target], (module.out_features, module.in_features))
            hooks.append(module.register_forward_pre_hook(hook(rounding, kept.index if kept else None)))
    try:
        yield
    finally:
        for each in hooks:
            each.remove()


def hook(rounding: str, kept: torch.Tensor | None) -> Hook:
    """What rounds the first input of a module before it is called."""
    chosen = activations.get(rounding)

    def before(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (chosen.rounded(inputs[0], kept), *inputs[1:])

    return before
