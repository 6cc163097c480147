"""Quantized model directories: what the configuration says of a dialect, and the types and shapes beside it."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

FORMATS = {
    "gptq": "int4_g32_sym_f16",
    "awq": "uint4_g32_asym_f16",
    "compressed-tensors": "int4_g32_sym_f16",
    "bitsandbytes": "nf4_g64_dq",
    "fp8": "fp8_e4m3_tile128",
    "mlx": "uint4_g32_bias_f16",
    "hqq": "uint4_g32_floatzero_f16",
    "torchao": "uint4_g32_asym_bf16",
}
"""Dialect -> a format that it holds."""
MORE = (
    ("bitsandbytes", "int8_row_absmax"),
    ("compressed-tensors", "nvfp4_divided"),
    ("torchao", "int4_g32_sym_bf16"),
    ("torchao", "int8_row_sym"),
    ("torchao", "fp8_e5m2_g32"),
    ("torchao", "nvfp4"),
)
"""Dialects that lay out one format quite otherwise than another."""

WIDTHS = {"U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F16": 2, "BF16": 2, "I32": 4, "U32": 4, "F32": 4, "I64": 8}
MOST = 1 << 20
"""Bytes of the weights of a directory: what is larger is not laid out here."""


def directory_seeds() -> list[bytes]:
    """What fewbits itself writes in each dialect: the configuration, and of each tensor its type, shape and bytes."""
    described = [_described(dialect, name) for dialect, name in (*FORMATS.items(), *MORE)]
    return [json.dumps(each).encode() for each in (*described, STACKS)]


STACKS: dict[str, Any] = {
    "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": []},
    "tensors": {
        "model.layers.0.mlp.experts.down_proj_blocks": {"dtype": "U8", "shape": [2, 8, 2, 16], "bytes": "31c4"},
        "model.layers.0.mlp.experts.down_proj_scales": {"dtype": "U8", "shape": [2, 8, 2], "bytes": "7f7d80"},
    },
    "metadata": {},
}
"""Stacks of experts in MXFP4, which are read and not written."""


def _described(dialect_name: str, format_name: str) -> dict[str, Any]:
    import torch

    from fewbits import formats
    from fewbits.checkpoints.dialects import get
    from fewbits.checkpoints.dialects.base import InHeaders
    from fewbits.checkpoints.fields import Matrix
    from fewbits.qtensor import QTensor

    dialect, format, shape = get(dialect_name), formats.get(format_name), (128, 128)
    matrix = Matrix("model.layers.0.mlp.up_proj.weight", format_name, shape)
    w = torch.linspace(-1, 1, prod(shape)).reshape(shape)
    params = format.fit(w)
    packed = dialect.pack(matrix, QTensor(format, format.encode(w, params), params).fields())
    tensors = {
        name: {"dtype": dtype, "shape": list(lines), "bytes": packed[name].tobytes()[:1024].hex()}
        for name, (dtype, lines) in dialect.slots(matrix).items()
    }
    said = dialect.header([matrix], ["model.norm.weight"], "float32") if isinstance(dialect, InHeaders) else {}
    stated = {key: json.loads(value) for key, value in said.items()}
    return {"quantization_config": dialect.configuration([matrix], []), "tensors": tensors, "metadata": stated}


def read_directory(path: Path) -> None:
    """The directory that the file describes: every matrix as fields, as numbers, and as the stranger reads it."""
    from fewbits.checkpoints.dialects.reader import open_quantized
    from fewbits.checkpoints.fields import StoredMatrix
    from fewbits.checkpoints.jsonfile import load_object
    from fewbits.inspection import inspect

    described = load_object(path)
    with TemporaryDirectory() as folder:
        if not _laid_out(Path(folder), described):
            return
        reader = open_quantized(Path(folder))
        if reader is None:
            return
        for name in reader.names():
            stored = reader.read(name)
            if isinstance(stored, StoredMatrix):
                _decode(stored)
        inspect(folder).to_json()


def _decode(stored: Any) -> None:
    """The numbers of one small matrix."""
    from fewbits import formats
    from fewbits.kernels.stored import stored_numbers

    shape = (prod(stored.shape[:-1]), stored.shape[-1])
    if prod(shape) <= MOST:
        numbers = stored_numbers(formats.get(stored.format), stored.load(), shape)
        assert tuple(numbers.shape) == shape, "a matrix has another shape than it states"


def _laid_out(folder: Path, described: dict[str, Any]) -> bool:
    """Write the directory; whether the description is of one that can be written."""
    tensors = described.get("tensors")
    if not isinstance(tensors, dict) or not all(map(_is_tensor, tensors.values())):
        return False
    if sum(_size(each) for each in tensors.values()) > MOST:
        return False
    config = {key: value for key, value in described.items() if key not in {"tensors", "metadata"}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8", errors="surrogatepass")
    stated = described.get("metadata", {})
    if isinstance(stated, dict):
        stated = {key: value if isinstance(value, str) else json.dumps(value) for key, value in stated.items()}
    header: dict[str, Any] = {"__metadata__": stated}
    data = b""
    for name, each in tensors.items():
        own = _content(each)
        header[name] = {
            "dtype": each["dtype"],
            "shape": each["shape"],
            "data_offsets": [len(data), len(data) + len(own)],
        }
        data += own
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    return True


def _is_tensor(each: Any) -> bool:
    if not isinstance(each, dict) or str(each.get("dtype")) not in WIDTHS or not isinstance(each.get("shape"), list):
        return False
    return all(type(n) is int and 0 <= n < MOST for n in each["shape"]) and len(each["shape"]) <= 4


def _size(each: dict[str, Any]) -> int:
    return int(prod(each["shape"])) * WIDTHS[each["dtype"]]


def _content(each: dict[str, Any]) -> bytes:
    """The bytes that are told, again and again, as many as there have to be."""
    told = each.get("bytes")
    try:
        start = bytes.fromhex(told) if isinstance(told, str) else b""
    except ValueError:
        start = b""
    return np.resize(np.frombuffer(start or b"\x3c", np.uint8), _size(each)).tobytes()
