"""torchao's dialect against torchao itself, and against transformers which loads it: bit by bit, class by class."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own use of torch
    pytest.importorskip("torchao")
    import torchao.quantization as ao
    from torchao.core.config import config_from_dict
    from torchao.prototype.mx_formats import NVFP4WeightOnlyConfig
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict, unflatten_tensor_state_dict
    from torchao.quantization.quantize_.workflows import QuantizeTensorToFloat8Kwargs, QuantizeTensorToInt8Kwargs

import transformers

import fewbits
from fewbits import formats
from fewbits.checkpoints.dialects import get
from fewbits.checkpoints.dialects.reader import open_quantized
from fewbits.checkpoints.dialects.torchao import TorchAO
from fewbits.checkpoints.fields import Matrix, StoredMatrix
from fewbits.evaluation.model_files import open_model
from fewbits.kernels.stored import stored_numbers
from fewbits.testing.dialect_suite import NAME, coded, held
from fewbits.testing.inputs import normal
from peers.test_dialects import divergence, logits_of, relative

ROWS, COLS = 144, 256
CONFIGURATION = {"quant_method": "torchao"}


def numbers(matrix: Any, fields: Any) -> torch.Tensor:
    return stored_numbers(formats.get(matrix.format), fields, matrix.shape)


def ours_of(folder: Path, tensors: dict[str, torch.Tensor]) -> StoredMatrix:
    """What we read where torchao's own code has taken `tensors` apart."""
    parts, metadata = flatten_tensor_state_dict(tensors)
    save_file({name: part.contiguous() for name, part in parts.items()}, folder / "model.safetensors", metadata)
    (folder / "config.json").write_text(json.dumps({"quantization_config": CONFIGURATION}))
    reader = open_quantized(folder)
    assert reader is not None
    stored = reader.read(NAME)
    assert isinstance(stored, StoredMatrix)
    return stored


def intx(bits: int, granularity: Any, mapping: str = "SYMMETRIC", **more: Any) -> Any:
    kind = getattr(ao.MappingType, mapping)
    return ao.IntxWeightOnlyConfig(getattr(torch, f"int{bits}"), granularity, kind, **more)


GROUPS, ROW = ao.PerGroup(32), ao.PerAxis(0)
THEIRS = {
    "int4_g32_sym": intx(4, GROUPS),
    "uint4_g32_asym": intx(4, GROUPS, "ASYMMETRIC"),
    "int3_g32_sym": intx(3, GROUPS, "SYMMETRIC_NO_CLIPPING_ERR"),
    "uint2_g32_asym": intx(2, GROUPS, "ASYMMETRIC"),
    "uint5_row_asym_bf16": intx(5, ROW, "ASYMMETRIC", scale_dtype=torch.bfloat16),
    "int8_row_sym": intx(8, ROW),
    "uint8_g32_asym": intx(8, GROUPS, "ASYMMETRIC"),
    "int8_tensor_sym": ao.Int8WeightOnlyConfig(granularity=ao.PerTensor()),
    "int8_g64_sym": ao.Int8WeightOnlyConfig(granularity=ao.PerGroup(64)),
    "fp8_e4m3_row": ao.Float8WeightOnlyConfig(),
    "fp8_e4m3_g64": ao.Float8WeightOnlyConfig(granularity=ao.PerGroup(64)),
    "fp8_e5m2_tensor": ao.Float8WeightOnlyConfig(weight_dtype=torch.float8_e5m2, granularity=ao.PerTensor()),
    "nvfp4": NVFP4WeightOnlyConfig(),
}


@pytest.mark.parametrize("name", THEIRS)
def test_we_read_what_it_quantizes(tmp_path: Path, name: str) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(COLS, ROWS, bias=False))
    module[0].weight = torch.nn.Parameter(normal(ROWS, COLS, 3) * normal(ROWS, 1, 4), requires_grad=False)
    ao.quantize_(module, THEIRS[name])
    weight: Any = module[0].weight
    stored = ours_of(tmp_path, {NAME: weight})
    assert (stored.format, stored.shape, stored.activation) == (name, (ROWS, COLS), None)
    found = weight.dequantize()
    assert found.dtype == torch.float32
    assert torch.equal(numbers(stored, stored.load()), found)
    assert torch.unique(found).numel() > 50


def test_we_read_how_it_rounds_inputs(tmp_path: Path) -> None:
    w = normal(ROWS, COLS, 5)
    rounded = ao.Int8Tensor.from_hp(w, ao.PerRow(), act_quant_kwargs=QuantizeTensorToInt8Kwargs(ao.PerRow()))
    stored = ours_of(tmp_path, {NAME: rounded})
    assert (stored.format, stored.activation) == ("int8_row_sym", "int8_token")
    assert torch.equal(numbers(stored, stored.load()), rounded.dequantize())
    small = ao.Float8Tensor.from_hp(w, act_quant_kwargs=QuantizeTensorToFloat8Kwargs())
    stored = ours_of(tmp_path, {NAME: small})
    assert (stored.format, stored.activation) == ("fp8_e4m3_row", "fp8_token")


HELD = [m for activation in (None, "int8_token", "fp8_token") for m in held(get("torchao"), activation)]


