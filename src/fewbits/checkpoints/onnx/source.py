"""An ONNX graph as a source: the float matrices of its nodes, all else carried along."""

from __future__ import annotations

from pathlib import Path

from fewbits.checkpoints.base import Conversion, Placement
from fewbits.checkpoints.onnx.dialects import GRAPH_DIALECTS, get
from fewbits.checkpoints.onnx.file import OnnxFile
from fewbits.checkpoints.onnx.weights import find_weights, stored_weight
from fewbits.errors import CheckpointError

ARCHITECTURE = "onnx"
"""In place of an architecture's name: a graph states none."""
SUFFIX = ".onnx"


def is_onnx(path: Path) -> bool:
    """Whether the name says that it is an ONNX file, which has no other mark."""
    return path.suffix.lower() == SUFFIX


def convert_onnx(path: Path) -> Conversion:
    """The graph at `path` as a source; raises CheckpointError where nothing of it can be quantized."""
    file = OnnxFile(path)
    weights, notes = find_weights(file)
    if not weights:
        held = next((name for name in GRAPH_DIALECTS if get(name).find(file)[0]), None)
        if held:
            raise CheckpointError(
                f"{path} is quantized already, in the dialect {held}; start from the original model, never a second "
                "rounding, or move it to another dialect with fewbits convert."
            )
        raise CheckpointError(
            f"{path} has no MatMul, Gemm, Conv or Gather with a constant float32 or float16 matrix, so nothing can be "
            "quantized."
        )
    placements, names = [], set[str]()
    for weight in weights.values():
        name = weight.name if weight.name.endswith("weight") else f"{weight.name}.weight"
        while name in names:
            name += ".weight"
        names.add(name)
        placements.append(Placement(name, stored_weight(file, weight)))
    carried = sum(file.stored(tensor).bytes for tensor in file.initializers.values() if tensor.name not in weights)
    return Conversion(
        architecture=ARCHITECTURE,
        metadata={},
        placements=tuple(placements),
        files=file.files,
        notes=notes,
        carried=carried,
    )
