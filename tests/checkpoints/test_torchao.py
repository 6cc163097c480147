"""torchao's dialect: what headers state is what is read, and what no format here holds is refused in one sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

import fewbits
from fewbits import formats
from fewbits.checkpoints.dialects.base import WIDTHS
from fewbits.checkpoints.dialects.reader import open_quantized
from fewbits.checkpoints.dialects.torchao import TorchAO
from fewbits.checkpoints.fields import Matrix, StoredMatrix
from fewbits.checkpoints.safetensors import SafetensorsReader, open_directory
from fewbits.errors import CheckpointError
from fewbits.kernels.stored import stored_numbers
from fewbits.testing.dialect_suite import COLS, NAME, coded
from fewbits.verification.dialects import Directory
from references.expert_models import write_experts

ROWS = 160
Maker = Callable[..., Path]


def said_of(metadata: dict[str, str]) -> Any:
    return json.loads(metadata[NAME])


@pytest.fixture
def torchao(tmp_path: Path) -> Maker:
    """Make a directory with one matrix, whose statement, or parts, are changed."""

    def make(name: str, change: Callable[[Any], Any] = lambda _: None, **parts: Any) -> Path:
        matrix, dialect = Matrix(NAME, name, (ROWS, COLS)), TorchAO()
        packed = {key.rpartition("_weight_")[2]: part for key, part in dialect.pack(matrix, coded(matrix)).items()}
        metadata = dialect.header([matrix], [], "float32")
        stated = said_of(metadata)
        metadata[NAME] = json.dumps(change(stated) or stated)
        packed |= {part: spoil(packed[part]) if callable(spoil) else spoil for part, spoil in parts.items()}
        types = {name.rpartition("_weight_")[2]: dtype for name, (dtype, _) in dialect.slots(matrix).items()}
        tensors = {
            f"{NAME.removesuffix('weight')}_weight_{part}": (dtype_of(array, types[part]), np.ascontiguousarray(array))
            for part, array in packed.items()
        }
        return written(tmp_path / f"torchao-{len(list(tmp_path.iterdir()))}", tensors, metadata)

    return make


def dtype_of(array: Any, dtype: str) -> str:
    """That of the slot, unless a test made the numbers into others."""
    return dtype if array.dtype == WIDTHS[dtype] else {"float32": "F32", "float16": "F16"}[str(array.dtype)]


def written(folder: Path, tensors: dict[str, tuple[str, Any]], metadata: dict[str, str]) -> Path:
    """A directory with these tensors, of types that numpy does not have, too."""
    folder.mkdir()
    header: dict[str, Any] = {"__metadata__": metadata}
    data = b""
    for name, (dtype, array) in tensors.items():
        end = len(data) + array.nbytes
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [len(data), end]}
        data += array.tobytes()
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    (folder / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "torchao"}}))
    return folder


def loaded(folder: Path) -> tuple[StoredMatrix, Any]:
    reader = open_quantized(folder)
    assert reader is not None
    stored = reader.read(NAME)
    assert isinstance(stored, StoredMatrix)
    return stored, stored.load()


def numbers(matrix: StoredMatrix | Matrix, fields: Any) -> Any:
    return stored_numbers(formats.get(matrix.format), fields, (ROWS, COLS)).numpy()


def fact(key: str, value: Any) -> Callable[[Any], None]:
    return lambda stated: stated["_data"].update({key: value})


def of_class(kind: str) -> Callable[[Any], None]:
    return lambda stated: stated.update(_type=kind)


def parts(names: list[str]) -> Callable[[Any], None]:
    return lambda stated: stated.update(_tensor_data_names=names)


EVERY = ["qdata", "scale", "zero_point"]
ROUNDED = {"_type": "QuantizeTensorToInt8Kwargs", "_data": {"granularity": {"_type": "PerTensor", "_data": {}}}}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("int8_row_sym", of_class("MXTensor"), "class MXTensor, whose readers always round inputs"),
        ("int8_row_sym", of_class("Int4TilePackedTo4dTensor"), "tiles of a CUDA kernel"),
        ("int8_row_sym", of_class("Int4PlainInt32Tensor"), "Intel GPU"),
        ("int8_row_sym", of_class("AffineQuantizedTensor"), "AffineQuantizedTensor, which is not read"),
        ("int8_row_sym", of_class("os.system\x1b"), r"os\.system\\x1b, which"),
        ("int8_row_sym", parts([*EVERY, "act_pre_scale"]), "'act_pre_scale' beside its codes"),
        ("int8_row_sym", parts(["qdata", "zero_point"]), "without 'scale'"),
        ("int8_row_sym", parts([]), "without"),
        ("int4_g32_sym", parts(["qdata", "scale"]), "without 'zero_point'"),
        ("int8_row_sym", fact("act_quant_kwargs", ROUNDED), "inputs rounded as"),
        ("int8_row_sym", fact("act_quant_kwargs", 7), "inputs rounded as 7"),
        ("int8_row_sym", fact("block_size", [32, 32]), r"serve \[32, 32\] of its \[160, 256\]"),
        ("int8_row_sym", fact("block_size", [1, 0]), "not two counts"),
        ("int8_row_sym", fact("block_size", [1, 2**70]), "groups of a row"),
        ("int8_row_sym", fact("block_size", None), "not two counts"),
        ("int4_g32_sym", fact("target_dtype", {"_type": "torch.dtype", "_data": "int1"}), "no format here"),
        ("int4_g32_sym", fact("target_dtype", "int4"), "no format here"),
        ("int4_g32_sym", fact("activation_quantization", "INT8_ASYM_PER_TOKEN"), "inputs rounded to whole numbers"),
        ("int4_g64_sym_bf16", fact("activation_dtype", {"_type": "torch.dtype", "_data": "float8"}), "rounded to FP8"),
        ("nvfp4", fact("act_quant_kwargs", ROUNDED), "inputs rounded to NVFP4"),
        ("nvfp4", fact("block_size", 32), "other than 16"),
        ("nvfp4", fact("is_swizzled_scales", True), "should be F8_E4M3"),
        ("fp8_e4m3_row", fact("block_size", [128, 128]), "groups of a row"),
        ("fp8_e4m3_row", lambda _: ["x"], "holds list"),
        ("fp8_e4m3_row", lambda _: {"_type": "Float8Tensor"}, "says no _type, _data"),
    ],
)
def test_what_is_not_held_is_one_sentence(torchao: Maker, name: str, change: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        loaded(torchao(name, change))
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "spoilt", "message"),
    [
        ("int8_row_sym", {"zero_point": lambda z: z + 1}, "zero points other than 0, which it decodes with"),
        ("int4_g64_sym_bf16", {"zero_point": lambda z: z + 0x3F80}, "zero points in floats"),
        ("uint4_g32_asym", {"zero_point": lambda z: z.astype(np.float32)}, "zero points in F32"),
        ("uint4_g32_asym", {"zero_point": lambda z: z + 20}, "zero points beyond 4 bits"),
        ("int4_g32_sym", {"qdata": lambda q: q * 2}, "codes beyond 4 bits"),
        ("int4_g32_sym", {"qdata": lambda q: q[:, 1:]}, "serve"),
        ("int4_g32_sym", {"qdata": lambda q: q[None]}, "has 3 sides"),
        ("int4_g32_sym", {"scale": lambda s: s.T}, "should be"),
        ("fp8_e4m3_row", {"scale": lambda s: s.astype(np.float16)}, "should be F32"),
    ],
)
def test_parts_that_the_header_does_not_describe(torchao: Maker, name: str, spoilt: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        loaded(torchao(name, **spoilt))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "headers of its weights do not say what they are"),
        ({"tensor_names": "7"}, "no list of names"),
        ({"tensor_names": '["a.weight"]'}, "no statement of torchao's header on 'a.weight'"),
        ({"tensor_names": '["a.weight"]', "a.weight": "{"}, "not valid JSON"),
        ({"tensor_names": '["a"]', "a": '{"_type": "Int8Tensor", "_data": {}, "_tensor_data_names": []}'}, "no weight"),
        ({"tensor_names": '[], "tensor_names": []'}, "twice"),
    ],
)
def test_headers_that_state_nothing(tmp_path: Path, metadata: dict[str, str], message: str) -> None:
    folder = written(tmp_path / "x", {"a": ("F32", np.zeros(2, np.float32))}, metadata)
    with pytest.raises(CheckpointError, match=message):
        open_quantized(folder)


def test_symmetric_is_what_has_no_zero_point_but_zero(torchao: Maker) -> None:
    """The header does not say it: one zero point other than 0 makes another format, with the same numbers."""
    stored, fields = loaded(torchao("int4_g32_sym"))
    assert stored.format == "int4_g32_sym"
    one = np.zeros((ROWS, COLS // 32), np.int8)
    one[3, 5] = 2
    folder = torchao("int4_g32_sym", zero_point=one)
    other, shifted = loaded(folder)
    assert other.format == "uint4_g32_asym"
    a, b = numbers(stored, fields), numbers(other, shifted)
    assert np.array_equal(np.argwhere(a != b)[:, 0], np.full(32, 3))
    assert np.allclose(a[3, 160:192] - 2 * fields["scale"][3, 5], b[3, 160:192], rtol=1e-6)
    reading = Directory.of(folder, SafetensorsReader(folder / "model.safetensors")).read(NAME)
    assert reading is not None
    assert np.array_equal(reading.numbers(0, ROWS), b)


def test_zero_points_of_minus_zero_are_zero(torchao: Maker) -> None:
    stored, fields = loaded(torchao("int4_g64_sym_bf16", zero_point=lambda z: z + 0x8000))
    assert stored.format == "int4_g64_sym_bf16"
    assert np.array_equal(numbers(stored, fields), numbers(stored, coded(stored)))


def test_scales_in_tiles_are_read_as_the_layout_says(tmp_path: Path) -> None:
    """NVFP4's scales, each put where NVIDIA's documentation wants it, one by one."""
    matrix, dialect = Matrix(NAME, "nvfp4", (ROWS, COLS)), TorchAO()
    fields = coded(matrix)
    scale = fields["scale"]
    tiled = np.zeros(64 * 64, np.uint8)
    for row in range(ROWS):
        for group in range(COLS // 16):
            tile = (row // 128) * 4 + group // 4
            tiled[tile * 512 + (row % 32) * 16 + (row % 128 // 32) * 4 + group % 4] = scale[row, group]
    metadata = dialect.header([matrix], [], "float32")
    stated = said_of(metadata)
    stated["_data"]["is_swizzled_scales"] = True
    part = NAME.removesuffix("weight") + "_weight_"
    tensors = {
        f"{part}qdata": ("U8", fields["codes"]),
        f"{part}scale": ("F8_E4M3", tiled.reshape(64, 64)),
        f"{part}per_tensor_scale": ("F32", fields["tensor_scale"].reshape(())),
    }
    written(tmp_path / "x", tensors, metadata | {NAME: json.dumps(stated)})
    stored, found = loaded(tmp_path / "x")
    assert all(np.array_equal(found[key], field) for key, field in fields.items())
    reading = Directory.of(tmp_path / "x", SafetensorsReader(tmp_path / "x" / "model.safetensors")).read(NAME)
    assert reading is not None
    assert np.array_equal(reading.numbers(0, ROWS), numbers(stored, found))


def test_every_file_states_every_tensor(pocket: Path, tmp_path: Path) -> None:
    """As torchao does it: transformers takes the last file's word for all of them."""
    mixed = {"*ffn_down": "int4_g32_sym_bf16"}
    fewbits.quantize(
        pocket, tmp_path / "out", to="int8_row_sym", dialect="torchao", tensors=mixed, split_size="1M", threads=2
    )
    stated = []
    for file in sorted((tmp_path / "out").glob("*.safetensors")):
        with safe_open(file, framework="numpy") as opened:
            stated.append(opened.metadata())
    assert len(stated) > 2
    assert all(each == stated[0] for each in stated)
    listed = json.loads(stated[0]["tensor_names"])
    kinds = {json.loads(stated[0][name])["_type"] for name in listed}
    assert kinds == {"Tensor", "Int8Tensor", "Int4Tensor"}
    asked = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    each = asked["quant_type"]["default"]["_data"]["fqn_to_config"]
    assert each["model.layers.0.mlp.down_proj"]["_type"] == "Int4WeightOnlyConfig"
    assert each["model.layers.0.mlp.up_proj"]["_type"] == "Int8WeightOnlyConfig"
    assert "lm_head" in asked["modules_to_not_convert"]
    contradict(next((tmp_path / "out").glob("*.safetensors")))
    with pytest.raises(CheckpointError, match="files contradict each other"):
        open_quantized(tmp_path / "out")


