"""bitsandbytes' eight bits (LLM.int8()): rows of codes, and beside them what code 127 stands for.

    weight         I8 (rows, cols)
    SCB            F32 (rows)
    weight_format  U8 ()            0: the codes lie row by row

Which columns of inputs are multiplied in 16 bits its reader decides while it runs, by `llm_int8_threshold`.
Source: bitsandbytes' nn.Linear8bitLt, the peer in tests.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fewbits.checkpoints.dialects.base import Arrays, Files, Slots, array, sides, stem
from fewbits.checkpoints.fields import Matrix
from fewbits.errors import CheckpointError
from fewbits.formats import Fields

FORMAT = "int8_row_absmax"
_SCALES = ".SCB"
BY_ROWS = 0


def slots(matrix: Matrix) -> Slots:
    """`weight`, and its scales."""
    module = stem(matrix.name)
    return {
        matrix.name: ("I8", matrix.shape),
        f"{module}{_SCALES}": ("F32", matrix.shape[:1]),
        f"{module}.weight_format": ("U8", ()),
    }


def pack(matrix: Matrix, fields: Fields) -> Arrays:
    """Codes and scales as they are."""
    module = stem(matrix.name)
    return {
        matrix.name: fields["codes"].view(np.int8),
        f"{module}{_SCALES}": fields["scale"].reshape(-1),
        f"{module}.weight_format": np.array(BY_ROWS, np.uint8),
    }


def configuration() -> dict[str, Any]:
    """What transformers' BitsAndBytesConfig says of them."""
    return {"load_in_4bit": False, "load_in_8bit": True, "_load_in_4bit": False, "_load_in_8bit": True}


def matrices(files: Files) -> dict[str, Matrix]:
    """Whatever has scales."""
    present, found = set(files.names()), {}
    for each in sorted(present):
        module = each.removesuffix(_SCALES)
        if module != each and f"{module}.weight" in present:
            found[f"{module}.weight"] = Matrix(f"{module}.weight", FORMAT, sides(files, f"{module}.weight"))
    return found


def unpack(matrix: Matrix, files: Files) -> Fields:
    """Codes and scales; raises CheckpointError where codes lie in the order that some GPU once wanted."""
    read = {name.rpartition(".")[2]: name for name in slots(matrix) if name in files.names()}
    stated = slots(matrix)
    if "weight_format" in read and int(array(files, read["weight_format"], *stated[read["weight_format"]])) != BY_ROWS:
        raise CheckpointError(
            f"tensor {matrix.name} does not lie row by row (weight_format), which is not read; save it again with a "
            "newer bitsandbytes."
        )
    codes, scale = (array(files, read[part], *stated[read[part]]) for part in ("weight", "SCB"))
    return {"codes": codes.view(np.uint8), "scale": scale.reshape(-1, 1)}
