"""Files that GPTQModel made once (bench/peers/gptqmodel_golden.py), which stand in for it: read and packed again."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from fewbits import formats
from fewbits.checkpoints.dialects.reader import open_quantized
from fewbits.checkpoints.fields import StoredMatrix
from fewbits.checkpoints.safetensors import SafetensorsReader
from fewbits.kernels.stored import stored_numbers
from fewbits.verification.dialects import Directory

FOLDER = Path(__file__).parent / "dialects"
NAME = "model.layers.0.mlp.down_proj.weight"
SHA256 = {
    "gptq-sym": "ab829c78c9dc68a1ede5f32c1eecd44c40dd058d51de095fed5a03b42637788f",
    "gptq-asym": "303a7a4ec2ed2786298e3372f0c68cb0d7bc078fe4fc7842159df3a92894b50e",
    "gptq-act-order": "5923d52f4285938644103866390f088571e538a646d907a0e0a87295e17b2c3a",
    "gptq-3-bits": "265ea34167005c3c0544e81744fa4e1b666b6d9cc8bd5cba68040361c18b6295",
    "gptq-8-bits": "5f28d199f84585a9a28c9442530e75bcf91b4c14de546cb6e4c42924c8bbb0fb",
    "awq": "d05100dd3b477d345b2e83c068afb6712966709629b519df729c38c4c77b5c19",
}
FORMATS = {
    "gptq-sym": "int4_g32_sym_f16",
    "gptq-asym": "uint4_g32_asym_f16",
    "gptq-act-order": "int4_g32_sym_f16",
    "gptq-3-bits": "int3_g32_sym_f16",
    "gptq-8-bits": "int8_row_sym_f16",
    "awq": "uint4_g32_asym_bf16",
}


@pytest.fixture(params=SHA256)
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path, dict[str, str]]:
    """Kind, a directory with the file, and what its header says."""
    kind: str = request.param
    path = FOLDER / f"{kind}.safetensors"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == SHA256[kind]
    with safe_open(path, framework="numpy") as file:
        metadata: dict[str, str] = file.metadata()
    folder = tmp_path / kind
    folder.mkdir()
    shutil.copyfile(path, folder / "model.safetensors")
    stated = {"quantization_config": json.loads(metadata["quantization_config"])}
    (folder / "config.json").write_text(json.dumps(stated))
    return kind, folder, metadata


def test_its_bytes_mean_what_they_mean_to_it(golden: tuple[str, Path, dict[str, str]]) -> None:
    """To the last bit of float16, in which it computes: to our reader, and to the one that verifies."""
    kind, folder, metadata = golden
    stored = matrix(folder)
    assert (stored.format, stored.ordered) == (FORMATS[kind], kind == "gptq-act-order")
    numbers = stored_numbers(formats.get(stored.format), stored.load(), (128, 256)).numpy()
    assert hashlib.sha256(numbers.astype(np.float16).tobytes()).hexdigest() == metadata["numbers_sha256"]
    other = Directory.of(folder, SafetensorsReader(folder / "model.safetensors")).read(NAME)
    assert other is not None
    assert np.array_equal(other.numbers(0, 128), numbers)


def test_its_tensors_come_back_bit_by_bit(golden: tuple[str, Path, dict[str, str]]) -> None:
    kind, folder, _ = golden
    reader: Any = open_quantized(folder)
    stored = matrix(folder)
    packed = reader.dialect.pack(stored, stored.load())
    its_own = load_file(folder / "model.safetensors")
    assert set(packed) == set(its_own)
    for name, array in its_own.items():
        if kind == "gptq-asym" and name.endswith("qzeros"):  # we store them as they are, which says "gptq_v2"
            continue
        assert np.array_equal(packed[name].view(np.uint8), array.view(torch.uint8).numpy()), name


def matrix(folder: Path) -> StoredMatrix:
    reader = open_quantized(folder)
    assert reader is not None
    stored = reader.read(NAME)
    assert isinstance(stored, StoredMatrix)
    return stored
