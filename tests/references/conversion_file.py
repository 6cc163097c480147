"""Write a Conversion as a GGUF file with the gguf package, matrices as F16 and vectors as F32, without any shortcut."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from fewbits.checkpoints.base import Conversion, Placement

_DTYPES = {"F32": np.float32, "F16": np.float16}


def weights(placement: Placement) -> np.ndarray:
    """The placed tensor as float32, in its own shape."""
    source = placement.source
    raw = np.ascontiguousarray(placement.slab(0, source.rows))
    if source.format == "BF16":
        values = (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        values = raw.view(_DTYPES[source.format]).astype(np.float32)
    return values.reshape(source.shape)


def write_f16(conversion: Conversion, target: Path) -> Path:
    """Write `conversion` to `target`."""
    writer = gguf.GGUFWriter(target, conversion.architecture)
    for key, value in conversion.metadata.items():
        kind, _, element = value.type.partition(":")
        sub_type = gguf.GGUFValueType[element.upper()] if element else None
        writer.add_key_value(key, value.value, gguf.GGUFValueType[kind.upper()], sub_type)
    for placement in conversion.placements:
        values = weights(placement)
        narrow = values.ndim > 1 and not placement.name.endswith(
            ("position_embd.weight", ".bias")
        )  # as llama.cpp's converter
        writer.add_tensor(placement.name, values.astype(np.float16) if narrow else values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
