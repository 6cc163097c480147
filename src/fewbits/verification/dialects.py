"""The stranger's reading of dialects: numbers of a matrix from the tensors and the configuration that others read.

Written from what each dialect's readers do (docs/design/0013-dialects.md), in numpy, one equation per dialect; it
shares nothing with the code that packs. What fields.py is to our own dialect this is to the rest.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fewbits.checkpoints.base import Reader
from fewbits.errors import VerificationError
from fewbits.verification.fields import codebook, dynamic_map, small_float
from fewbits.verification.torchao import read_torchao

Floats = npt.NDArray[np.float32]
Numbers = npt.NDArray[Any]

_TYPES = {"U8": "u1", "I8": "i1", "F8_E4M3": "u1", "F16": "<f2", "I32": "<u4", "U32": "<u4", "F32": "<f4", "I64": "<i8"}
_TYPES |= {"F8_E5M2": "u1"}


@dataclass(frozen=True)
class Reading:
    """One matrix as its readers see it."""

    shape: tuple[int, ...]
    tensors: frozenset[str]
    """What of the file it is made of."""
    numbers: Callable[[int, int], Floats]
    """Rows from the first number on to the second, (rows, cols)."""
    activation: str | None = None


@dataclass(frozen=True)
class Directory:
    """A model directory in the dialect that its configuration names."""

    weights: Reader
    quantization: Mapping[str, Any] | None

    @staticmethod
    def of(folder: Path, weights: Reader) -> Directory:
        """Read the configuration beside `weights`."""
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return Directory(weights, config.get("quantization_config"))

    @property
    def stated(self) -> Mapping[str, Any]:
        """The configuration of a directory that has one."""
        assert self.quantization is not None, "a matrix was found, so its dialect was"
        return self.quantization

    def has(self, name: str) -> bool:
        """Whether there is such a tensor."""
        return name in self.weights.names()

    def tensor(self, name: str) -> Numbers:
        """A tensor's numbers; BF16 as float32, I32 as counted ones."""
        stored = self.weights.read(name)
        if stored.format == "BF16":
            wide: Numbers = (stored.buffer.view("<u2").astype(np.uint32) << 16).view(np.float32).reshape(stored.shape)
            return wide
        numbers: Numbers = stored.buffer.view(_TYPES[stored.format]).reshape(stored.shape)
        return numbers

    def read(self, name: str) -> Reading | None:
        """The matrix `name` as readers of this dialect see it; None where it lies there as plain numbers."""
        if self.quantization is None:
            return None
        method = self.quantization.get("quant_method", "mlx")
        if method not in _READINGS:
            raise VerificationError(f"verification has no reading of the dialect {method}; the output is not kept.")
        return _READINGS[method](self, name.removesuffix(".weight"))

    def part(self, module: str, *endings: str) -> frozenset[str]:
        """Names of a module's tensors."""
        return frozenset(f"{module}.{ending}" for ending in endings if self.has(f"{module}.{ending}"))