def contradict(file: Path) -> None:
    """One file calls a matrix by another class of the same length."""
    data = file.read_bytes()
    place = data.index(b'\\"Int8Tensor\\"')
    file.write_bytes(data[:place] + b'\\"Int9Tensor\\"' + data[place + 14 :])


def test_pickles_of_torchao_are_never_opened(pocket: Path, tmp_path: Path) -> None:
    """As older versions of transformers saved them: refused, and with --allow-pickle too, by the class they name."""
    folder = Path(shutil.copytree(pocket, tmp_path / "old"))
    (folder / "model.safetensors").unlink()
    kind = type("Int8Tensor", (), {"__module__": "torchao.quantization", "__reduce__": lambda _: (print, ("x",))})
    torch.save({NAME: torch.zeros(2), "x": kind()}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="a pickle, which can run code"):
        fewbits.inspect(folder)
    with pytest.raises(CheckpointError, match="print"):
        fewbits.quantize(folder, tmp_path / "o", to="int8_row_sym", allow_pickle=True)


def test_experts_are_refused(tmp_path: Path) -> None:
    """transformers has them in stacks: it would load a model whose experts are random numbers."""
    source = write_experts(tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"is a matrix of an expert.*take --dialect compressed-tensors"):
        fewbits.quantize(source, tmp_path / "out", to="int8_row_sym", dialect="torchao")
    assert not (tmp_path / "out").exists()


def test_what_a_model_computes_in_its_matrices_decode_to(pocket: Path, tmp_path: Path) -> None:
    """config.json's word, or else the type of what is not quantized."""
    for asked, said in (("float16", "float16"), (None, "bfloat16")):
        folder = Path(shutil.copytree(pocket, tmp_path / f"from{asked}"))
        config = json.loads((folder / "config.json").read_text())
        config = {key: value for key, value in config.items() if key not in {"dtype", "torch_dtype"}}
        (folder / "config.json").write_text(json.dumps(config | ({"torch_dtype": asked} if asked else {})))
        fewbits.quantize(folder, tmp_path / f"to{asked}", to="int8_row_sym", dialect="torchao", threads=2)
        reader, _ = open_directory(tmp_path / f"to{asked}")
        stated = json.loads(reader.metadata["model.layers.0.mlp.up_proj.weight"])
        assert stated["_data"]["dtype"]["_data"] == said
