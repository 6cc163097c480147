"""Every registered format of rows goes into a GGUF file and comes out again, by our reader and by the package's."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from fewbits import formats
from fewbits.checkpoints.base import Value
from fewbits.checkpoints.ggml_types import GGML_TYPES, ggml_number
from fewbits.checkpoints.gguf import GGUFReader
from fewbits.checkpoints.gguf_writer import GGUFWriter, plan_layout
from fewbits.errors import CheckpointError

KNOWN_TO_THE_PACKAGE = {kind.name for kind in gguf.GGML_QUANT_SIZES}
ROWS = 3


def stored_rows(name: str) -> np.ndarray:
    """Any bytes will do: nothing is decoded here."""
    shape = (ROWS, formats.row_bytes(formats.get(name), 2 * formats.get(name).span))
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(5), dtype=torch.uint8).numpy()


def write(path: Path, names: list[str]) -> dict[str, np.ndarray]:
    tensors = {name: stored_rows(name) for name in names}
    planned = [(n, n, (ROWS, 2 * formats.get(n).span), data.size) for n, data in tensors.items()]
    metadata = {"general.architecture": Value("string", "llama")}
    with GGUFWriter(path, plan_layout("llama", metadata, planned)) as writer:
        for name, data in tensors.items():
            writer.write_rows(name, 0, data)
        writer.sync()
        writer.publish()
    return tensors


def test_the_table_has_every_format_of_rows() -> None:
    table = {stored.name: (stored.span, stored.span_bytes) for stored in GGML_TYPES.values()}
    assert {n: table.get(n) for n in formats.ROWS} == {
        n: (formats.get(n).span, formats.row_bytes(formats.get(n), formats.get(n).span)) for n in formats.ROWS
    }


def test_our_reader_finds_what_was_written(tmp_path: Path) -> None:
    tensors = write(tmp_path / "all.gguf", list(formats.ROWS))
    reader = GGUFReader(tmp_path / "all.gguf")
    assert reader.names() == list(tensors)
    for name, data in tensors.items():
        found = reader.read(name)
        assert (found.format, found.shape) == (name, (ROWS, 2 * formats.get(name).span))
        assert found.slab(0, ROWS).tobytes() == data.tobytes()


def test_the_package_finds_what_was_written(tmp_path: Path) -> None:
    names = [name for name in formats.ROWS if name in KNOWN_TO_THE_PACKAGE]
    assert len(names) >= len(formats.ROWS) - 1, "the package knows all but Q2_0"
    tensors = write(tmp_path / "known.gguf", names)
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "known.gguf").tensors}
    assert set(found) == set(tensors)
    for name, data in tensors.items():
        assert found[name].tensor_type.name == name
        assert found[name].data.tobytes() == data.tobytes()


def test_a_format_that_gguf_lacks_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"a GGUF file cannot hold NF4; it holds F32, .*Q2_0\."):
        ggml_number("NF4")