def stream(words: Numbers, bits: int, count: int) -> Floats:
    """`count` codes of each line of 32-bit words (lines, words), as numbers: code c has the bits from c * bits on."""
    if 8 % bits == 0:
        octets = np.ascontiguousarray(words).view(np.uint8)
        each = [octets >> np.uint8(at) & np.uint8(2**bits - 1) for at in range(0, 8, bits)]
        return np.stack(each, axis=-1).reshape(len(words), -1)[:, :count].astype(np.float32)
    wide = np.concatenate([words.astype(np.uint64), np.zeros((len(words), 1), np.uint64)], axis=1)
    at = np.arange(count) * bits
    pairs = wide[:, at // 32] | (wide[:, at // 32 + 1] << np.uint64(32))
    codes: npt.NDArray[np.uint64] = (pairs >> (at % 32).astype(np.uint64)) & np.uint64(2**bits - 1)
    return codes.astype(np.float32)


def scaled(codes: Floats, zeros: Floats, scales: Numbers, place: npt.NDArray[np.int64]) -> Floats:
    """Scale * (code - zero): columns of `codes` (rows, cols) have the parameters (rows, groups) at their `place`."""
    # Whole numbers below 2^9 are exact in float32; only the product rounds.
    codes -= np.take(zeros, place, axis=1)
    codes *= np.take(np.ascontiguousarray(scales, np.float32), place, axis=1)
    return codes


def _gptq(folder: Directory, module: str) -> Reading | None:
    if not folder.has(f"{module}.qweight"):
        return None
    bits = int(folder.stated["bits"])
    words, scales, place = (folder.tensor(f"{module}.{n}") for n in ("qweight", "scales", "g_idx"))
    cols, rows = len(place), scales.shape[1]
    zeros = stream(folder.tensor(f"{module}.qzeros"), bits, rows)
    if folder.stated.get("checkpoint_format", "gptq") == "gptq":
        zeros = (zeros + 1) % 2**bits
    place = place.astype(np.int64)

    def numbers(start: int, stop: int) -> Floats:
        codes = stream(np.ascontiguousarray(words[:, start:stop].T), bits, cols)
        return scaled(codes, zeros[:, start:stop].T, scales[:, start:stop].T, place)

    return Reading((rows, cols), folder.part(module, "qweight", "qzeros", "scales", "g_idx"), numbers)


def _awq(folder: Directory, module: str) -> Reading | None:
    if not folder.has(f"{module}.qweight"):
        return None
    words, zeros, scales = (folder.tensor(f"{module}.{n}") for n in ("qweight", "qzeros", "scales"))
    cols, rows = len(words), scales.shape[1]
    place = np.arange(cols) * len(scales) // cols

    def codes(lines: Numbers, row: int) -> Numbers:
        # Even rows of eight come first in a word, then the odd ones.
        shift = 4 * (row % 8 // 2 + 4 * (row % 2))
        return (lines[:, row // 8] >> np.uint32(shift) & np.uint32(15)).astype(np.int64)

    def numbers(start: int, stop: int) -> Floats:
        found = np.empty((stop - start, cols), np.float32)
        for row in range(start, stop):
            steps = codes(words, row) - codes(zeros, row)[place]
            found[row - start] = scales[place, row].astype(np.float32) * steps.astype(np.float32)
        return found

    return Reading((rows, cols), folder.part(module, "qweight", "qzeros", "scales"), numbers)


def _group(folder: Directory, module: str) -> Mapping[str, Any]:
    """The config group of a module of compressed-tensors."""
    groups = list(folder.stated["config_groups"].values())
    named = [group for group in groups if module in group["targets"]]
    found: Mapping[str, Any] = (named or [group for group in groups if "Linear" in group["targets"]])[0]
    return found


def _compressed(folder: Directory, module: str) -> Reading | None:
    if not folder.has(f"{module}.weight_scale"):
        return None
    group = _group(folder, module)
    weights, inputs = group["weights"], group["input_activations"]
    activation = {None: None, "int": "int8_token", "float": "fp8_token"}[inputs and inputs["type"]]
    scale = folder.tensor(f"{module}.weight_scale")
    small = {"mxfp4-pack-quantized": _mxfp4, "nvfp4-pack-quantized": _nvfp4}
    layout = {"pack-quantized": _packed, **small}.get(group["format"], _plain_codes)
    shape, codes = layout(folder, module, weights, scale)
    endings = ("weight", "weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_global_scale")
    return Reading(shape, folder.part(module, *endings), codes, activation)


def _packed(
    folder: Directory, module: str, stated: Mapping[str, Any], scale: Numbers
) -> tuple[tuple[int, ...], Callable[[int, int], Floats]]:
    rows, cols = (int(n) for n in folder.tensor(f"{module}.weight_shape"))
    words, bits, half = folder.tensor(f"{module}.weight_packed"), int(stated["num_bits"]), 2 ** (stated["num_bits"] - 1)
    place = np.arange(cols) // (stated["group_size"] if stated["strategy"] == "group" else cols)
    zeros = np.full(scale.shape, half, np.float32)
    if not stated["symmetric"]:
        zeros = stream(np.ascontiguousarray(folder.tensor(f"{module}.weight_zero_point").T), bits, rows).T

    def numbers(start: int, stop: int) -> Floats:
        return scaled(stream(words[start:stop], bits, cols), zeros[start:stop], scale[start:stop], place)

    return (rows, cols), numbers


def _plain_codes(
    folder: Directory, module: str, stated: Mapping[str, Any], scale: Numbers
) -> tuple[tuple[int, ...], Callable[[int, int], Floats]]:
    codes = folder.tensor(f"{module}.weight")
    meaning = small_float(4, 3) if stated["type"] == "float" else None
    return codes.shape, _scaled(codes, meaning, scale, stated["strategy"])


def _scaled(codes: Numbers, meaning: Floats | None, scale: Numbers, strategy: str) -> Callable[[int, int], Floats]:
    """Codes, or the numbers they stand for, times a scale per channel, per tensor or per tile of 128 x 128."""

    def numbers(start: int, stop: int) -> Floats:
        steps = codes[start:stop].astype(np.float32) if meaning is None else meaning[codes[start:stop]]
        if strategy == "block":
            tiles = scale[np.arange(start, stop) // 128][:, np.arange(codes.shape[1]) // 128]
            return steps * tiles.astype(np.float32)
        lines = scale.reshape(1, 1) if strategy == "tensor" else scale[start:stop]
        return steps * lines.astype(np.float32)

    return numbers


def _mxfp4(
    folder: Directory, module: str, stated: Mapping[str, Any], scale: Numbers
) -> tuple[tuple[int, ...], Callable[[int, int], Floats]]:
    def powers(scale: Numbers) -> Floats:
        return np.ldexp(np.float32(1), scale.astype(np.int32) - 127)

    return _fours(folder.tensor(f"{module}.weight_packed"), scale, powers)


def _nvfp4(
    folder: Directory, module: str, stated: Mapping[str, Any], scale: Numbers
) -> tuple[tuple[int, ...], Callable[[int, int], Floats]]:
    whole = folder.tensor(f"{module}.weight_global_scale").reshape(())

    def quotients(scale: Numbers) -> Floats:
        return np.asarray(small_float(4, 3)[scale] / whole, np.float32)

    return _fours(folder.tensor(f"{module}.weight_packed"), scale, quotients)


def _fours(
    pairs: Numbers, scale: Numbers, meaning: Callable[[Numbers], Floats]
) -> tuple[tuple[int, ...], Callable[[int, int], Floats]]:
    """Numbers of four bits, the first one of a byte below, times what the scales of their groups mean."""
    cols, table = 2 * pairs.shape[1], small_float(2, 1)

    def numbers(start: int, stop: int) -> Floats:
        found = np.empty((stop - start, cols), np.float32)
        found[:, ::2], found[:, 1::2] = table[pairs[start:stop] & 15], table[pairs[start:stop] >> 4]
        found *= np.repeat(meaning(scale[start:stop]), cols // scale.shape[1], axis=1)
        return found

    return (len(pairs), cols), numbers


def _bitsandbytes_rows(folder: Directory, module: str) -> Reading | None:
    if not folder.has(f"{module}.SCB"):
        return None
    codes, furthest = folder.tensor(f"{module}.weight"), folder.tensor(f"{module}.SCB")
    if folder.has(f"{module}.weight_format") and folder.tensor(f"{module}.weight_format").any():
        raise VerificationError(f"the codes of {module} are said to lie in another order; the output is not kept.")

    def numbers(start: int, stop: int) -> Floats:
        found: Floats = codes[start:stop].astype(np.float32) * furthest[start:stop, None]
        found *= np.float32(1 / 127)
        return found

    return Reading(codes.shape, folder.part(module, "weight", "SCB", "weight_format"), numbers)


def _bitsandbytes(folder: Directory, module: str) -> Reading | None:
    if folder.stated.get("load_in_8bit"):
        return _bitsandbytes_rows(folder, module)
    name = f"{module}.weight"
    states = [n for n in folder.weights.names() if n.startswith(f"{name}.quant_state.")]
    if not states:
        return None
    state = json.loads(folder.tensor(states[0]).tobytes())
    (rows, cols), size = state["shape"], state["blocksize"]
    pairs, table = folder.tensor(name).ravel(), folder.tensor(f"{name}.quant_map")
    scales = folder.tensor(f"{name}.absmax")
    if not np.array_equal(table, codebook({"nf4": "nf4", "fp4": "fp4_bnb"}[state["quant_type"]])):
        raise VerificationError(f"tensor {name} has another table than {state['quant_type']}'s; it is not kept.")
    if "nested_offset" in state:
        nested = np.repeat(folder.tensor(f"{name}.nested_absmax"), state["nested_blocksize"])[: scales.size]
        inner = dynamic_map()[scales] * nested
        scales = inner + np.float32(state["nested_offset"])

    def numbers(start: int, stop: int) -> Floats:
        both = pairs[start * cols // 2 : stop * cols // 2]
        codes = np.stack([both >> 4, both & 15], axis=1).ravel()
        place = np.arange(start * cols, stop * cols) // size
        found: Floats = (scales[place] * table[codes]).reshape(stop - start, cols)
        return found

    endings = ("weight", "weight.absmax", "weight.quant_map", "weight.nested_absmax", "weight.nested_quant_map")
    return Reading((rows, cols), folder.part(module, *endings) | {states[0]}, numbers)


def _fp8(folder: Directory, module: str) -> Reading | None:
    if not folder.has(f"{module}.weight_scale_inv"):
        return None
    codes, scale = folder.tensor(f"{module}.weight"), folder.tensor(f"{module}.weight_scale_inv")
    numbers = _scaled(codes, small_float(4, 3), scale, "block")
    return Reading(codes.shape, folder.part(module, "weight", "weight_scale_inv"), numbers)


def _mlx(folder: Directory, module: str) -> Reading | None:
    if not folder.has(f"{module}.scales"):
        return None
    own = folder.stated.get(module)
    facts = own if isinstance(own, dict) else folder.stated
    bits, size, mode = int(facts["bits"]), int(facts["group_size"]), facts.get("mode", "affine")
    words, scale = (folder.tensor(f"{module}.{n}") for n in ("weight", "scales"))
    cols = scale.shape[1] * size
    place = np.arange(cols) // size
    names = folder.part(module, "weight", "scales", "biases")
    if mode == "affine":
        bias = folder.tensor(f"{module}.biases")

        def numbers(start: int, stop: int) -> Floats:
            codes = stream(words[start:stop], bits, cols)
            codes *= np.take(np.ascontiguousarray(scale[start:stop], np.float32), place, axis=1)
            codes += np.take(np.ascontiguousarray(bias[start:stop], np.float32), place, axis=1)
            return codes

        return Reading((len(words), cols), names, numbers)

    table = {"mxfp4": small_float(2, 1), "mxfp8": small_float(4, 3)}[mode]

    def powers(start: int, stop: int) -> Floats:
        codes = stream(words[start:stop], bits, cols).astype(np.int64)
        return np.ldexp(table[codes], scale[start:stop].astype(np.int32)[:, place] - 127)

    return Reading((len(words), cols), names, powers)


_HQQ = (
    *("W_q", "scale", "zero", "nbits", "group_size", "shape", "axis", "packing", "unpack_view_dtype", "view_as_float"),
    *("quant_scale", "quant_zero", "compute_dtype", "offload_meta", "encoded_state_dict", "stores_quant_config"),
    *("channel_wise", "optimize", "round_zero"),
)


def _hqq(folder: Directory, module: str) -> Reading | None:
    if not folder.has(f"{module}.W_q"):
        return None
    words, scale, zero = (folder.tensor(f"{module}.{n}") for n in ("W_q", "scale", "zero"))
    rows, cols = (int(n) for n in folder.tensor(f"{module}.shape"))
    bits, size = (int(folder.tensor(f"{module}.{n}").reshape(1)[0]) for n in ("nbits", "group_size"))
    whole_bytes = 1 if bits in (5, 6) else 8 // bits
    parts = 10 if bits == 3 else whole_bytes
    each = cols // size

    def numbers(start: int, stop: int) -> Floats:
        line = np.arange(start * each, stop * each)
        shift = (bits * (parts - 1 - line // len(words))).astype(words.dtype)
        codes = (words[line % len(words)] >> shift[:, None] & words.dtype.type(2**bits - 1)).astype(np.float32)
        found: Floats = (codes - zero[line].astype(np.float32)) * scale[line].astype(np.float32)
        return found.reshape(stop - start, cols)

    return Reading((rows, cols), folder.part(module, *_HQQ), numbers)


def _stacked_mxfp4(folder: Directory, module: str) -> Reading | None:
    """Stacks of experts, which are named as they are and not by a module's weight."""
    if not folder.has(f"{module}_blocks"):
        return None
    blocks, scales = folder.tensor(f"{module}_blocks"), folder.tensor(f"{module}_scales")
    experts, rows, groups, half = blocks.shape
    blocks, scales = blocks.reshape(experts * rows, groups, half), scales.reshape(experts * rows, groups)
    table = small_float(2, 1)

    def numbers(start: int, stop: int) -> Floats:
        pairs = blocks[start:stop]
        codes = np.stack([pairs % 16, pairs // 16], axis=-1).reshape(stop - start, groups, 2 * half)
        found: Floats = np.ldexp(table[codes], scales[start:stop, :, None].astype(np.int32) - 127)
        return found.reshape(stop - start, groups * 2 * half)

    parts = frozenset((f"{module}_blocks", f"{module}_scales"))
    return Reading((experts, rows, groups * 2 * half), parts, numbers)


def _torchao(folder: Directory, module: str) -> Reading | None:
    stated = json.loads(folder.weights.metadata.get(f"{module}.weight", "{}"))
    if "_tensor_data_names" not in stated:
        return None
    names = {part: f"{module}._weight_{part}" for part in stated["_tensor_data_names"]}
    parts = {part: folder.tensor(name) for part, name in names.items()}
    shape, activation, numbers = read_torchao(stated, parts, folder.weights.read(names["qdata"]).format)
    return Reading(shape, frozenset(names.values()), numbers, activation)


_READINGS: Mapping[str, Callable[[Directory, str], Reading | None]] = {
    "gptq": _gptq,
    "awq": _awq,
    "compressed-tensors": _compressed,
    "bitsandbytes": _bitsandbytes,
    "fp8": _fp8,
    "mlx": _mlx,
    "hqq": _hqq,
    "mxfp4": _stacked_mxfp4,
    "torchao": _torchao,
}
