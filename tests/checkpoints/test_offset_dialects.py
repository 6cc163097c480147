"""MLX's and HQQ's dialects: which format a file is read as, what is said of damage, and where tensors lie."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import fewbits
from fewbits import formats
from fewbits.checkpoints.dialects import get, refusal
from fewbits.checkpoints.dialects.base import WIDTHS
from fewbits.checkpoints.dialects.reader import open_quantized
from fewbits.checkpoints.fields import Matrix, StoredMatrix
from fewbits.checkpoints.gguf import GGUFReader
from fewbits.checkpoints.safetensors import SafetensorsReader
from fewbits.errors import CheckpointError, FewbitsError
from fewbits.kernels.stored import stored_numbers
from fewbits.testing.dialect_suite import coded

NAME, SHAPE = "model.layers.3.mlp.up_proj.weight", (32, 128)
MODULE = NAME.removesuffix(".weight")
Change = Callable[[Any], Any]


def directory(folder: Path, dialect: str, name: str, stated: dict[str, Any] | None = None, **changes: Change) -> Path:
    """One matrix in a dialect, its tensors and its configuration changed."""
    matrix = Matrix(NAME, name, SHAPE)
    packed = dict(get(dialect).pack(matrix, coded(matrix)))
    for ending, change in changes.items():
        packed[f"{MODULE}.{ending}"] = change(packed[f"{MODULE}.{ending}"])
    there = {key: np.array(array, order="C") for key, array in packed.items() if array is not None}
    folder.mkdir()
    save_file(there, folder / "model.safetensors")
    configuration = get(dialect).configuration([matrix], []) | (stated or {})
    (folder / "config.json").write_text(json.dumps({"quantization_config": configuration}))
    return folder


def read(folder: Path) -> StoredMatrix:
    reader = open_quantized(folder)
    assert reader is not None
    stored = reader.read(NAME)
    assert isinstance(stored, StoredMatrix)
    stored.load()
    return stored


def one(value: int, dtype: type = np.uint8) -> Change:
    return lambda _: np.array(value, dtype)


def word(text: str) -> Change:
    return lambda _: np.frombuffer(text.encode(), np.uint8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"axis": one(0, np.int32)}, "groups run down the columns"),
        ({"view_as_float": one(1)}, "view_as_float is set"),
        ({"quant_scale": one(1)}, "quant_scale is set"),
        ({"nbits": one(7, np.int32)}, "stated as 7 bits"),
        ({"nbits": one(2, np.int32)}, "stated as 2 bits, packed as '4bit_u8'"),
        ({"nbits": lambda n: n.reshape(1)}, r"\[1\] and should be I32 \[\]"),
        ({"nbits": one(4, np.int64)}, "nbits' is 'I64'"),
        ({"group_size": one(0, np.int32)}, "groups of 0 columns"),
        ({"group_size": one(-64, np.int32)}, "groups of -64 columns"),
        ({"group_size": one(48, np.int32)}, "groups of 48 columns"),
        ({"shape": lambda s: s * 0}, "stated as .0, 0."),
        ({"shape": lambda s: s * 2**40}, "it is damaged"),
        ({"shape": lambda s: s[:1]}, r"\[1\] and should be I64"),
        ({"shape": lambda s: s * 2}, "should be"),
        ({"packing": word("5bit_u8")}, "packed as '5bit_u8'"),
        ({"packing": word("x" * 100)}, "should be U8 some letters"),
        ({"packing": lambda p: p[:0]}, "packed as ''"),
        ({"compute_dtype": word("torch.bfloat16")}, "its compute_dtype torch.bfloat16"),
        ({"compute_dtype": word("eval('x')")}, "which are not known together"),
        ({"zero": lambda z: z[:-1]}, "should be F16"),
        ({"zero": lambda _: None}, "there is no|has no|holds no"),
        ({"scale": lambda s: s.astype(np.float64)}, "is 'F64'"),
        ({"scale": lambda s: s.reshape(-1)}, "should be"),
        ({"W_q": lambda q: q[:-1]}, "should be"),
        ({"W_q": lambda q: q.astype(np.int32)}, "should be"),
        ({"offload_meta": lambda _: None}, "holds no"),
    ],
)
def test_damage_in_hqq_is_one_sentence(tmp_path: Path, changes: dict[str, Change], message: str) -> None:
    folder = directory(tmp_path / "hqq", "hqq", "uint4_g64_floatzero_f16", **changes)
    with pytest.raises(FewbitsError, match=message) as caught:
        read(folder)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("stated", "changes", "message"),
    [
        ({"bits": 7}, {}, "bits = 7"),
        ({"bits": True}, {}, "bits = True"),
        ({"group_size": 48}, {}, "group_size = 48"),
        ({"mode": "nvfp4", "group_size": 16}, {}, "mode = 'nvfp4'"),
        ({"mode": "mxfp8"}, {}, "mode = 'mxfp8'"),
        ({"mode": ["affine"]}, {}, "mode = "),
        ({MODULE: {"bits": 4}}, {}, f"'{MODULE}' states bits = 4, group_size = None"),
        ({MODULE: {"bits": 8, "group_size": 64}}, {}, "should be"),
        ({}, {"biases": lambda _: None}, "biases"),
        ({}, {"biases": lambda b: b.astype(np.float32)}, "is F32"),
        ({}, {"scales": lambda s: s.reshape(-1)}, "should have two"),
        ({}, {"scales": lambda s: s.astype(np.int8)}, "is 'I8'"),
        ({}, {"weight": lambda w: w[:, 1:]}, "should be"),
    ],
)
def test_damage_in_mlx_is_one_sentence(
    tmp_path: Path, stated: dict[str, Any], changes: dict[str, Change], message: str
) -> None:
    folder = directory(tmp_path / "mlx", "mlx", "uint4_g64_bias_f16", stated, **changes)
    with pytest.raises(FewbitsError, match=message) as caught:
        read(folder)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("name", "change", "found"),
    [
        ("uint4_g64_floatzero_f16", lambda z: z, "uint4_g64_floatzero_f16"),
        ("uint4_g64_floatzero_f16", np.rint, "uint4_g64_asym_f16"),
        ("uint4_g64_floatzero_f16", lambda z: np.full_like(z, 8), "int4_g64_sym_f16"),
        ("uint4_g64_floatzero_f16", lambda z: np.full_like(z, 16), "uint4_g64_floatzero_f16"),
        ("uint4_g64_floatzero_f16", lambda z: np.full_like(z, -0.0), "uint4_g64_floatzero_f16"),
        ("uint4_g64_floatzero_f16", lambda z: np.full_like(z, np.nan), "uint4_g64_floatzero_f16"),
        ("uint4_g64_asym_f16", lambda z: np.append(z[:-1], z[-1:] + np.float16(0.5), 0), "uint4_g64_floatzero_f16"),
        ("uint1_g64_floatzero", np.rint, "uint1_g64_floatzero"),
    ],
)
def test_zero_points_say_which_format_it_is(tmp_path: Path, name: str, change: Change, found: str) -> None:
    """Whole numbers among the codes are those of integers, and the numbers are HQQ's equation in any case."""
    folder = directory(tmp_path / "hqq", "hqq", name, zero=change)
    stored = read(folder)
    assert stored.format == found
    file = SafetensorsReader(folder / "model.safetensors")
    words, scale, zero = (file.read(f"{MODULE}.{key}") for key in ("W_q", "scale", "zero"))
    kind = WIDTHS[scale.format]
    bits = int(name[4])
    packed = words.buffer.reshape(words.shape)
    codes = np.concatenate([packed >> np.uint8(at) & (2**bits - 1) for at in range(8 - bits, -1, -bits)])
    lines = (each.buffer.view(kind).reshape(each.shape).astype(np.float32) for each in (scale, zero))
    scales, zeros = lines
    wanted = ((codes.astype(np.float32) - zeros) * scales).reshape(SHAPE)
    numbers = stored_numbers(formats.get(stored.format), stored.load(), SHAPE).numpy()
    assert np.array_equal(numbers, wanted, equal_nan=True)


