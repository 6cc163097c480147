"""MXFP4 as gpt-oss has it: all experts of a layer in one stack, outputs as rows, 32 columns behind one power of two.

    NAME_blocks   U8 (experts, rows, cols / 32, 16)   two codes a byte, the lower half first
    NAME_scales   U8 (experts, rows, cols / 32)       E8M0: 2^(scale - 127)

NAME is that of transformers' stack (gate_up_proj, down_proj), which has its columns as rows where it is not quantized.
Read only: a directory of ours lists matrices. Source: transformers' MXFP4 quantizer, and OCP's specification of MX.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fewbits.checkpoints.dialects.base import Arrays, Configuration, Files, Slots, array
from fewbits.checkpoints.fields import Matrix
from fewbits.checkpoints.quoting import quoted
from fewbits.errors import CheckpointError
from fewbits.formats import Fields

FORMAT = "mxfp4"
SPAN = 32
BLOCKS, SCALES = "_blocks", "_scales"


class MXFP4Stacks:
    """Stacks of experts in MXFP4."""

    name = "mxfp4"
    readers = "transformers, vLLM"
    keys: tuple[str, ...] = ("quantization_config",)
    inputs: frozenset[str] = frozenset()
    holds_order = False

    def refuses(self, matrix: Matrix) -> str | None:
        """Everything."""
        return f"is {matrix.format}, and the dialect mxfp4 is read and not written; take --dialect compressed-tensors"

    def slots(self, matrix: Matrix) -> Slots:
        """Codes and scales."""
        *lines, cols = matrix.shape
        return {
            f"{matrix.name}{BLOCKS}": ("U8", (*lines, cols // SPAN, SPAN // 2)),
            f"{matrix.name}{SCALES}": ("U8", (*lines, cols // SPAN)),
        }

    def pack(self, matrix: Matrix, fields: Fields) -> Arrays:
        """Nothing is written."""
        raise CheckpointError(f"tensor {matrix.name} {self.refuses(matrix)}.")

    def configuration(self, matrices: Sequence[Matrix], plain: Sequence[str]) -> dict[str, Any]:
        """Nothing is written."""
        raise CheckpointError(f"tensor {matrices[0].name} {self.refuses(matrices[0])}.")

    def recognizes(self, configuration: Configuration) -> bool:
        """By its method."""
        return configuration.get("quant_method") == "mxfp4"

    def matrices(self, configuration: Configuration, files: Files) -> dict[str, Matrix]:
        """Whatever has blocks; raises CheckpointError where they have another shape."""
        found = {}
        for name in (each.removesuffix(BLOCKS) for each in files.names() if each.endswith(BLOCKS)):
            shape = files.read(name + BLOCKS).shape
            if len(shape) != 4 or shape[-1] != SPAN // 2:
                raise CheckpointError(
                    f"tensor {quoted(name + BLOCKS)} has shape {list(shape)}, and codes of MXFP4 are read as (experts, "
                    f"rows, groups, {SPAN // 2}); the file does not hold what its configuration says."
                )
            found[name] = Matrix(name, FORMAT, (*shape[:2], shape[2] * SPAN))
        return found

    def unpack(self, matrix: Matrix, files: Files, configuration: Configuration) -> Fields:
        """The tensors themselves, all experts' rows one after another."""
        (blocks, scales), rows = self.slots(matrix).items(), int(np.prod(matrix.shape[:-1]))
        return {
            "codes": array(files, blocks[0], *blocks[1]).reshape(rows, -1),
            "scale": array(files, scales[0], *scales[1]).reshape(rows, -1),
        }
