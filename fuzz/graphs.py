"""ONNX graphs to begin with, the ways in which they are spoiled, and all that fewbits ever reads of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

WEIRD = (-1, 0, 1, 2, 3, 7, 8, 16, 17, 31, 2**15, 2**31, 2**40, 2**62, 2**63 - 1, -(2**63))
NAMES = ("", "x", "w", "w_Q4", "s", "z", "y", "../data", "/data", "data", "a\\b", "\n", "q" * 300)


def _tensor(name: str, array: Any) -> Any:
    from onnx import numpy_helper

    return numpy_helper.from_array(np.asarray(array), name)


def _model(nodes: Sequence[Any], tensors: Sequence[Any]) -> Any:
    from onnx import TensorProto, helper

    given, made = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", None]) for name in "xy")
    graph = helper.make_graph(list(nodes), "g", [given], [made], list(tensors))
    domains = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=10)


def graph_seeds() -> list[bytes]:
    """A float graph with a branch, one whose data lie beside it, and matrices in both dialects."""
    from onnx import TensorProto, helper

    numbers = np.linspace(-1, 1, 32 * 32, dtype=np.float32).reshape(32, 32)
    bias = _tensor("b", numbers[0])
    inner = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["i"])], "inner", [], [helper.make_tensor_value_info("i", 1, None)]
    )
    plain = _model(
        [
            helper.make_node("If", ["c"], ["h"], then_branch=inner, else_branch=inner),
            helper.make_node("Gemm", ["h", "v", "b"], ["y"], transB=1),
        ],
        [_tensor("w", numbers), _tensor("v", numbers.astype(np.float32)), bias, _tensor("c", np.array(True))],
    )
    outside = _model([helper.make_node("MatMul", ["x", "w"], ["y"])], [])
    tensor = outside.graph.initializer.add(name="w", data_type=TensorProto.FLOAT, dims=[32, 32], data_location=1)
    for key, value in (("location", "data"), ("offset", "64"), ("length", "4096")):
        tensor.external_data.add(key=key, value=value)
    typed = _model([helper.make_node("MatMul", ["x", "w"], ["y"])], [])
    typed.graph.initializer.append(helper.make_tensor("w", TensorProto.FLOAT, [32, 32], numbers.ravel().tolist()))
    return [each.SerializeToString() for each in (plain, outside, typed, *_quantized(bias))]


def _quantized(bias: Any) -> list[Any]:
    from onnx import TensorProto, helper

    codes = np.arange(32 * 2 * 8, dtype=np.uint8).reshape(32, 2, 8)
    scales = np.linspace(0.1, 1, 64, dtype=np.float32).reshape(32, 2)
    zeros = np.arange(32, dtype=np.uint8).reshape(32, 1)
    told: dict[str, Any] = {"domain": "com.microsoft", "K": 32, "N": 32, "bits": 4, "block_size": 16}
    packed = _model(
        [
            helper.make_node("MatMulNBits", ["x", "w_Q4", "s", "z"], ["h"], **told),
            helper.make_node("MatMulNBits", ["h", "w_Q4", "s", "", "", "b"], ["y"], **told),
        ],
        [_tensor("w_Q4", codes), _tensor("s", scales), _tensor("z", zeros), bias],
    )
    small = helper.make_tensor("w_Q4", TensorProto.INT4, [32, 32], codes.tobytes(), raw=True)
    decoded = _model(
        [
            helper.make_node("DequantizeLinear", ["w_Q4", "s"], ["d"], axis=0, block_size=16),
            helper.make_node("DequantizeLinear", ["v", "t", "z"], ["e"], axis=0),
            helper.make_node("MatMul", ["x", "d"], ["h"]),
            helper.make_node("Gemm", ["h", "e", "b"], ["y"], transB=1),
        ],
        [
            small,
            _tensor("s", scales.T.copy()),
            _tensor("v", codes.reshape(16, 32).view(np.int8).repeat(2, 0)),
            _tensor("t", scales[:, 0].copy()),
            _tensor("z", zeros[:, 0].view(np.int8).copy()),
            bias,
        ],
    )
    return [packed, decoded]


def spoiled_graph(random: Any, data: bytes, corpus: Sequence[bytes]) -> bytes:
    """The same graph with some of its fields changed."""
    import onnx

    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception:  # one that was spoiled before
        return data
    try:
        for _ in range(random.randint(1, 3)):
            _spoil(random, model)
        spoiled: bytes = model.SerializeToString()
    except (TypeError, ValueError):  # a number that its field does not hold, a text that is no UTF-8
        return data
    return spoiled


def _spoil(random: Any, message: Any) -> None:
    """Change a field of `message`, or go into one of its messages."""
    fields = message.ListFields()
    if not fields or random.random() < 0.05:
        return
    told, value = random.choice(fields)
    if told.name == "graph" or random.random() < 0.3:
        told, value = next(((f, v) for f, v in fields if f.name == "graph"), (told, value))
    several = not isinstance(value, str | bytes | int | float) and hasattr(value, "__len__")
    if told.message_type is not None:
        _spoil_message(random, value if several else [value])
    elif several:
        place = random.randrange(len(value) + 1)
        if place < len(value):
            value[place] = _other(random, value[place])
        elif random.random() < 0.5:
            value.pop()
        else:
            value.append(_other(random, value[0]))
    else:
        setattr(message, told.name, _other(random, value))


def _spoil_message(random: Any, several: Any) -> None:
    if len(several) > 1 and random.random() < 0.2:
        one, other = random.sample(range(len(several)), 2)
        several[one].CopyFrom(several[other])
        return
    if hasattr(several, "add") and random.random() < 0.1:
        del several[random.randrange(len(several))]
        return
    _spoil(random, random.choice(list(several)))


def _other(random: Any, value: Any) -> Any:
    if isinstance(value, bool | int):
        return random.choice((value + 1, value - 1, value * 2, random.choice(WEIRD)))
    if isinstance(value, float):
        return random.choice((0.0, -1.0, float("nan"), float("inf")))
    if isinstance(value, bytes):
        return random.choice((b"", value[:-1], value + b"\0", value[: len(value) // 2], bytes(len(value))))
    return random.choice((*NAMES, str(random.choice(WEIRD)), value + "x", value[:-1]))


def read_graph(path: Path) -> None:
    """Every tensor and matrix, the graph for people, and all that is decided before it is quantized or moved."""
    from fewbits.checkpoints.fields import StoredMatrix
    from fewbits.checkpoints.onnx.reader import OnnxReader
    from fewbits.checkpoints.onnx.source import convert_onnx
    from fewbits.conversion.to_onnx import to_onnx
    from fewbits.errors import FewbitsError
    from fewbits.inspection import inspect
    from fewbits.verification.onnx_numbers import number_sources
    from fuzz.laws import require_sentence

    data = path.with_name("data")
    if not data.exists():
        data.write_bytes(bytes(8192))
    reader = OnnxReader(path)
    for name in reader.names():
        found = reader.read(name)
        if isinstance(found, StoredMatrix) and np.prod(found.shape) < 1 << 16:
            for field, (dtype, shape) in found.shapes.items():
                array = found.load()[field]
                assert (array.shape, str(array.dtype)) == (shape, dtype), "fields of another shape"
    out = path.with_name("out.onnx")
    steps: tuple[Callable[[], object], ...] = (
        lambda: inspect(path).to_json(),
        lambda: convert_onnx(path),
        lambda: to_onnx("x", path, out, "qdq"),
        lambda: to_onnx("x", path, out, "matmulnbits"),
        lambda: [each.numbers(0, 1) for each in number_sources(reader.file).values()],
        lambda: _planned(path, out),
    )
    for step in steps:
        try:
            step()
        except FewbitsError as error:
            require_sentence(error)


def _planned(path: Path, out: Path) -> None:
    """What quantizing would write."""
    from fewbits import planning
    from fewbits.assignment import assign
    from fewbits.checkpoints.onnx.source import convert_onnx
    from fewbits.methods import get
    from fewbits.onnx_target import OnnxTarget

    for dialect in ("matmulnbits", "qdq"):
        target, recipe = OnnxTarget.of(out, dialect), planning.get("int4_g16_sym")
        conversion = convert_onnx(path)
        tensors = assign(conversion, recipe, get("nearest"), None, target).tensors
        target.prepare(conversion, tensors, recipe, None)
