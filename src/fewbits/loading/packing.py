"""A weight that transformers has just read becomes a packed matrix before it reads the next one."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers.core_model_loading import ConversionOps

from fewbits.checkpoints.base import StoredTensor
from fewbits.checkpoints.fields import StoredMatrix
from fewbits.errors import FewbitsError
from fewbits.layers.encoding import Claim, packed_matrix, verify_packed
from fewbits.layers.finding import DTYPES, Found
from fewbits.layers.matrix import PackedMatrix
from fewbits.layers.modules import Conv1D, kind_of
from fewbits.loading.placing import put
from fewbits.loading.planned import Plan
from fewbits.reporting.record import PlannedTensor
from fewbits.workers import Workers, one_torch_thread, usable_threads


class Packing:
    """What happened so far to the weights of a plan."""

    def __init__(self, plan: Plan, inputs: str) -> None:
        self.plan = plan
        self.inputs = inputs
        """How inputs are taken where the plan says nothing of them."""
        self.matrices: dict[str, PackedMatrix] = {}
        """Name of the first module that uses it -> the matrix."""
        self.errors: dict[str, float] = {}
        """The same name -> relative error."""
        self.failure: FewbitsError | None = None
        """What went wrong; transformers would make a report of its own of an error that is raised meanwhile."""

    def pack(self, network: Any, found: Found, planned: PlannedTensor, weight: torch.Tensor) -> None:
        """Pack `weight`, check it, and give it to all modules that use it; the first that comes is taken."""
        first = found.users[0]
        if first in self.matrices or self.failure is not None:
            return
        turned = kind_of(network.get_submodule(first)) is Conv1D
        rows = weight.T if turned else weight.reshape(len(weight), -1)
        try:
            matrix, error = _proved(_stored(planned.name, rows), planned)
        except FewbitsError as failure:
            self.failure = failure
            return
        matrix.to(weight.device)
        for user in found.users:
            put(network.get_submodule(user), matrix, weight.shape, weight.dtype, planned.activation or self.inputs)
        self.matrices[first], self.errors[first] = matrix, error

    @property
    def rounding(self) -> list[StoredMatrix]:
        """The matrices whose inputs are rounded, by the names of their modules."""
        pairs = {user.removesuffix(".weight"): t for user, (_, t) in self.plan.tensors.items() if t.activation}
        return [StoredMatrix(name, t.format, t.shape, t.activation) for name, t in pairs.items()]


def _stored(name: str, rows: torch.Tensor) -> StoredTensor:
    """The matrix as bytes, on the CPU; a view where it lies there row by row."""
    matrix = rows.detach().cpu().contiguous()
    raw = matrix.view(torch.uint8).numpy().reshape(-1).view(np.uint8)
    return StoredTensor(name, DTYPES[matrix.dtype], (int(matrix.shape[0]), int(matrix.shape[1])), raw)


def _proved(source: StoredTensor, planned: PlannedTensor) -> tuple[PackedMatrix, float]:
    """The packed matrix and its relative error, after independent code has read it and compared it with `source`."""
    with Workers(usable_threads(None)) as workers, one_torch_thread():
        matrix, error = packed_matrix(source, planned, None, workers)
        verify_packed({planned.name: Claim(matrix, source, error)}, workers, lambda done, total: None)
    return matrix, error


class PackOperation(ConversionOps):
    """What transformers calls with a weight in place of setting it."""

    def __init__(self, packing: Packing) -> None:
        self._packing = packing

    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **more: Any
    ) -> dict[str, list[torch.Tensor]]:
        """Pack the weights of `input_dict`; nothing is left to be set."""
        model, missing_keys = more["model"], more["missing_keys"]
        for name, value in input_dict.items():
            found, planned = self._packing.plan.tensors[name]
            self._packing.pack(model, found, planned, value[0] if isinstance(value, list) else value)
            for user in found.users:
                missing_keys.discard(f"{user}.weight")
        return {}