def test_one_bias_of_its_own_makes_a_matrix_one_with_biases(tmp_path: Path) -> None:
    assert read(directory(tmp_path / "a", "mlx", "int4_g32_sym_f16")).format == "int4_g32_sym_f16"

    def last(biases: Any) -> Any:
        biases = biases.copy()
        biases[-1, -1] += np.float16(0.25)
        return biases

    found = read(directory(tmp_path / "b", "mlx", "int4_g32_sym_f16", biases=last))
    assert found.format == "uint4_g32_bias_f16"


def test_a_group_of_all_columns_is_what_the_configuration_says(tmp_path: Path) -> None:
    assert read(directory(tmp_path / "a", "hqq", "uint4_g128_floatzero_f16")).format == "uint4_g128_floatzero_f16"
    assert read(directory(tmp_path / "b", "hqq", "uint4_row_floatzero_f16")).format == "uint4_row_floatzero_f16"


def test_words_that_are_not_filled_are_refused() -> None:
    dialect = get("hqq")
    assert "3 groups" in str(refusal(dialect, Matrix(NAME, "uint4_row_floatzero", (3, 64))))
    assert "multiple of 8" in str(refusal(dialect, Matrix(NAME, "uint1_g32_floatzero", (2, 64))))
    assert refusal(dialect, Matrix(NAME, "uint3_row_floatzero", (3, 64))) is None  # ten in a word, filled with zeros


