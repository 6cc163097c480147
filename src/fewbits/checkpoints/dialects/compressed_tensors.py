"""The dialect of compressed-tensors (llm-compressor, vLLM): one config group per format, numbers row by row.

    pack-quantized        weight_packed I32 (rows, cols * bits / 32), the codes of a row one after another, counted from
                          the lowest; weight_scale (rows, groups); weight_shape I64 (2);
                          weight_zero_point I32 (rows * bits / 32, groups), packed along rows, where asymmetric
    int-quantized         weight I8 (rows, cols); weight_scale (rows, 1), or (1) for a tensor
    float-quantized       weight F8_E4M3 (rows, cols); weight_scale (rows, 1), (1), or one per tile of 128 x 128
    mxfp4-pack-quantized  weight_packed U8 (rows, cols / 2), the first code below; weight_scale U8 (rows, cols / 32)
    nvfp4-pack-quantized  weight_packed as there; weight_scale F8_E4M3 (rows, cols / 16); weight_global_scale F32 (1),
                          by which scales are divided

Other scales are F16, BF16 or F32. Source: the compressed-tensors package, the peer in tests.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fewbits.checkpoints.dialects.base import Arrays, Configuration, Files, Slots, array, sides, stem
from fewbits.checkpoints.dialects.packing import from_words, packed_down, to_words, unpacked_down, word_count
from fewbits.checkpoints.dialects.uniform import DTYPES, SCALES, Uniform, uniform, uniform_name
from fewbits.checkpoints.fields import Matrix
from fewbits.checkpoints.quoting import quoted
from fewbits.errors import CheckpointError
from fewbits.formats import Fields
from fewbits.formats.fields import packed_bytes

PACKED, INTEGER, FLOAT = "pack-quantized", "int-quantized", "float-quantized"
MXFP4, NVFP4 = "mxfp4-pack-quantized", "nvfp4-pack-quantized"
_NV, _NV_GROUP = "nvfp4_divided", 16
SEVERAL = "mixed-precision"
TILE = 128
_FLOATS = {"row": "channel", "tensor": "tensor", "tile128": "block"}
"""Scope of fp8_e4m3 -> strategy."""
_INPUTS = {"int8_token": "int", "fp8_token": "float"}
"""Rounding of inputs -> type."""


@dataclass(frozen=True)
class Layout:
    """How one format lies: the package's name for it, and its facts."""

    name: str
    scope: str
    """"group", "channel", "tensor" or "block"."""
    scale: str
    """The word for the type of scales."""
    whole: Uniform | None = None
    """The facts of an integer format."""


