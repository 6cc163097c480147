"""GPTQ's dialect: words of codes down the columns of the transposed matrix, as AutoGPTQ laid them out.

    qweight  I32 (cols * bits / 32, rows)     code c of column j in the bits from c * bits on of that column's words
    qzeros   I32 (groups, rows * bits / 32)   zero points, the same along rows
    scales   F16 or BF16 (groups, rows)
    g_idx    I32 (cols)                       the group of each column

"gptq" stores zero points less one, "gptq_v2" as they are; a symmetric matrix has the middle code as its zero point.
Source: GPTQModel's torch module, which is the peer in tests.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fewbits.checkpoints.dialects.base import Arrays, Configuration, Files, Slots, array, one_of, sides, stem
from fewbits.checkpoints.dialects.ordered import by_group, in_place, is_ordered, order_of, places_of
from fewbits.checkpoints.dialects.packing import from_words, packed_down, to_words, unpacked_down, word_count
from fewbits.checkpoints.dialects.uniform import DTYPES, SIXTEEN, scale_type, uniform, uniform_name, uniform_of
from fewbits.checkpoints.fields import Matrix
from fewbits.checkpoints.quoting import quoted
from fewbits.errors import CheckpointError
from fewbits.formats import Fields
from fewbits.formats.fields import packed_bytes
from fewbits.qtensor import ORDER

BITS = (2, 3, 4, 8)
SIDE = 32
"""Both sides of a matrix are multiples of this."""


class GPTQ:
    """Whole numbers of 2, 3, 4 or 8 bits, a scale of 16 bits per group of columns or per row."""

    name = "gptq"
    readers = "transformers, vLLM, SGLang, GPTQModel"
    keys: tuple[str, ...] = ("quantization_config",)
    inputs: frozenset[str] = frozenset()
    holds_order = True

    def refuses(self, matrix: Matrix) -> str | None:
        """All but such formats; matrices whose sides are no multiples of 32."""
        found = uniform(matrix.format)
        if found is None or found.bits not in BITS or found.per_tensor or found.scale not in SIXTEEN:
            return (
                f"is {matrix.format}, and GPTQ's dialect holds whole numbers of 2, 3, 4 or 8 bits with scales of 16 "
                "bits per group or row, such as int4_g128_sym_f16"
            )
        if len(matrix.shape) != 2 or matrix.shape[0] % SIDE or matrix.shape[1] % SIDE:
            return f"is {list(matrix.shape)}, and GPTQ's words want matrices of two sides that are multiples of {SIDE}"
        return None

    def slots(self, matrix: Matrix) -> Slots:
        """Four tensors in place of `weight`."""
        (rows, cols), found = matrix.shape, uniform_of(matrix)
        module, groups = stem(matrix.name), found.groups(cols)
        return {
            f"{module}.qweight": ("I32", (word_count(cols, found.bits), rows)),
            f"{module}.qzeros": ("I32", (groups, word_count(rows, found.bits))),
            f"{module}.scales": (DTYPES[found.scale], (groups, rows)),
            f"{module}.g_idx": ("I32", (cols,)),
        }

    def pack(self, matrix: Matrix, fields: Fields) -> Arrays:
        """The same bits, transposed."""
        (rows, cols), found = matrix.shape, uniform_of(matrix)
        module = stem(matrix.name)
        codes = found.counted(in_place(fields, found.bits, cols), cols)
        zeros = found.zeros(fields, rows, found.groups(cols))
        stored = zeros - np.uint8(1) if found.symmetric else zeros
        return {
            f"{module}.qweight": np.ascontiguousarray(to_words(codes).T),
            f"{module}.qzeros": packed_down(stored, found.bits),
            f"{module}.scales": np.ascontiguousarray(fields["scale"].T),
            f"{module}.g_idx": places_of(fields, cols, found.group),
        }

    def configuration(self, matrices: Sequence[Matrix], plain: Sequence[str]) -> dict[str, Any]:
        """What AutoGPTQ began and its heirs read; matrices of layers that stay are left out by name, as `dynamic`."""
        one_of(matrices, self.name)
        found = uniform_of(matrices[0])
        stated: dict[str, Any] = {
            "quant_method": "gptq",
            "bits": found.bits,
            "group_size": found.group or -1,
            "sym": found.symmetric,
            "desc_act": any(matrix.ordered for matrix in matrices),
            # Zero points less one cannot say 0: where they are free, they are stored as they are.
            "checkpoint_format": "gptq" if found.symmetric else "gptq_v2",
            "pack_dtype": "int32",
            "lm_head": False,
        }
        left = [name for name in plain if re.search(r"\.\d+\.", name)]
        return stated | ({"dynamic": {f"-:^{re.escape(stem(name))}$": {} for name in left}} if left else {})

    def recognizes(self, configuration: Configuration) -> bool:
        """By its method."""
        return configuration.get("quant_method") == "gptq"

    def matrices(self, configuration: Configuration, files: Files) -> dict[str, Matrix]:
        """Whatever has a `qweight`."""
        bits, group = configuration.get("bits"), configuration.get("group_size")
        if bits not in BITS or type(group) is not int or not (group == -1 or group > 1):
            raise CheckpointError(
                f"quantization_config states bits = {quoted(bits)} and group_size = {quoted(group)}; GPTQ's dialect is "
                f"read with {', '.join(map(str, BITS))} bits and groups of columns, or -1 for rows."
            )
        symmetric = bool(configuration.get("sym", True))
        found = {}
        for each in files.names():
            if each.endswith(".qweight"):
                module = each.removesuffix(".qweight")
                words, rows = sides(files, each)
                scale = scale_type(files, f"{module}.scales")
                name = uniform_name(bits, max(group, 0), symmetric=symmetric, scale=scale, signed=symmetric)
                cols = words * 32 // bits
                ordered = _is_ordered(files, module, cols, max(group, 0))
                found[f"{module}.weight"] = Matrix(f"{module}.weight", name, (rows, cols), ordered=ordered)
        return found

    def unpack(self, matrix: Matrix, files: Files, configuration: Configuration) -> Fields:
        """Codes row by row again."""
        (rows, cols), found = matrix.shape, uniform_of(matrix)
        module, slots = stem(matrix.name), self.slots(matrix)
        read = {ending: array(files, f"{module}.{ending}", *slots[f"{module}.{ending}"]) for ending in _STORED}
        codes = found.counted(from_words(read["qweight"].T, packed_bytes(cols, found.bits)), cols)
        zeros = _zeros(read["qzeros"], found.bits, rows, configuration)
        fields: Fields = {"scale": np.ascontiguousarray(read["scales"].T), **found.zero_fields(zeros, matrix)}
        if not matrix.ordered:
            return {"codes": codes, **fields}
        order = order_of(array(files, f"{module}.g_idx", *slots[f"{module}.g_idx"]), found.group, matrix)
        return {"codes": by_group(codes, found.bits, order), **fields, ORDER: order}


_STORED = ("qweight", "qzeros", "scales")


def _is_ordered(files: Files, module: str, cols: int, group: int) -> bool:
    """Whether the file says that groups are no neighbours."""
    name = f"{module}.g_idx"
    return name in files.names() and is_ordered(array(files, name, "I32", (cols,)), group)


def _zeros(words: npt.NDArray[Any], bits: int, rows: int, configuration: Configuration) -> npt.NDArray[np.uint8]:
    """Zero points (rows, groups); the first version stores them less one, of a whole word at once if it has to."""
    if configuration.get("checkpoint_format", "gptq") == "gptq_v2":
        return unpacked_down(words, bits, rows)
    if 32 % bits:
        return (unpacked_down(words, bits, rows) + np.uint8(1)) & np.uint8(2**bits - 1)
    ones = sum(1 << at for at in range(0, 32, bits))
    return unpacked_down((words.view(np.uint32) + np.uint32(ones)).view(np.int32), bits, rows)
