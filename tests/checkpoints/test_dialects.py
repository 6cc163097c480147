"""Dialects: what is packed comes back bit by bit, a stranger reads the same numbers, and planted faults are seen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file as save_torch

import fewbits
from fewbits import formats
from fewbits.checkpoints.dialects import DIALECTS, get, recognized, refusal
from fewbits.checkpoints.dialects.gptq import GPTQ
from fewbits.checkpoints.dialects.reader import DialectReader, open_quantized
from fewbits.checkpoints.fields import Matrix, StoredMatrix
from fewbits.checkpoints.safetensors import SafetensorsReader
from fewbits.errors import CheckpointError, FewbitsError, VerificationError
from fewbits.evaluation.model_files import open_model
from fewbits.kernels.stored import stored_numbers
from fewbits.testing.dialect_suite import COLS, NAME, ROWS, check_dialect, check_refusal, coded, held
from fewbits.verification.dialects import Directory

CASES = [(name, matrix.format) for name in DIALECTS for matrix in held(get(name))]
RUNS = {
    "gptq": "int4_g32_sym_f16",
    "awq": "uint4_g32_asym_f16",
    "compressed-tensors": "uint4_g32_asym_bf16",
    "bitsandbytes": "nf4_g64_dq",
    "fp8": "fp8_e4m3_tile128",
    "mlx": "uint4_g64_bias_f16",
    "hqq": "uint4_g64_floatzero_f16",
    "torchao": "uint4_g32_asym_bf16",
}


def numbers(path: Path) -> dict[str, torch.Tensor]:
    network = open_model(path).load().network
    return dict(network.named_parameters())


@pytest.mark.parametrize(("dialect", "format"), CASES)
def test_whatever_is_held_comes_back(dialect: str, format: str) -> None:
    check_dialect(get(dialect), Matrix(NAME, format, (ROWS, COLS)))


@pytest.mark.parametrize("activation", ["int8_token", "fp8_token"])
@pytest.mark.parametrize("dialect", [name for name in DIALECTS if get(name).inputs])
def test_rounded_inputs_come_back(dialect: str, activation: str) -> None:
    matrices = held(get(dialect), activation)
    assert matrices
    for matrix in matrices:
        check_dialect(get(dialect), matrix)


@pytest.mark.parametrize("format", ["int4_g32_sym_f16", "uint4_g64_asym_f16", "int3_g32_sym_f16"])
def test_columns_in_an_order_of_their_own_come_back(format: str) -> None:
    check_dialect(get("gptq"), Matrix(NAME, format, (ROWS, COLS), ordered=True), order=True)


def test_every_dialect_holds_something_and_refuses_something() -> None:
    for name in DIALECTS:
        refused = [f for f in formats.FORMATS if check_refusal(get(name), f)]
        assert held(get(name)), name
        assert "Q4_K" in refused, name


def test_what_no_dialect_can_say_is_refused() -> None:
    for name in DIALECTS:
        kept = Matrix(NAME, held(get(name))[0].format, (ROWS, COLS), outliers=3)
        turned = Matrix(NAME, held(get(name))[0].format, (ROWS, COLS), transposed=True)
        assert "keeps 3 columns in 16 bits" in str(refusal(get(name), kept))
        assert "Conv1D" in str(refusal(get(name), turned))


@pytest.mark.parametrize("dialect", RUNS)
def test_a_directory_in_a_dialect_is_the_one_in_ours(pocket: Path, tmp_path: Path, dialect: str) -> None:
    """The same numbers for whoever computes with them, read by the package that every reader uses."""
    to = RUNS[dialect]
    overrides = {"token_embd": "BF16"}
    fewbits.quantize(pocket, tmp_path / "ours", to=to, tensors=overrides, threads=2)
    record = fewbits.quantize(pocket, tmp_path / "theirs", to=to, dialect=dialect, threads=2)
    assert record.verified
    seen = fewbits.inspect(tmp_path / "theirs")
    assert (seen.dialect, fewbits.inspect(tmp_path / "ours").dialect) == (dialect, "fewbits")
    assert {f.format: f.tensors for f in seen.formats}[to] == 28
    ours, theirs = numbers(tmp_path / "ours"), numbers(tmp_path / "theirs")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert load_torch(tmp_path / "theirs" / "model.safetensors")


@pytest.mark.parametrize("dialect", RUNS)
def test_a_fault_in_packing_is_seen(
    pocket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dialect: str
) -> None:
    """A turned bit, or two rows exchanged: whatever the packer does wrong, nothing is kept."""
    kind = type(get(dialect))
    honest: Callable[..., Any] = kind.pack

    def turned(self: Any, matrix: Matrix, fields: Any) -> Any:
        packed = dict(honest(self, matrix, fields))
        first = next(iter(packed))
        wrong = packed[first].copy()
        wrong.reshape(-1).view(np.uint8)[5] ^= 16
        return packed | {first: wrong}

    def exchanged(self: Any, matrix: Matrix, fields: Any) -> Any:
        codes = fields["codes"].copy()
        codes[[0, 1]] = codes[[1, 0]]
        return honest(self, matrix, fields | {"codes": codes})

    for fault in (turned, exchanged):
        monkeypatch.setattr(kind, "pack", fault)
        with pytest.raises(VerificationError, match=r"not kept|off by"):
            fewbits.quantize(pocket, tmp_path / "out", to=RUNS[dialect], dialect=dialect, threads=2)
        assert not list(tmp_path.iterdir())


def test_recipes_bring_their_dialect(pocket: Path, tmp_path: Path) -> None:
    for recipe, dialect in (("w8a8", "compressed-tensors"), ("w8a8_fp8", "compressed-tensors")):
        fewbits.quantize(pocket, tmp_path / recipe, to=recipe, threads=2)
        assert fewbits.inspect(tmp_path / recipe).dialect == dialect
    activations = {t.activation for t in fewbits.inspect(tmp_path / "w8a8").tensors if t.format == "int8_row_sym"}
    assert activations == {"int8_token"}
    fewbits.quantize(pocket, tmp_path / "ours", to="w8a8", dialect="fewbits", threads=2)
    assert fewbits.inspect(tmp_path / "ours").dialect == "fewbits"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": "int4_g32_sym_f16", "dialect": "gtpq"}, "unknown dialect 'gtpq'; did you mean 'gptq'"),
        ({"to": "nf4_g64", "dialect": "gptq"}, "is nf4_g64, and GPTQ's dialect holds whole numbers.*28 matrices"),
        ({"to": "int4_g32_sym", "dialect": "gptq"}, "scales of 16 bits"),
        ({"to": "int4_g32_sym_f16", "dialect": "awq"}, "4 bits with zero points"),
        ({"to": "w8a8", "dialect": "bitsandbytes"}, "rounded as int8_token"),
        ({"to": "Q4_K", "dialect": "mlx"}, "whole numbers with a bias"),
        ({"to": "int4_g64_sym", "dialect": "mlx"}, "MLX rounds twice"),
        ({"to": "uint4_g64_asym_f16", "dialect": "mlx"}, "biases that would be rounded"),
        ({"to": "uint4_g64_floatzero", "dialect": "mlx"}, "rounds otherwise"),
        ({"to": "uint4_g64_bias_f16", "dialect": "hqq"}, r"\(code - zero\) \* scale"),
    ],
)
def test_what_cannot_be_held_is_refused_before_any_work(
    pocket: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        fewbits.quantize(pocket, tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_a_gguf_file_has_no_dialect(pocket: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="GGUF file, which has no dialects"):
        fewbits.quantize(pocket, tmp_path / "out.gguf", to="Q4_0", dialect="gptq")


def test_formats_of_several_kinds_need_a_dialect_that_states_them(pocket: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"tensors": {"*ffn_down": "int8_g32_sym_f16"}, "to": "int4_g32_sym_f16", "threads": 2}
    with pytest.raises(CheckpointError, match="one format for all matrices"):
        fewbits.quantize(pocket, tmp_path / "out", dialect="gptq", **options)
    fewbits.quantize(pocket, tmp_path / "out", dialect="compressed-tensors", **options)
    formats_found = {f.format for f in fewbits.inspect(tmp_path / "out").formats}
    assert {"int4_g32_sym_f16", "int8_g32_sym_f16"} <= formats_found
    stated = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert len(stated["config_groups"]) == 2


def test_only_what_fewbits_wrote_is_replaced(pocket: Path, tmp_path: Path) -> None:
    to = {"to": "int4_g32_sym_f16", "dialect": "gptq", "threads": 2}
    fewbits.quantize(pocket, tmp_path / "out", **to)
    fewbits.quantize(pocket, tmp_path / "out", force=True, **to)
    shutil.copytree(tmp_path / "out", tmp_path / "foreign")
    weights = tmp_path / "foreign" / "model.safetensors"
    save_torch(load_torch(weights), weights, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="fewbits did not write"):
        fewbits.quantize(pocket, tmp_path / "foreign", force=True, **to)


def written(folder: Path, matrix: Matrix, configuration: dict[str, Any], tensors: dict[str, Any]) -> Path:
    """A directory with one matrix, and nothing else that a model needs."""
    folder.mkdir()
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"quantization_config": configuration}))
    return folder


@pytest.fixture
def gptq(tmp_path: Path) -> Callable[..., Path]:
    """Make a GPTQ directory whose configuration, or tensors, are changed."""
    matrix = Matrix(NAME, "uint4_g32_asym_f16", (ROWS, COLS))

    def make(stated: dict[str, Any] | None = None, **changes: Any) -> Path:
        dialect = GPTQ()
        packed = dict(dialect.pack(matrix, coded(matrix)))
        for ending, change in changes.items():
            name = NAME.replace("weight", ending)
            packed[name] = change(packed[name])
            if packed[name] is None:
                del packed[name]
        return written(tmp_path / "gptq", matrix, dialect.configuration([matrix], []) | (stated or {}), packed)

    return make


def test_zero_points_of_the_first_version_wrap_as_its_writers_let_them(gptq: Callable[..., Path]) -> None:
    """A word less one in every place, borrowed where a zero point is 0: reading gives back what was borrowed."""
    ones = np.uint32(0x11111111)
    folder = gptq({"checkpoint_format": "gptq"}, qzeros=lambda z: (z.view(np.uint32) - ones).view(np.int32))
    matrix = Matrix(NAME, "uint4_g32_asym_f16", (ROWS, COLS))
    wanted, found = coded(matrix), load(folder)
    assert all(np.array_equal(found[key], field) for key, field in wanted.items())


def test_groups_in_any_order_are_read_as_the_equation_says(gptq: Callable[..., Path]) -> None:
    """Act-order, against w[r, c] = scale[g_idx[c], r] * (q[c, r] - z[g_idx[c], r]) written out."""
    place = np.random.default_rng(3).permutation(np.repeat(np.arange(COLS // 32), 32)).astype(np.int32)
    folder = gptq({"desc_act": True}, g_idx=lambda _: place)
    reader = open_quantized(folder)
    assert isinstance(reader, DialectReader)
    stored = reader.read(NAME)
    assert isinstance(stored, StoredMatrix)
    assert stored.ordered
    found = stored_numbers(formats.get(stored.format), stored.load(), (ROWS, COLS)).numpy()
    raw = load_file(folder / "model.safetensors")
    words, zeros, scales = (raw[NAME.replace("weight", ending)] for ending in ("qweight", "qzeros", "scales"))
    for row, col in ((0, 0), (1, 77), (63, 255), (17, 128), (40, 31)):
        code = words[col // 8, row] >> 4 * (col % 8) & 15
        zero = zeros[place[col], row // 8] >> 4 * (row % 8) & 15
        assert found[row, col] == np.float32(scales[place[col], row]) * np.float32(int(code) - int(zero))
    other = Directory.of(folder, SafetensorsReader(folder / "model.safetensors")).read(NAME)
    assert other is not None
    assert np.array_equal(other.numbers(0, ROWS), found)


def load(folder: Path) -> Any:
    reader = open_quantized(folder)
    assert reader is not None
    stored = reader.read(NAME)
    assert isinstance(stored, StoredMatrix)
    return stored.load()


@pytest.mark.parametrize(
    ("stated", "changes", "message"),
    [
        ({"bits": 5}, {}, "bits = 5"),
        ({"bits": None}, {}, "bits = None"),
        ({"group_size": 0}, {}, "group_size = 0"),
        ({"group_size": 48}, {}, "cannot be read|should be|is no format"),
        ({"group_size": 2**60}, {}, "cannot be read|should be|is no format"),
        ({"group_size": "128"}, {}, "group_size = '128'"),
        ({"sym": True}, {}, "zero points other than 8"),
        ({}, {"qzeros": lambda _: None}, "holds no"),
        ({}, {"scales": lambda s: s[:-1]}, "should be"),
        ({}, {"scales": lambda s: s.astype(np.float32)}, "should be F16 or BF16"),
        ({}, {"qweight": lambda q: q[:, :-1]}, "should be"),
        ({}, {"g_idx": np.zeros_like}, "not of 32 columns"),
        ({}, {"g_idx": lambda g: g - 5}, "not of 32 columns"),
        ({"quant_method": "quarot"}, {}, "a dialect that is not read here"),
        ({"quant_method": None}, {}, "a dialect that is not read here"),
    ],
)
def test_damage_is_one_sentence(
    gptq: Callable[..., Path], stated: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    folder = gptq(stated, **changes)
    with pytest.raises(FewbitsError, match=message):
        load(folder)


def test_a_configuration_of_nothing_known_is_nobodys() -> None:
    assert recognized({}) is None
    assert recognized({"quant_method": ["gptq"]}) is None
