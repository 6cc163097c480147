"""MLX's dialect against mlx.core itself, on a CPU: its arrays as we read them, ours as it decodes them, bit by bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("mlx.core")

import mlx.core as mx

import fewbits
from fewbits import formats
from fewbits.checkpoints.dialects import get
from fewbits.checkpoints.dialects.mlx import MODES
from fewbits.checkpoints.dialects.reader import open_quantized
from fewbits.checkpoints.fields import Matrix, StoredMatrix
from fewbits.evaluation.model_files import open_model
from fewbits.kernels.stored import stored_numbers
from fewbits.testing.dialect_suite import coded
from fewbits.testing.inputs import normal

NAME, ROWS, COLS = "model.layers.0.mlp.up_proj.weight", 64, 256
TYPES = {"f16": mx.float16, "bf16": mx.bfloat16, "": mx.float32}
TORCH = {"f16": torch.float16, "bf16": torch.bfloat16, "": torch.float32}
CASES = [(2, 64, "f16"), (3, 32, "bf16"), (4, 64, "bf16"), (4, 128, ""), (5, 64, "f16"), (6, 32, ""), (8, 64, "bf16")]


def to_mx(array: np.ndarray) -> Any:
    """An array as safetensors hold it: uint16 is the bits of bfloat16."""
    return mx.array(array).view(mx.bfloat16) if array.dtype == np.uint16 else mx.array(array)


def to_torch(array: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(array.astype(mx.float32)))


def in_float32(weight: Any, scales: Any, biases: Any, group: int, bits: int) -> torch.Tensor:
    """What mlx.core.dequantize makes of numbers widened to float32, in which its kernels accumulate."""
    wide = (scales.astype(mx.float32), biases.astype(mx.float32))
    return to_torch(mx.dequantize(weight, *wide, group_size=group, bits=bits))


def read(folder: Path, arrays: dict[str, Any], stated: dict[str, Any]) -> StoredMatrix:
    """The matrix of a directory that mlx.core wrote."""
    folder.mkdir()
    mx.save_safetensors(
        str(folder / "model.safetensors"), {NAME.replace("weight", key): array for key, array in arrays.items()}
    )
    (folder / "config.json").write_text(json.dumps({"quantization": stated, "quantization_config": stated}))
    reader = open_quantized(folder)
    assert reader is not None
    stored = reader.read(NAME)
    assert isinstance(stored, StoredMatrix)
    return stored


def numbers(format: str, fields: Any) -> torch.Tensor:
    return stored_numbers(formats.get(format), fields, (ROWS, COLS))


@pytest.mark.parametrize(("bits", "group", "kind"), CASES)
def test_we_read_what_mlx_quantizes(tmp_path: Path, bits: int, group: int, kind: str) -> None:
    """And our own choice of codes is nearer than its."""
    w = (normal(ROWS, COLS, 3) * normal(ROWS, 1, 4) + 0.05).to(TORCH[kind]).float()
    arrays = mx.quantize(mx.array(w.numpy()).astype(TYPES[kind]), group_size=group, bits=bits)
    stored = read(
        tmp_path / "theirs",
        dict(zip(("weight", "scales", "biases"), arrays, strict=True)),
        {"group_size": group, "bits": bits},
    )
    assert stored.format == f"uint{bits}_g{group}_bias{'_' if kind else ''}{kind}"
    fields = stored.load()
    found = numbers(stored.format, fields)
    assert torch.equal(found, in_float32(*arrays, group, bits))
    assert len(found.unique()) > 100
    format = formats.get(stored.format)
    codes, params = format.from_fields(fields, (ROWS, COLS))
    steps, scale, bias = (
        codes.to(TORCH[kind]),
        *(params[n].repeat_interleave(group, 1).to(TORCH[kind]) for n in ("scale", "bias")),
    )
    theirs = to_torch(mx.dequantize(*arrays, group_size=group, bits=bits))
    assert torch.equal(scale * steps + bias, theirs.to(TORCH[kind])), "in its own type it rounds product and sum"
    params = format.fit(w)
    own = format.decode(format.encode(w, params), params)
    assert (own - w).square().sum() < 0.97 * (found - w).square().sum()


OURS = [f"uint{bits}_g{group}_bias{'_' if kind else ''}{kind}" for bits, group, kind in CASES]


@pytest.mark.parametrize("name", [*OURS, "int4_g64_sym_bf16", "int3_g32_sym_f16", "int8_g128_sym_f16"])
def test_mlx_reads_what_we_pack(name: str) -> None:
    matrix = Matrix(NAME, name, (ROWS, COLS))
    fields = coded(matrix)
    packed = {key.rpartition(".")[2]: to_mx(array) for key, array in get("mlx").pack(matrix, fields).items()}
    stated = get("mlx").configuration([matrix], [])
    theirs = in_float32(packed["weight"], packed["scales"], packed["biases"], stated["group_size"], stated["bits"])
    assert torch.equal(theirs, numbers(name, fields))


@pytest.mark.parametrize("mode", MODES)
def test_its_modes_of_powers_of_two(tmp_path: Path, mode: str) -> None:
    w, bits = normal(ROWS, COLS, 5) * normal(ROWS, 1, 6), 4 if mode == "mxfp4" else 8
    weight, scales = mx.quantize(mx.array(w.numpy()), mode=mode)
    stored = read(
        tmp_path / "theirs", {"weight": weight, "scales": scales}, {"group_size": 32, "bits": bits, "mode": mode}
    )
    assert stored.format == MODES[mode]
    theirs = to_torch(mx.dequantize(weight, scales, mode=mode, dtype=mx.float32))
    assert torch.equal(numbers(stored.format, stored.load()), theirs)
    matrix = Matrix(NAME, MODES[mode], (ROWS, COLS))
    fields = coded(matrix)
    packed = {key.rpartition(".")[2]: to_mx(array) for key, array in get("mlx").pack(matrix, fields).items()}
    back = to_torch(mx.dequantize(packed["weight"], packed["scales"], mode=mode, dtype=mx.float32))
    assert torch.equal(back, numbers(matrix.format, fields))


def test_mlx_reads_a_directory_of_several_formats(pocket: Path, tmp_path: Path) -> None:
    """Each module by what the configuration states of it, as mlx-lm takes it."""
    fewbits.quantize(
        pocket,
        tmp_path / "out",
        to="uint4_g64_bias_bf16",
        tensors={"*ffn_down": "uint6_g32_bias_f16", "blk.1.attn_q": "mxfp8_e4m3"},
        dialect="mlx",
        threads=2,
    )
    stated = json.loads((tmp_path / "out" / "config.json").read_text())["quantization"]
    arrays = mx.load(str(tmp_path / "out" / "model.safetensors"))
    compared = set()
    for name, module in open_model(tmp_path / "out").load().network.named_modules():
        if f"{name}.scales" in arrays:
            facts = {key: stated[key] for key in ("group_size", "bits", "mode")} | (stated.get(name) or {})
            biases = arrays.get(f"{name}.biases")
            scales = arrays[f"{name}.scales"] if biases is None else arrays[f"{name}.scales"].astype(mx.float32)
            wide = None if biases is None else biases.astype(mx.float32)
            theirs = mx.dequantize(arrays[f"{name}.weight"], scales, wide, dtype=mx.float32, **facts)
            assert torch.equal(to_torch(theirs), module.weight), name
            compared.add(tuple(facts.values()))
    assert compared == {(64, 4, "affine"), (32, 6, "affine"), (32, 8, "mxfp8")}
