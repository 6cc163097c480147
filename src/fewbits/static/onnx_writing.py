"""`fewbits.static.to_onnx`: the program of codes as an ONNX graph of QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fewbits.checkpoints.onnx.package import onnx_package
from fewbits.checkpoints.partial_file import partial_path, sync_folder
from fewbits.errors import StaticError
from fewbits.static.module import LAYER, StaticModule
from fewbits.static.onnx_graph import OPSET, OnnxGraph, refuse
from fewbits.static.onnx_layers import LAYERS
from fewbits.static.onnx_operations import OPERATIONS
from fewbits.static.program import Program, Ref, Shape, Step

LARGEST = 2**31 - 1
"""Bytes that one protobuf message can have."""


def to_onnx(model: StaticModule, path: str | Path, *, force: bool = False) -> Path:
    """Write `model` as an ONNX graph, and return its path; ONNX Runtime runs it in whole numbers.

    Inputs keep their names; outputs are "output", or "output_0" and so on. Raises StaticError for an operation that has
    no form here, a file that is there unless `force` replaces it, or one that cannot be written; CheckpointError
    without the onnx package.
    """
    target = Path(path)
    onnx = onnx_package()
    if not isinstance(model, StaticModule):
        raise StaticError(f"to_onnx writes what fewbits.static.quantize made; it got a {type(model).__name__}.")
    if target.exists() and not force:
        raise StaticError(f"{target} exists; pass force=True to replace it.")
    if not target.parent.is_dir():
        raise StaticError(f"{target.parent} is no directory to write {target.name} into; create it first.")
    made = _model(onnx, model)
    onnx.checker.check_model(made, full_check=True)
    _write(made.SerializeToString(), target)
    return target


def _write(data: bytes, target: Path) -> None:
    """All bytes under another name, synced, then the name."""
    beside = partial_path(target)
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        raise StaticError(f"{target} cannot be written ({error.strerror}); nothing of it is left there.") from error
    finally:
        beside.unlink(missing_ok=True)


def _model(onnx: Any, model: StaticModule) -> Any:
    """The whole message."""
    from onnx import helper, numpy_helper

    program, graph = model.program, OnnxGraph(helper, numpy_helper)
    for name, tensor in model.constants.named_buffers():
        graph.values[name] = graph.constant(tensor, f"float.{name}")
    graph.values |= {each.name: each.name for each in program.inputs}
    for step in program.steps:
        graph.values[step.name] = _translated(graph, model, step)
    outputs = _outputs(graph, program, helper)
    inputs = [_value(helper, each.name, _elements(helper, each.dtype), each.shape) for each in program.inputs]
    made = helper.make_graph(graph.nodes, model.record.network, inputs, outputs, list(graph.constants.values()))
    if sum(tensor.ByteSize() for tensor in graph.constants.values()) > LARGEST:
        raise StaticError("the graph has more than two gigabytes of constants, which one ONNX file does not hold.")
    opset = [helper.make_opsetid("", OPSET)]
    return helper.make_model(made, opset_imports=opset, ir_version=9, producer_name="fewbits")


def _translated(graph: OnnxGraph, model: StaticModule, step: Step) -> str:
    if step.op.startswith(LAYER):
        layer = model.layers[step.op.removeprefix(LAYER)]
        return LAYERS[type(layer)](graph, layer, step)
    if step.op not in OPERATIONS:
        raise refuse(step)
    return OPERATIONS[step.op](graph, step)


def _outputs(graph: OnnxGraph, program: Program, helper: Any) -> list[Any]:
    """Results under names of their own."""
    steps = {step.name: step for step in program.steps}
    found = []
    for place, output in enumerate(program.outputs):
        step = steps.get(output.name) if isinstance(output, Ref) else None
        if step is None or not step.floating:
            raise StaticError(
                f"output {place} is no tensor of floats that the network works out; ONNX is given only such."
            )
        name = "output" if len(program.outputs) == 1 else f"output_{place}"
        graph.node("Identity", [graph.values[output.name]], name=name)
        found.append(_value(helper, name, 1, step.shape or ()))
    return found


def _elements(helper: Any, dtype: Any) -> Any:
    """ONNX' number for a type of torch's."""
    import numpy as np

    return helper.np_dtype_to_tensor_dtype(np.dtype(str(dtype).removeprefix("torch.")))


def _value(helper: Any, name: str, elements: Any, shape: Shape) -> Any:
    """The statement of an input or an output; the one size that varies is called batch."""
    sizes = ["batch" if size is None and place == 0 else size for place, size in enumerate(shape)]
    return helper.make_tensor_value_info(name, elements, sizes)
