"""HQQ's dialect against its own library, on a CPU: its tensors as we read them, ours in its modules, bit by bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("hqq.core.quantize")

import hqq.core.quantize as hqq
from safetensors.torch import load_file, save_file

import fewbits
from fewbits import formats
from fewbits.checkpoints.dialects import get
from fewbits.checkpoints.dialects.reader import open_quantized
from fewbits.checkpoints.fields import Matrix, StoredMatrix
from fewbits.errors import CheckpointError
from fewbits.evaluation.model_files import open_model
from fewbits.kernels.stored import stored_numbers
from fewbits.testing.dialect_suite import coded
from fewbits.testing.inputs import normal

NAME, ROWS, COLS = "model.layers.0.mlp.up_proj.weight", 64, 256
TYPES = {"f16": torch.float16, "bf16": torch.bfloat16, "": torch.float32}


def quantized(kind: str, w: torch.Tensor, **asked: Any) -> Any:
    """Its module for a matrix."""
    linear = torch.nn.Linear(w.shape[1], w.shape[0], bias=False)
    linear.weight.data = w.clone()
    given = hqq.BaseQuantizeConfig(**{"axis": 1, **asked})
    return hqq.HQQLinear(linear, given, compute_dtype=TYPES[kind], device="cpu")


def loaded(tensors: dict[str, torch.Tensor]) -> Any:
    """Its module with these tensors, which computes in float32."""
    module = hqq.HQQLinear(linear_layer=None, quant_config=None, compute_dtype=torch.float32, device="cpu")
    module.load_state_dict(dict(tensors))
    return module


def read(folder: Path, module: Any) -> StoredMatrix:
    """The matrix of a directory that holds its module."""
    folder.mkdir()
    state = {NAME.replace("weight", key): tensor.contiguous() for key, tensor in module.state_dict().items()}
    save_file({key: tensor.clone() for key, tensor in state.items()}, folder / "model.safetensors")
    stated = {"quant_method": "hqq", "quant_config": module.quant_config, "skip_modules": ["lm_head"]}
    (folder / "config.json").write_text(json.dumps({"quantization_config": stated}))
    reader = open_quantized(folder)
    assert reader is not None
    stored = reader.read(NAME)
    assert isinstance(stored, StoredMatrix)
    return stored


CASES = [(8, 64, "f16"), (6, 32, ""), (5, 64, "bf16"), (4, 64, "f16"), (3, 32, "bf16"), (2, 16, "f16"), (1, 64, "")]


@pytest.mark.parametrize(("bits", "group", "kind"), CASES)
def test_we_read_what_hqq_saves(tmp_path: Path, bits: int, group: int, kind: str) -> None:
    w = normal(ROWS, COLS, 3) * normal(ROWS, 1, 4) * 0.1 + 0.01
    module = quantized(kind, w, nbits=bits, group_size=group)
    stored = read(tmp_path / "theirs", module)
    assert stored.format == f"uint{bits}_g{group}_floatzero{'_' if kind else ''}{kind}"
    found = stored_numbers(formats.get(stored.format), stored.load(), (ROWS, COLS))
    wide = loaded(module.state_dict() | {"compute_dtype": as_letters("torch.float32")})
    assert torch.equal(found, wide.dequantize())
    assert len(found.unique()) > 100
    codes, params = formats.get(stored.format).from_fields(stored.load(), (ROWS, COLS))
    steps, scale, zero = (t.to(TYPES[kind]) for t in (codes, params["scale"], params["zero"]))
    narrow = (steps - zero.repeat_interleave(group, 1)) * scale.repeat_interleave(group, 1)
    assert torch.equal(narrow, module.dequantize()), "in its own type it rounds difference and product"


def as_letters(word: str) -> torch.Tensor:
    return torch.tensor(list(word.encode()), dtype=torch.uint8)


def test_a_row_is_a_group_where_none_is_asked_for(tmp_path: Path) -> None:
    """Its configuration is that of the file then; the module states the columns."""
    module = quantized("f16", normal(ROWS, COLS, 5), nbits=8, group_size=None)
    assert int(module.state_dict()["group_size"]) == COLS
    assert read(tmp_path / "theirs", module).format == f"uint8_g{COLS}_floatzero_f16"
    folder = tmp_path / "theirs"
    (folder / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "hqq"}}))
    reader = open_quantized(folder)
    assert reader is not None
    assert reader.read(NAME).format == "uint8_row_floatzero_f16"


OURS = ("uint8_g64_floatzero_f16", "uint6_g64_floatzero", "uint4_g64_floatzero_bf16", "uint3_g64_floatzero_f16")
OURS += ("uint2_row_floatzero", "uint1_g32_floatzero_f16", "uint4_g128_asym_f16", "uint8_row_asym", "int4_g64_sym_bf16")


@pytest.mark.parametrize("name", OURS)
def test_hqq_reads_what_we_pack(name: str) -> None:
    matrix = Matrix(NAME, name, (ROWS, COLS))
    fields, dialect = coded(matrix), get("hqq")
    packed = {key.rpartition(".")[2]: as_torch(array) for key, array in dialect.pack(matrix, fields).items()}
    module = loaded(packed)
    assert set(packed) == module.state_dict_keys() - {"bias"}
    wanted = stored_numbers(formats.get(name), fields, (ROWS, COLS))
    assert torch.equal(module.dequantize(), wanted)
    assert (module.in_features, module.out_features) == (COLS, ROWS)


def as_torch(array: np.ndarray) -> torch.Tensor:
    array = np.ascontiguousarray(array)
    return (
        torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        if array.dtype == np.uint16
        else torch.from_numpy(array.copy())
    )


def test_its_modules_in_a_model_of_ours(pocket: Path, tmp_path: Path) -> None:
    """Every linear module of the network replaced by its own: the same logits."""
    fewbits.quantize(pocket, tmp_path / "out", to="uint4_g64_floatzero_f16", dialect="hqq", threads=2)
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    ours, theirs = (open_model(tmp_path / "out").load().network for _ in range(2))
    replaced = 0
    for name, module in list(theirs.named_modules()):
        own = {key.rpartition(".")[2]: tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")}
        if isinstance(module, torch.nn.Linear) and "W_q" in own:
            parent, _, last = name.rpartition(".")
            setattr(theirs.get_submodule(parent), last, loaded(own))
            replaced += 1
    ids = torch.arange(5, 69)[None]
    with torch.inference_mode():
        a, b = (network(ids).logits.double() for network in (ours, theirs))
    assert replaced == 28
    assert float((a - b).norm() / a.norm()) < 1e-6


@pytest.mark.parametrize(
    ("asked", "message"),
    [({"axis": 0}, "groups run down the columns"), ({"view_as_float": True}, "view_as_float is set")],
)
def test_what_is_not_read(tmp_path: Path, asked: dict[str, Any], message: str) -> None:
    module = quantized("f16", normal(ROWS, COLS, 6), nbits=4, group_size=64, **asked)
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path / "theirs", module)
