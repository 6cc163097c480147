"""bitsandbytes' dialect: NF4 and FP4 with a scale per group, which may be quantized, as its QuantState lies.

    weight                                U8 (rows * cols / 2, 1)   two codes a byte, the first one above
    weight.absmax                         F32 (groups), or U8 with nested scales
    weight.quant_map                      F32 (16)                  the numbers of the codes
    weight.nested_absmax, .nested_quant_map                         F32, with nested scales
    weight.quant_state.bitsandbytes__nf4  U8                        JSON: group size, shape, offset of nested scales

The JSON is filled up with blanks, so that the file's layout is known before its numbers. Its eight bits lie in
bitsandbytes_rows.py. Source: bitsandbytes' functional.QuantState, the peer in tests.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fewbits import formats
from fewbits.checkpoints.dialects import bitsandbytes_rows
from fewbits.checkpoints.dialects.base import Arrays, Configuration, Files, Slots, array, one_of
from fewbits.checkpoints.dialects.packing import halves_swapped
from fewbits.checkpoints.fields import Matrix
from fewbits.checkpoints.jsonfile import parse_object
from fewbits.checkpoints.quoting import quoted
from fewbits.errors import CheckpointError
from fewbits.formats import Fields
from fewbits.formats.codebooks import TABLES
from fewbits.formats.doubled import GROUP, dynamic_map

STATE_BYTES = 256
"""Room for the JSON."""
SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
"""Columns of a group that its kernels know."""
_KINDS = {"nf4": "nf4", "fp4_bnb": "fp4"}
_STATE = ".quant_state.bitsandbytes__"


class BitsAndBytes:
    """NF4 and bitsandbytes' FP4 per group, scales in 32 bits or quantized; LLM.int8()'s rows of 8 bits."""

    name = "bitsandbytes"
    readers = "transformers, PEFT (QLoRA), vLLM"
    keys: tuple[str, ...] = ("quantization_config",)
    inputs: frozenset[str] = frozenset()
    holds_order = False

    def refuses(self, matrix: Matrix) -> str | None:
        """All but such formats; its groups run on from row to row, ours end with them."""
        kind, group, _ = _facts(matrix.format)
        if matrix.format != bitsandbytes_rows.FORMAT and (not kind or group not in SIZES):
            return (
                f"is {matrix.format}, and bitsandbytes' dialect holds nf4 and fp4_bnb in groups of "
                f"{', '.join(map(str, SIZES))} columns, such as nf4_g64_dq, and {bitsandbytes_rows.FORMAT}"
            )
        return None if len(matrix.shape) == 2 else f"has {len(matrix.shape)} sides, and bitsandbytes holds matrices"

    def slots(self, matrix: Matrix) -> Slots:
        """`weight` and what its name goes on with."""
        if matrix.format == bitsandbytes_rows.FORMAT:
            return bitsandbytes_rows.slots(matrix)
        (rows, cols), name = matrix.shape, matrix.name
        kind, group, double = _facts(matrix.format)
        count = rows * cols // group
        slots: Slots = {
            name: ("U8", (rows * cols // 2, 1)),
            f"{name}.absmax": ("U8" if double else "F32", (count,)),
            f"{name}.quant_map": ("F32", (16,)),
        }
        if double:
            slots[f"{name}.nested_absmax"] = ("F32", (-(-count // GROUP),))
            slots[f"{name}.nested_quant_map"] = ("F32", (256,))
        slots[f"{name}{_STATE}{_KINDS[kind]}"] = ("U8", (STATE_BYTES,))
        return slots

    def pack(self, matrix: Matrix, fields: Fields) -> Arrays:
        """Halves of bytes swapped, scales as they are."""
        if matrix.format == bitsandbytes_rows.FORMAT:
            return bitsandbytes_rows.pack(matrix, fields)
        kind, group, double = _facts(matrix.format)
        name = matrix.name
        state: dict[str, Any] = {
            "quant_type": _KINDS[kind],
            "blocksize": group,
            "dtype": "bfloat16",
            "shape": list(matrix.shape),
        }
        packed: Arrays = {
            name: halves_swapped(fields["codes"]).reshape(-1, 1),
            f"{name}.absmax": fields["scale"].reshape(-1),
            f"{name}.quant_map": np.array(TABLES[kind][0], np.float32),
        }
        if double:
            packed[f"{name}.nested_absmax"] = fields["nested"]
            packed[f"{name}.nested_quant_map"] = dynamic_map()
            state |= {
                "nested_blocksize": GROUP,
                "nested_dtype": "float32",
                "nested_offset": float(fields["offset"][0]),
            }
        text = json.dumps(state).encode().ljust(STATE_BYTES)
        packed[f"{name}{_STATE}{_KINDS[kind]}"] = np.frombuffer(text, np.uint8)
        return packed

    def configuration(self, matrices: Sequence[Matrix], plain: Sequence[str]) -> dict[str, Any]:
        """What transformers' BitsAndBytesConfig writes."""
        format_name = one_of(matrices, self.name)
        kind, _, double = _facts(format_name)
        four = {"load_in_4bit": True, "load_in_8bit": False, "_load_in_4bit": True, "_load_in_8bit": False}
        return {
            "quant_method": "bitsandbytes",
            **(bitsandbytes_rows.configuration() if format_name == bitsandbytes_rows.FORMAT else four),
            "bnb_4bit_quant_type": _KINDS.get(kind, "fp4"),
            "bnb_4bit_use_double_quant": double,
            "bnb_4bit_compute_dtype": "bfloat16",
            "bnb_4bit_quant_storage": "uint8",
            "llm_int8_skip_modules": [name.removesuffix(".weight") for name in plain] or None,
            "llm_int8_threshold": 6.0,
            "llm_int8_has_fp16_weight": False,
            "llm_int8_enable_fp32_cpu_offload": False,
        }

    def recognizes(self, configuration: Configuration) -> bool:
        """By its method, or by keys of files from before it was written."""
        known = configuration.get("quant_method") == "bitsandbytes"
        return known or bool(configuration.get("load_in_4bit")) or bool(configuration.get("load_in_8bit"))

    def matrices(self, configuration: Configuration, files: Files) -> dict[str, Matrix]:
        """Whatever has a state, or scales of rows."""
        if configuration.get("load_in_8bit"):
            return bitsandbytes_rows.matrices(files)
        found = {}
        for each in files.names():
            name, mark, _ = each.partition(_STATE)
            if mark:
                state = _state(files, each)
                found[name] = Matrix(name, _format_of(each, state), tuple(state["shape"]))
        return found

    def unpack(self, matrix: Matrix, files: Files, configuration: Configuration) -> Fields:
        """Codes and scales row by row."""
        if matrix.format == bitsandbytes_rows.FORMAT:
            return bitsandbytes_rows.unpack(matrix, files)
        (rows, cols), name = matrix.shape, matrix.name
        kind, group, double = _facts(matrix.format)
        slots = self.slots(matrix)
        state_name = f"{name}{_STATE}{_KINDS[kind]}"
        read = {each: array(files, each, *slot) for each, slot in slots.items() if each != state_name}
        if not np.array_equal(read[f"{name}.quant_map"], np.array(TABLES[kind][0], np.float32)):
            raise CheckpointError(f"tensor {name} has codes that stand for other numbers than {kind}'s.")
        codes = halves_swapped(read[name].reshape(rows, cols // 2))
        fields: Fields = {"codes": codes, "scale": read[f"{name}.absmax"].reshape(rows, cols // group)}
        if double:
            if not np.array_equal(read[f"{name}.nested_quant_map"], dynamic_map()):
                raise CheckpointError(f"tensor {name} has nested scales under another map than bitsandbytes' own.")
            fields["nested"] = read[f"{name}.nested_absmax"]
            fields["offset"] = np.array([_state(files, state_name)["nested_offset"]], np.float32)
        return fields


def _facts(format_name: str) -> tuple[str, int, bool]:
    """Kind, columns of a group, whether scales are quantized; ("", 0, False) for other formats.

    >>> _facts("nf4_g64_dq"), _facts("nf4_g64_bf16")
    (('nf4', 64, True), ('', 0, False))
    """
    found = re.fullmatch(r"(nf4|fp4_bnb)_g(\d+)(_dq)?", format_name)
    return (found[1], int(found[2]), bool(found[3])) if found else ("", 0, False)


def _state(files: Files, name: str) -> dict[str, Any]:
    stored = files.read(name)
    if stored.format != "U8" or stored.bytes > 2**16:
        raise CheckpointError(f"tensor {name} is no JSON of bytes; the file is damaged.")
    state = parse_object(stored.buffer.tobytes(), f"tensor {name}")
    shape = state.get("shape")
    if not isinstance(shape, list) or len(shape) != 2 or not all(type(n) is int and n > 0 for n in shape):
        raise CheckpointError(f"tensor {name} states the shape {quoted(shape)}, not two sides; the file is damaged.")
    return state


def _format_of(name: str, state: Mapping[str, Any]) -> str:
    """Our name of what a state says; raises CheckpointError where no format here is that."""
    kind = next((own for own, theirs in _KINDS.items() if theirs == state.get("quant_type")), None)
    group, double = state.get("blocksize"), "nested_offset" in state
    if double and (state.get("nested_blocksize") != GROUP or type(state["nested_offset"]) not in (int, float)):
        raise CheckpointError(f"tensor {name} has nested scales in groups other than {GROUP}, which are not read.")
    cols = state["shape"][1]
    if kind is None or group not in SIZES or cols % group:
        raise CheckpointError(
            f"tensor {name} is {quoted(state.get('quant_type'))} in groups of {quoted(group)} with rows of {cols}; "
            "groups that do not end with a row are not read."
        )
    return formats.get(f"{kind}_g{group}{'_dq' if double else ''}").name
