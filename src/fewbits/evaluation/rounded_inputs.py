"""A network whose matrices round their inputs, as a file says: in floats, with the codes and scales of the kernels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewbits import activations
from fewbits.checkpoints.base import StoredTensor
from fewbits.checkpoints.fields import StoredMatrix
from fewbits.checkpoints.quoting import quoted
from fewbits.errors import EvaluationError, RecipeError
from fewbits.qtensor import kept_columns

if TYPE_CHECKING:
    import torch


def round_inputs(path: Path, network: Any, tensors: Iterable[StoredMatrix | StoredTensor]) -> dict[str, int]:
    """Let every linear module of `network` whose matrix states it round its inputs; rounding -> how many do.

    Columns kept in 16 bits get theirs as they are. Raises EvaluationError, naming the tensor of `path`, where a matrix
    is no linear module's or states a rounding that is not known.
    """
    found: Counter[str] = Counter()
    for stored in tensors:
        if isinstance(stored, StoredMatrix) and stored.activation:
            _round(path, network, stored, stored.activation)
            found[stored.activation] += 1
    return dict(found)


def _round(path: Path, network: Any, stored: StoredMatrix, name: str) -> None:
    import torch

    try:
        rounding = activations.get(name)
        module = network.get_submodule(stored.name.removesuffix(".weight"))
    except (RecipeError, AttributeError) as error:
        raise EvaluationError(
            f"{path}: the inputs of {quoted(stored.name)} cannot be rounded as {quoted(name)}; a newer one may know."
        ) from error
    if not isinstance(module, torch.nn.Linear):
        raise EvaluationError(
            f"{path}: {quoted(stored.name)} is no matrix of a linear layer, so no inputs can be rounded."
        )
    kept = kept_columns(stored.load(), (module.out_features, module.in_features)) if stored.outliers else None
    index = kept.index if kept else None

    def before(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (rounding.rounded(inputs[0], index), *inputs[1:])

    module.register_forward_pre_hook(before)
