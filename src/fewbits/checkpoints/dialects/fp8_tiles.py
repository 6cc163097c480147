"""Fine-grained FP8 (DeepSeek-V3): E4M3 codes and a float32 scale per tile of 128 x 128.

    weight            F8_E4M3 (rows, cols)
    weight_scale_inv  F32 (tiles of rows, tiles of columns)   what codes are multiplied by, its name notwithstanding

Source: transformers' FP8 quantizer and DeepSeek's own files (arXiv:2412.19437, section 3.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fewbits.checkpoints.dialects.base import Arrays, Configuration, Files, Slots, array, sides, stem
from fewbits.checkpoints.fields import Matrix
from fewbits.checkpoints.quoting import quoted
from fewbits.errors import CheckpointError
from fewbits.formats import Fields

TILE = 128
FORMAT = "fp8_e4m3_tile128"


class FP8Tiles:
    """FP8 E4M3 per tile of 128 x 128; readers round the inputs themselves, per 128 columns of a token."""

    name = "fp8"
    readers = "transformers, vLLM, SGLang"
    keys: tuple[str, ...] = ("quantization_config",)
    inputs: frozenset[str] = frozenset()
    holds_order = False

    def refuses(self, matrix: Matrix) -> str | None:
        """All but that format; tiles that a matrix ends in the middle of are no matter."""
        if matrix.format != FORMAT:
            return f"is {matrix.format}, and the dialect fp8 holds {FORMAT}"
        return None if len(matrix.shape) == 2 else f"has {len(matrix.shape)} sides, and the dialect fp8 holds matrices"

    def slots(self, matrix: Matrix) -> Slots:
        """Codes and scales."""
        rows, cols = matrix.shape
        return {
            matrix.name: ("F8_E4M3", (rows, cols)),
            f"{stem(matrix.name)}.weight_scale_inv": ("F32", (-(-rows // TILE), -(-cols // TILE))),
        }

    def pack(self, matrix: Matrix, fields: Fields) -> Arrays:
        """The fields themselves."""
        return {matrix.name: fields["codes"], f"{stem(matrix.name)}.weight_scale_inv": fields["scale"]}

    def configuration(self, matrices: Sequence[Matrix], plain: Sequence[str]) -> dict[str, Any]:
        """DeepSeek's keys, and the names of matrices that stay."""
        return {
            "quant_method": "fp8",
            "fmt": "e4m3",
            "activation_scheme": "dynamic",
            "weight_block_size": [TILE, TILE],
            "modules_to_not_convert": [stem(name) for name in plain] or None,
        }

    def recognizes(self, configuration: Configuration) -> bool:
        """By its method."""
        return configuration.get("quant_method") == "fp8"

    def matrices(self, configuration: Configuration, files: Files) -> dict[str, Matrix]:
        """Whatever has a `weight_scale_inv`."""
        size = configuration.get("weight_block_size")
        if size != [TILE, TILE]:
            raise CheckpointError(
                f"quantization_config states weight_block_size = {quoted(size)}, and tiles are read as {TILE} x {TILE}."
            )
        ending = ".weight_scale_inv"
        names = [f"{each.removesuffix(ending)}.weight" for each in files.names() if each.endswith(ending)]
        return {name: Matrix(name, FORMAT, sides(files, name)) for name in names}

    def unpack(self, matrix: Matrix, files: Files, configuration: Configuration) -> Fields:
        """The tensors themselves."""
        codes, scale = (array(files, name, *slot) for name, slot in self.slots(matrix).items())
        return {"codes": codes, "scale": scale}