def test_it_reads_whatever_we_write() -> None:
    """Numbers and roundings of every format that we hold; Int4Tensor has no decoder of its own, so its parts are."""
    assert len(HELD) > 30
    for matrix in HELD:
        fields, dialect = coded(matrix), TorchAO()
        parts = {name: tensor_of(part, dialect.slots(matrix)[name][0]) for name, part in packed_of(matrix, fields)}
        said = dialect.header([matrix], [], "float32")
        found, left = unflatten_tensor_state_dict(parts, said)
        weight: Any = found[matrix.name]
        assert not left
        assert tuple(weight.shape) == matrix.shape
        wanted = numbers(matrix, fields)
        decoded = by_hand(weight) if isinstance(weight, ao.Int4Tensor) else weight.dequantize()
        assert torch.equal(decoded.float(), wanted), matrix
        quantizing = dialect.configuration([matrix], [])["quant_type"]["default"]
        kind = type(config_from_dict(quantizing)).__name__
        assert ("Dynamic" in kind) == (matrix.activation is not None), matrix
        again, stated = flatten_tensor_state_dict({matrix.name: weight})
        assert set(again) == set(parts)
        assert json.loads(stated[matrix.name])["_data"] == json.loads(said[matrix.name])["_data"], matrix


def packed_of(matrix: Matrix, fields: Any) -> Any:
    return TorchAO().pack(matrix, fields).items()


def tensor_of(part: Any, dtype: str) -> torch.Tensor:
    kinds = {"BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
    numpy_part = part.view("int16") if dtype == "BF16" else part
    found = torch.from_numpy(numpy_part.copy())
    return found.view(kinds[dtype]) if dtype in kinds else found


def by_hand(weight: Any) -> torch.Tensor:
    """As CUDA's kernel is documented: codes of -8 to 7, the first one below; scale * code + zero point."""
    q = weight.qdata.to(torch.int16)
    codes = torch.stack([q << 12 >> 12, q << 8 >> 12], dim=-1).reshape(weight.shape).float()
    scale, zero = (t.float().T.repeat_interleave(weight.block_size[1], 1) for t in (weight.scale, weight.zero_point))
    return codes * scale + zero


@pytest.fixture
def single(pocket: Path, tmp_path: Path) -> Path:
    """The embedded model, computing in float32: torchao's tensors say what they decode to, whatever is asked later."""
    folder = tmp_path / "single"
    shutil.copytree(pocket, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float32"}))
    return folder


def loaded(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parametrize(
    ("to", "more"),
    [
        ("uint4_g32_asym", {}),
        ("int8_row_sym", {"split_size": "2M"}),
        ("fp8_e4m3_row", {"tensors": {"*ffn_down": "int3_g64_sym_f16"}}),
        ("nvfp4", {}),
    ],
)
def test_transformers_reads_what_torchao_is_to_read(
    single: Path, tmp_path: Path, to: str, more: dict[str, Any]
) -> None:
    fewbits.quantize(single, tmp_path / "out", to=to, dialect="torchao", threads=2, **more)
    ours, theirs = open_model(tmp_path / "out").load().network, loaded(tmp_path / "out")
    assert relative(logits_of(theirs), logits_of(ours)) < 1e-3
    matrices, compared = dict(theirs.named_modules()), 0
    for name, module in ours.named_modules():
        weight = getattr(matrices.get(name), "weight", None)
        if hasattr(weight, "qdata"):
            assert torch.equal(weight.dequantize().float(), module.weight), name
            compared += 1
    assert compared == 28


@pytest.mark.parametrize("recipe", ["w8a8_fp8", "w8a8"])
def test_inputs_are_rounded_as_torchao_does(single: Path, tmp_path: Path, recipe: str) -> None:
    """FP8 exactly so; for INT8 it divides the largest input by 127.5, as compressed-tensors does, where we have 127."""
    fewbits.quantize(single, tmp_path / "out", to=recipe, dialect="torchao", threads=2)
    ours, theirs = open_model(tmp_path / "out").load().network, loaded(tmp_path / "out")
    assert divergence(logits_of(theirs), logits_of(ours)) < 1e-3
    name, x = "model.layers.1.mlp.up_proj", normal(300, 256, 4)[None]
    with torch.inference_mode():
        a, b = (dict(network.named_modules())[name](x) for network in (ours, theirs))
    assert relative(b.double(), a.double()) < {"w8a8_fp8": 1e-6, "w8a8": 2e-2}[recipe]


def test_we_read_what_transformers_saves(pocket: Path, tmp_path: Path) -> None:
    """In several files, each of which states all tensors."""
    asked = transformers.TorchAoConfig(intx(4, GROUPS, "ASYMMETRIC"))
    model = transformers.AutoModelForCausalLM.from_pretrained(pocket, quantization_config=asked, dtype=torch.float32)
    model.save_pretrained(tmp_path / "theirs", max_shard_size="3MB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 1
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "theirs" / name).write_bytes((pocket / name).read_bytes())
    assert {f.format: f.tensors for f in fewbits.inspect(tmp_path / "theirs").formats}["uint4_g32_asym"] == 28
    ours = open_model(tmp_path / "theirs").load().network
    assert relative(logits_of(model), logits_of(ours)) < 1e-5
    fewbits.convert(tmp_path / "theirs", tmp_path / "other", dialect="compressed-tensors", threads=2)
    assert torch.equal(logits_of(open_model(tmp_path / "other").load().network), logits_of(ours))


def test_that_it_is_installed_is_not_heard(pocket: Path, tmp_path: Path) -> None:
    """transformers imports it wherever it is, and it speaks of libraries for other machines: not under a command."""
    command = [sys.executable, "-m", "fewbits", "quantize", str(pocket), "-o", str(tmp_path / "o.gguf")]
    command += ["--calibration", str(tmp_path / "nothing.txt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert done.stderr.startswith("fewbits: ")
