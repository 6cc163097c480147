"""AWQ's dialect, its GEMM version: words of eight codes along the rows, in the order that its CUDA kernel unpacks.

    qweight  I32 (cols, rows / 8)     four bits each; place p of a word holds row 8 w + ORDER[p]
    qzeros   I32 (groups, rows / 8)   zero points, the same
    scales   F16 or BF16 (groups, rows)

Source: Lin et al. 2023, arXiv:2306.00978, and AutoAWQ's GEMM module; GPTQModel is the peer in tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fewbits.checkpoints.dialects.base import Arrays, Configuration, Files, Slots, array, one_of, sides, stem
from fewbits.checkpoints.dialects.packing import packed_down, unpacked_down
from fewbits.checkpoints.dialects.uniform import DTYPES, SIXTEEN, scale_type, uniform, uniform_name, uniform_of
from fewbits.checkpoints.fields import Matrix
from fewbits.checkpoints.quoting import quoted
from fewbits.errors import CheckpointError
from fewbits.formats import Fields
from fewbits.formats.fields import pack_bits, unpack_bits

PLACES = (0, 2, 4, 6, 1, 3, 5, 7)
"""Row of a word's eight in each place, from the lowest bits up."""
BITS, PER_WORD = 4, 8


class AWQ:
    """Whole numbers of 4 bits with zero points, a scale of 16 bits per group of columns."""

    name = "awq"
    readers = "transformers, vLLM, SGLang"
    keys: tuple[str, ...] = ("quantization_config",)
    inputs: frozenset[str] = frozenset()
    holds_order = False

    def refuses(self, matrix: Matrix) -> str | None:
        """All but such formats; matrices whose rows are no multiples of 8."""
        found = uniform(matrix.format)
        fits = found and found.bits == BITS and found.group and not found.symmetric and found.scale in SIXTEEN
        if not fits:
            return (
                f"is {matrix.format}, and AWQ's dialect holds 4 bits with zero points and scales of 16 bits per "
                "group, such as uint4_g128_asym_f16"
            )
        if len(matrix.shape) != 2 or matrix.shape[0] % PER_WORD:
            return f"is {list(matrix.shape)}, and AWQ's words want a number of rows that is a multiple of {PER_WORD}"
        return None

    def slots(self, matrix: Matrix) -> Slots:
        """Three tensors in place of `weight`."""
        (rows, cols), module = matrix.shape, stem(matrix.name)
        groups = uniform_of(matrix).groups(cols)
        return {
            f"{module}.qweight": ("I32", (cols, rows // PER_WORD)),
            f"{module}.qzeros": ("I32", (groups, rows // PER_WORD)),
            f"{module}.scales": (DTYPES[uniform_of(matrix).scale], (groups, rows)),
        }

    def pack(self, matrix: Matrix, fields: Fields) -> Arrays:
        """Rows in the kernel's order, packed down."""
        (rows, cols), module, found = matrix.shape, stem(matrix.name), uniform_of(matrix)
        codes = unpack_bits(found.counted(fields["codes"], cols), BITS, cols)
        order = _order(rows)
        return {
            f"{module}.qweight": packed_down(codes[order], BITS),
            f"{module}.qzeros": packed_down(found.zeros(fields, rows, found.groups(cols))[order], BITS),
            f"{module}.scales": np.ascontiguousarray(fields["scale"].T),
        }

    def configuration(self, matrices: Sequence[Matrix], plain: Sequence[str]) -> dict[str, Any]:
        """AutoAWQ's keys; matrices that stay are named."""
        one_of(matrices, self.name)
        return {
            "quant_method": "awq",
            "bits": BITS,
            "group_size": uniform_of(matrices[0]).group,
            "zero_point": True,
            "version": "gemm",
            "modules_to_not_convert": [stem(name) for name in plain] or None,
        }

    def recognizes(self, configuration: Configuration) -> bool:
        """By its method."""
        return configuration.get("quant_method") == "awq"

    def matrices(self, configuration: Configuration, files: Files) -> dict[str, Matrix]:
        """Whatever has a `qweight`."""
        bits, group = configuration.get("bits"), configuration.get("group_size")
        version = str(configuration.get("version", "gemm")).lower()
        if bits != BITS or type(group) is not int or group < 2 or version != "gemm":
            raise CheckpointError(
                f"quantization_config states bits = {quoted(bits)}, group_size = {quoted(group)} and version = "
                f"{quoted(version)}; AWQ's dialect is read with 4 bits, groups of columns and the version gemm."
            )
        found = {}
        for each in files.names():
            if each.endswith(".qweight"):
                matrix = f"{each.removesuffix('.qweight')}.weight"
                cols, words = sides(files, each)
                scale = scale_type(files, f"{each.removesuffix('.qweight')}.scales")
                name = uniform_name(BITS, group, symmetric=False, scale=scale, signed=False)
                found[matrix] = Matrix(matrix, name, (words * PER_WORD, cols))
        return found

    def unpack(self, matrix: Matrix, files: Files, configuration: Configuration) -> Fields:
        """Rows in their own order again."""
        (rows, _), slots = matrix.shape, self.slots(matrix)
        read = {name.rpartition(".")[2]: array(files, name, *slot) for name, slot in slots.items()}
        back = np.argsort(_order(rows))
        codes = unpacked_down(read["qweight"], BITS, rows)[back]
        zeros = unpacked_down(read["qzeros"], BITS, rows)[back]
        scale = np.ascontiguousarray(read["scales"].T)
        return {"codes": pack_bits(codes, BITS), "scale": scale, **uniform_of(matrix).zero_fields(zeros, matrix)}


def _order(rows: int) -> npt.NDArray[np.int64]:
    """The row in each place."""
    order: npt.NDArray[np.int64] = (np.arange(0, rows, PER_WORD)[:, None] + np.array(PLACES)).ravel()
    return order
