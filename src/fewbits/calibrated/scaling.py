"""What transforms do to the tensors of a layer: rows and columns times factors, which the file holds from then on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fewbits import activations, formats
from fewbits.calibrated.ground import Ground
from fewbits.calibrated.workspace import Workspace
from fewbits.calibration.walk import Measured
from fewbits.errors import CalibrationError
from fewbits.formats import Fields
from fewbits.transforms import Edits, Group, groups_of
from fewbits.transforms.base import Rounding
from fewbits.transforms.edits import ScaledColumns, ScaledRows

if TYPE_CHECKING:
    import torch

Factors = npt.NDArray[np.float32]

KIND = "scaling"
"""Among the kinds of what is kept of a layer."""


@dataclass(frozen=True)
class Scaling:
    """Factors of a tensor's rows and columns in the target's order: w[r, c] becomes (w[r, c] columns[c]) rows[r]."""

    rows: Factors | None = None
    columns: Factors | None = None

    def applied(self, w: npt.NDArray[np.float32], start: int = 0) -> npt.NDArray[np.float32]:
        """Rows `w` (n, cols) float32 of the tensor, from row `start` on; every product is rounded to float32."""
        if self.columns is not None:
            w = w * self.columns
        if self.rows is not None:
            w = w * self.rows[start : start + len(w), None]
        return w

    def fields(self) -> Fields:
        """To be kept."""
        return {name: array for name, array in vars(self).items() if array is not None}


def kept_scaling(work: Workspace, layer: str, tensor: str) -> Scaling | None:
    """The scaling of a tensor of a finished layer; None where it is as in the source."""
    fields = work.fields(layer, KIND, tensor)
    return Scaling(**{name: np.array(array) for name, array in fields.items()}) if fields else None


def scale(ground: Ground, index: int, layer: Any, sites: Mapping[str, Any], measured: Measured) -> dict[str, Scaling]:
    """Find the scalings of layer `index` by its Hessians, target -> scaling, and give its modules their new numbers."""
    edits = Edits()
    for transform in ground.way.transforms:
        edits += _edits(ground, index, transform, sites, measured)
    found = _scalings(ground, edits)
    put_scaled(ground, index, layer, found)
    return found


def _edits(ground: Ground, index: int, transform: Any, sites: Mapping[str, Any], measured: Measured) -> Edits:
    prefix = ground.network.layer_name(index)
    leaders = {f"{prefix}.{name}.weight": leader for leader, names in measured.groups.items() for name in names}
    weights = {f"{prefix}.{name}.weight": module.weight.data for name, module in sites.items()}
    result = Edits()
    for group in groups_of(ground.source.architecture, ground.source.config, ground.parameters.named, index):
        if not group.producers or any(name not in weights for name in group.consumers):
            continue  # a consumer that keeps its numbers cannot be scaled with the others
        chosen = {name: formats.get(ground.planned[ground.parameters.find(name).target].format) for name in weights}
        leader = leaders[group.consumers[0]]
        stats: dict[str, Any] = {"hessian": measured.hessians[leader].value}
        if leader in measured.seen:
            seen = measured.seen[leader]
            stats |= {"absmax": seen.absmax, "inputs": seen.inputs}
        result += transform.edits(group, weights, chosen, stats, rounding=_rounding(ground, group))
    return result


def _rounding(ground: Ground, group: Group) -> Rounding | None:
    """What becomes of the inputs of the consumers, one and the same for all of them; else None."""
    planned = [ground.planned[ground.parameters.find(name).target] for name in group.consumers]
    names = {each.activation for each in planned}
    only = names.pop() if len(names) == 1 else None
    return activations.get(only).rounded if only else None


def _scalings(ground: Ground, edits: Edits) -> dict[str, Scaling]:
    rows: dict[str, torch.Tensor] = {}
    columns: dict[str, torch.Tensor] = {}
    for edit in edits.steps:
        if not isinstance(edit, ScaledRows | ScaledColumns):
            raise CalibrationError(f"a transform does more to {edit.tensor} than scale it, which no file can hold yet.")
        factors = rows if isinstance(edit, ScaledRows) else columns
        factor = edit.factor.double()
        factors[edit.tensor] = factors[edit.tensor] * factor if edit.tensor in factors else factor
    found = {}
    for name in {**rows, **columns}:
        parameter = ground.parameters.find(name)
        own = parameter.in_target(rows[name]).float().numpy() if name in rows else None
        found[parameter.target] = Scaling(own, columns[name].float().numpy() if name in columns else None)
    return found


def put_scaled(ground: Ground, index: int, layer: Any, scalings: Mapping[str, Scaling]) -> None:
    """Give the parameters of `layer` the numbers that they have in the file, those to be solved unrounded."""
    import torch

    prefix = ground.network.layer_name(index)
    for name, parameter in layer.named_parameters():
        known = ground.parameters.find(f"{prefix}.{name}")
        scaling = scalings.get(known.target)
        if scaling is None:
            continue
        numbers = np.ascontiguousarray(scaling.applied(known.rows().numpy()))
        solved = ground.planned[known.target].method == ground.way.name
        w = torch.from_numpy(numbers) if solved else ground.rounded(known, "F32", numbers.view(np.uint8))
        parameter.data.copy_(known.in_network(w))
