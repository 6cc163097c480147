"""The experts of a network of transformers, which keeps them in stacks, by the names of their own matrices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from fewbits.models import EXPERT

if TYPE_CHECKING:
    import torch

GATE_AND_UP, DOWN = ".experts.gate_up_proj", ".experts.down_proj"
"""How the names of the two stacks of a layer end: (experts, 2 * width, hidden) and (experts, hidden, width)."""


def taken_apart(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """`shapes` of parameters by name, with the stacks' matrices under names that leave the expert's number open.

    >>> list(taken_apart({"mlp.experts.down_proj": (4, 8, 6), "mlp.gate.weight": (4, 8)}))
    ['mlp.experts.{expert}.down_proj.weight', 'mlp.gate.weight']
    """
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        if name.endswith(GATE_AND_UP):
            found |= dict.fromkeys(_gate_and_up(name), (shape[0], shape[1] // 2, shape[2]))
        else:
            found[_down(name) if name.endswith(DOWN) else name] = shape
    return found


def put_together(state: Mapping[str, torch.Tensor], names: Iterable[str]) -> dict[str, torch.Tensor]:
    """The parameters `names` of a network, of tensors under the names of `taken_apart`."""
    import torch

    found = {}
    for name in names:
        if name in state:
            found[name] = state[name]
        elif name.endswith(GATE_AND_UP):
            found[name] = torch.cat([state[own] for own in _gate_and_up(name)], 1)
        else:
            found[name] = state[_down(name) if name.endswith(DOWN) else name]
    return found


def matrices_of(name: str) -> tuple[str, ...]:
    """The names of the matrices that the stack `name` is put together of.

    >>> matrices_of("mlp.experts.down_proj")
    ('mlp.experts.{expert}.down_proj.weight',)
    """
    return _gate_and_up(name) if name.endswith(GATE_AND_UP) else (_down(name),)


def _gate_and_up(name: str) -> tuple[str, str]:
    prefix = name.removesuffix(".gate_up_proj")
    return f"{prefix}.{EXPERT}.gate_proj.weight", f"{prefix}.{EXPERT}.up_proj.weight"


def _down(name: str) -> str:
    return f"{name.removesuffix('.down_proj')}.{EXPERT}.down_proj.weight"