class CompressedTensors:
    """Whole numbers of 2 to 8 bits, FP8 per row, tensor or tile, MXFP4, NVFP4; INT8 and FP8 with inputs rounded too."""

    name = "compressed-tensors"
    readers = "vLLM, transformers, SGLang"
    keys: tuple[str, ...] = ("quantization_config",)
    inputs = frozenset(_INPUTS)
    holds_order = False

    def refuses(self, matrix: Matrix) -> str | None:
        """Formats that the package has no name for, and inputs rounded otherwise than their weights."""
        layout = _layout(matrix)
        if layout is None:
            return (
                f"is {matrix.format}, and compressed-tensors holds whole numbers per group, row or tensor, FP8 E4M3 "
                "per row, tensor or tile of 128, mxfp4 and nvfp4_divided: int4_g128_sym_f16, int8_row_sym or "
                "fp8_e4m3_row for instance"
            )
        if len(matrix.shape) != 2:
            return f"has {len(matrix.shape)} sides, and compressed-tensors holds matrices of two"
        wanted = {"int8_token": INTEGER, "fp8_token": FLOAT}.get(matrix.activation or "", layout.name)
        if layout.name != wanted or (layout.name == INTEGER and not matrix.activation):
            return f"is {matrix.format} with inputs rounded as {matrix.activation}, which no reader multiplies"
        return None

    def slots(self, matrix: Matrix) -> Slots:
        """`weight` or `weight_packed`, and its parameters."""
        (rows, cols), layout = matrix.shape, _stated(matrix)
        module = stem(matrix.name)
        if layout.name == MXFP4:
            return {
                f"{module}.weight_packed": ("U8", (rows, cols // 2)),
                f"{module}.weight_scale": ("U8", (rows, cols // 32)),
            }
        if layout.name == NVFP4:
            return {
                f"{module}.weight_packed": ("U8", (rows, cols // 2)),
                f"{module}.weight_scale": ("F8_E4M3", (rows, cols // _NV_GROUP)),
                f"{module}.weight_global_scale": ("F32", (1,)),
            }
        scale = {f"{module}.weight_scale": (DTYPES[layout.scale], _lines(layout, rows, cols))}
        if layout.name != PACKED:
            return {f"{module}.weight": ("I8" if layout.name == INTEGER else "F8_E4M3", (rows, cols)), **scale}
        found = layout.whole
        assert found is not None, "only whole numbers are packed"
        slots: Slots = {f"{module}.weight_packed": ("I32", (rows, word_count(cols, found.bits))), **scale}
        slots[f"{module}.weight_shape"] = ("I64", (2,))
        if not found.symmetric:
            shape = (word_count(rows, found.bits), found.groups(cols))
            slots[f"{module}.weight_zero_point"] = ("I32", shape)
        return slots

    def pack(self, matrix: Matrix, fields: Fields) -> Arrays:
        """Codes as they are, or counted from the lowest where they are packed."""
        (rows, cols), layout = matrix.shape, _stated(matrix)
        module, found = stem(matrix.name), layout.whole
        if layout.name == MXFP4:
            return {f"{module}.weight_packed": fields["codes"], f"{module}.weight_scale": fields["scale"]}
        if layout.name == NVFP4:
            divisor = {f"{module}.weight_global_scale": fields["divisor"].reshape(1)}
            return {f"{module}.weight_packed": fields["codes"], f"{module}.weight_scale": fields["scale"], **divisor}
        scale = {f"{module}.weight_scale": fields["scale"].reshape(_lines(layout, rows, cols))}
        if layout.name == FLOAT:
            return {f"{module}.weight": fields["codes"], **scale}
        assert found is not None, "what is left are whole numbers"
        counted = found.counted(fields["codes"], cols)
        if layout.name == INTEGER:
            return {f"{module}.weight": (counted ^ np.uint8(found.middle)).view(np.int8), **scale}
        packed: Arrays = {f"{module}.weight_packed": to_words(counted), **scale}
        packed[f"{module}.weight_shape"] = np.array([rows, cols], np.int64)
        if not found.symmetric:
            zeros = packed_down(found.zeros(fields, rows, found.groups(cols)), found.bits)
            packed[f"{module}.weight_zero_point"] = np.ascontiguousarray(zeros.T)
        return packed

    def configuration(self, matrices: Sequence[Matrix], plain: Sequence[str]) -> dict[str, Any]:
        """One config group per format; its targets are all linear modules where there is one group."""
        kinds = list(dict.fromkeys((matrix.format, matrix.activation) for matrix in matrices))
        groups, names = {}, []
        for number, kind in enumerate(kinds):
            own = [matrix for matrix in matrices if (matrix.format, matrix.activation) == kind]
            layout = _stated(own[0])
            names.append(layout.name)
            groups[f"group_{number}"] = {
                "targets": ["Linear"] if len(kinds) == 1 else [stem(matrix.name) for matrix in own],
                "weights": _weights(layout),
                "input_activations": _input(own[0].activation),
                "output_activations": None,
                "format": layout.name,
            }
        return {
            "quant_method": self.name,
            "format": names[0] if len(set(names)) == 1 else SEVERAL,
            "quantization_status": "compressed",
            "config_groups": groups,
            "ignore": [stem(name) for name in plain],
            "kv_cache_scheme": None,
            "global_compression_ratio": None,
        }

    def recognizes(self, configuration: Configuration) -> bool:
        """By its method; the oldest files have the name of the package in another spelling."""
        return configuration.get("quant_method") in ("compressed-tensors", "compressed_tensors", "sparseml")

    def matrices(self, configuration: Configuration, files: Files) -> dict[str, Matrix]:
        """Whatever has a `weight_scale`, by the group that names it."""
        if configuration.get("quantization_status", "compressed") != "compressed":
            raise CheckpointError(
                "the checkpoint is in compressed-tensors' dialect but not compressed (quantization_status "
                f"{quoted(configuration['quantization_status'])}); save it with save_compressed=True."
            )
        groups = configuration.get("config_groups")
        if not isinstance(groups, dict) or not groups:
            raise CheckpointError("quantization_config has no config_groups; the configuration is damaged.")
        present, found = set(files.names()), {}
        for name in sorted(present):
            if name.endswith(".weight_scale"):
                module = name.removesuffix(".weight_scale")
                found[f"{module}.weight"] = _matrix(module, _group_of(module, groups), files, present)
        return found

    def unpack(self, matrix: Matrix, files: Files, configuration: Configuration) -> Fields:
        """Codes and scales as our fields have them."""
        (rows, cols), layout = matrix.shape, _stated(matrix)
        read = {name.rpartition(".")[2]: array(files, name, *slot) for name, slot in self.slots(matrix).items()}
        scale, found = read["weight_scale"], layout.whole
        if layout.name == MXFP4:
            return {"codes": read["weight_packed"], "scale": scale}
        if layout.name == NVFP4:
            divisor = read["weight_global_scale"].reshape(1, 1)
            return {"codes": read["weight_packed"], "scale": scale, "divisor": divisor}
        scale = scale.reshape(_stored_lines(layout, scale.shape))
        if layout.name == FLOAT:
            return {"codes": read["weight"], "scale": scale}
        assert found is not None, "what is left are whole numbers"
        if layout.name == INTEGER:
            counted = read["weight"].view(np.uint8) ^ np.uint8(found.middle)
            return {"codes": found.counted(counted, cols), "scale": scale}
        packed = from_words(read["weight_packed"], packed_bytes(cols, found.bits))
        fields: Fields = {"codes": found.counted(packed, cols), "scale": scale}
        if found.symmetric:
            return fields
        zeros = unpacked_down(np.ascontiguousarray(read["weight_zero_point"].T), found.bits, rows)
        return {**fields, **found.zero_fields(zeros, matrix)}


def _layout(matrix: Matrix) -> Layout | None:
    """How the format of `matrix` lies; None where it has no place."""
    if matrix.format == "mxfp4":
        return Layout(MXFP4, "group", "")
    if matrix.format == _NV:
        return Layout(NVFP4, "tensor_group", "")
    small = re.fullmatch(r"fp8_e4m3_(row|tensor|tile128)(?:_(f16|bf16))?", matrix.format)
    if small:
        return Layout(FLOAT, _FLOATS[small[1]], small[2] or "f32")
    found = uniform(matrix.format)
    if found is None:
        return None
    scope = "tensor" if found.per_tensor else "group" if found.group else "channel"
    if found.bits == 8 and found.symmetric and scope != "group" and matrix.activation:
        return Layout(INTEGER, scope, found.scale, found)
    return None if found.per_tensor else Layout(PACKED, scope, found.scale, found)


def _stated(matrix: Matrix) -> Layout:
    found = _layout(matrix)
    if found is None:
        raise CheckpointError(
            f"tensor {quoted(matrix.name)} is said to be {quoted(matrix.format)}, which is no format; it is damaged."
        )
    return found


def _lines(layout: Layout, rows: int, cols: int) -> tuple[int, ...]:
    """The shape of the scales in the file."""
    if layout.scope == "block":
        return -(-rows // TILE), -(-cols // TILE)
    if layout.scope == "tensor":
        return (1,)
    return rows, layout.whole.groups(cols) if layout.whole else 1


def _stored_lines(layout: Layout, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the scales in our fields."""
    return (1, 1) if layout.scope == "tensor" else shape


def _weights(layout: Layout) -> dict[str, Any]:
    """QuantizationArgs of the matrices."""
    found = layout.whole
    group = {"group": found.group if found else 32, "tensor_group": _NV_GROUP}.get(layout.scope)
    stated: dict[str, Any] = {
        "num_bits": found.bits if found else 4 if layout.name in (MXFP4, NVFP4) else 8,
        "type": "int" if found else "float",
        "symmetric": found.symmetric if found else True,
        "strategy": layout.scope,
        "group_size": group,
        "dynamic": False,
    }
    if layout.scope == "block":
        stated["block_structure"] = [TILE, TILE]
    types = {MXFP4: "torch.uint8", NVFP4: "torch.float8_e4m3fn"}
    return stated | (
        {"scale_dtype": types[layout.name], "zp_dtype": types[layout.name]} if layout.name in types else {}
    )


def _input(activation: str | None) -> dict[str, Any] | None:
    """QuantizationArgs of the inputs: one scale per token, found while the model runs."""
    if activation is None:
        return None
    return {
        "num_bits": 8,
        "type": _INPUTS[activation],
        "symmetric": True,
        "strategy": "token",
        "group_size": None,
        "dynamic": True,
    }


def _group_of(module: str, groups: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config group whose targets name `module`; a class of modules names whatever is left."""
    classes = []
    for group in groups.values():
        targets = group.get("targets") if isinstance(group, dict) else None
        for target in targets if isinstance(targets, list) else []:
            if target == module or (str(target).startswith("re:") and re.match(str(target)[3:], module)):
                return dict(group)
            if isinstance(target, str) and "." not in target and not target.startswith("re:"):
                classes.append(group)
    if not classes:
        raise CheckpointError(f"no config group of quantization_config names {quoted(module)}, which is quantized.")
    return dict(classes[0])


def _matrix(module: str, group: Mapping[str, Any], files: Files, present: set[str]) -> Matrix:
    """What is stated of the matrix of `module`; raises CheckpointError where no format of ours is that."""
    stated, name = group.get("weights"), f"{module}.weight"
    if not isinstance(stated, dict):
        raise CheckpointError(f"the config group of {quoted(module)} says nothing of its weights; it is damaged.")
    if f"{module}.weight_g_idx" in present:
        raise CheckpointError(
            f"{quoted(module)} has columns in the order of their activations (weight_g_idx), which compressed-tensors "
            "itself reads no more; quantize the original model again."
        )
    scale = files.read(f"{module}.weight_scale")
    shape = _shape_of(module, stated, files, present)
    format_name = _format_of(stated, SCALES.get(scale.format, ""), scale.format)
    if format_name is None:
        said = {key: stated.get(key) for key in ("num_bits", "type", "symmetric", "strategy", "group_size")}
        raise CheckpointError(f"no format here is what {quoted(module)} is said to be, {quoted(said)}.")
    return Matrix(name, format_name, shape, _activation(module, group.get("input_activations")))


def _shape_of(module: str, stated: Mapping[str, Any], files: Files, present: set[str]) -> tuple[int, ...]:
    if f"{module}.weight_shape" in present:
        rows, cols = array(files, f"{module}.weight_shape", ("I64", "I32"), (2,)).tolist()
        return int(rows), int(cols)
    if f"{module}.weight_packed" in present:
        rows, half = sides(files, f"{module}.weight_packed")
        return rows, 2 * half
    return sides(files, f"{module}.weight")


def _format_of(stated: Mapping[str, Any], scale: str, dtype: str) -> str | None:
    """The name of our format with these facts; None where there is none."""
    bits, kind, scope = stated.get("num_bits"), stated.get("type"), stated.get("strategy")
    symmetric, group = stated.get("symmetric", True), stated.get("group_size")
    if kind == "float" and bits == 4 and group == 32 and dtype == "U8":
        return "mxfp4"
    if kind == "float" and bits == 4 and group == _NV_GROUP and dtype == "F8_E4M3":
        return _NV
    if not scale:
        return None
    ending = "" if scale == "f32" else f"_{scale}"
    if kind == "float" and bits == 8 and scope in _FLOATS.values() and symmetric:
        tiles = stated.get("block_structure") in ([TILE, TILE], "128x128")
        word = next(word for word, strategy in _FLOATS.items() if strategy == scope)
        return f"fp8_e4m3_{word}{ending}" if scope != "block" or tiles else None
    if kind != "int" or type(bits) is not int or not 2 <= bits <= 8:
        return None
    if scope == "tensor" and symmetric:
        return f"int{bits}_tensor_sym{ending}"
    if scope not in ("group", "channel") or (scope == "group" and (type(group) is not int or group < 2)):
        return None
    width = group if scope == "group" and isinstance(group, int) else 0
    return uniform_name(bits, width, symmetric=bool(symmetric), scale=scale, signed=bool(symmetric))


def _activation(module: str, stated: object) -> str | None:
    """How inputs are rounded; raises CheckpointError where they are in a way that is not known here."""
    if stated is None:
        return None
    if isinstance(stated, dict):
        for name, kind in _INPUTS.items():
            wanted = {"num_bits": 8, "type": kind, "strategy": "token", "dynamic": True, "symmetric": True}
            if all(stated.get(key) == value for key, value in wanted.items()):
                return name
    raise CheckpointError(
        f"the inputs of {quoted(module)} are rounded as {quoted(stated)}; known are 8 bits per token, dynamic: static "
        "scales are not read yet."
    )
