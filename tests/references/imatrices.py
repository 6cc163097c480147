"""Importance matrices as llama-imatrix writes them, written another way: by the gguf package and by struct."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def write_imatrix(target: Path, entries: dict[str, tuple[Floats, Floats]], *, chunks: int = 3) -> Path:
    """The GGUF form: name -> (sums of squares (experts, cols), counts (experts,))."""
    writer = gguf.GGUFWriter(target, "")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["manual.txt"])
    writer.add_uint32("imatrix.chunk_count", chunks)
    writer.add_uint32("imatrix.chunk_size", 256)
    for name, (sums, counts) in entries.items():
        writer.add_tensor(f"{name}.in_sum2", np.ascontiguousarray(sums, np.float32))
        writer.add_tensor(f"{name}.counts", np.ascontiguousarray(counts, np.float32).reshape(-1, 1))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def dat(entries: dict[str, tuple[int, Floats]], *, chunks: int = 3, text: str = "manual.txt") -> bytes:
    """The older form: name -> (calls, values times calls)."""
    parts = [struct.pack("<i", len(entries))]
    for name, (calls, values) in entries.items():
        encoded = name.encode()
        parts += [struct.pack("<i", len(encoded)), encoded, struct.pack("<ii", calls, values.size)]
        parts.append(np.ascontiguousarray(values, "<f4").tobytes())
    return b"".join([*parts, struct.pack("<ii", chunks, len(text)), text.encode()])