def test_what_one_configuration_cannot_say_is_refused(tmp_path: Path) -> None:
    names = [f"model.layers.{layer}.mlp.up_proj.weight" for layer in range(2)]
    matrices = [Matrix(name, "uint4_g64_floatzero_f16", SHAPE) for name in names]
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.up_proj.*others called mlp\.up_proj"):
        get("hqq").configuration(matrices[:1], names[1:])
    other = Matrix(names[1], "uint4_g32_floatzero_f16", SHAPE)
    with pytest.raises(CheckpointError, match="one number of bits and columns"):
        get("hqq").configuration([matrices[0], other], [])
    whole = Matrix(names[1], "uint4_g64_asym_f16", SHAPE)
    assert get("hqq").configuration([matrices[0], whole], ["lm_head.weight"])["skip_modules"] == ["lm_head"]


def test_numbers_lie_where_readers_can_take_them(pocket: Path, tmp_path: Path) -> None:
    """Words of odd length beside numbers of two, four and eight bytes."""
    fewbits.quantize(pocket, tmp_path / "out", to="uint3_g64_floatzero_f16", dialect="hqq", threads=2)
    data = (tmp_path / "out" / "model.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    start = 8 + int.from_bytes(data[:8], "little")
    entries = {name: each for name, each in header.items() if name != "__metadata__"}
    assert any((end - begin) % 2 for begin, end in (each["data_offsets"] for each in entries.values()))
    for name, each in entries.items():
        assert (start + each["data_offsets"][0]) % np.dtype(WIDTHS[each["dtype"]]).itemsize == 0, name


def test_metadata_that_is_null_is_none(tmp_path: Path) -> None:
    """As mlx.core.save_safetensors writes it."""
    text = json.dumps({"__metadata__": None, "a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"ab")
    assert SafetensorsReader(path).names() == ["a"]


def test_a_gguf_file_with_minimums_becomes_one_for_mlx_and_comes_back(pocket: Path, tmp_path: Path) -> None:
    fewbits.quantize(pocket, tmp_path / "a.gguf", to="Q4_1", tensors={"token_embd": "BF16"}, threads=2)
    fewbits.convert(tmp_path / "a.gguf", tmp_path / "mlx", like=pocket, dialect="mlx", threads=2)
    assert {"uint4_g32_bias_f16"} <= {f.format for f in fewbits.inspect(tmp_path / "mlx").formats}
    fewbits.convert(tmp_path / "mlx", tmp_path / "b.gguf", threads=2)
    assert rows(tmp_path / "a.gguf") == rows(tmp_path / "b.gguf")


def rows(path: Path) -> dict[str, tuple[str, bytes]]:
    """Type and bytes of every tensor."""
    stored = map(GGUFReader(path).read, GGUFReader(path).names())
    return {each.name: (each.format, each.slab(0, each.rows).tobytes()) for each in stored}
