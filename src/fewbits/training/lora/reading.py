"""An adapter's folder as peft writes it, read without peft: its headers, its scales, and the change of each matrix."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fewbits.checkpoints.base import StoredTensor
from fewbits.checkpoints.jsonfile import parse_object
from fewbits.checkpoints.safetensors import SafetensorsReader
from fewbits.errors import TrainingError
from fewbits.loading.pieces import numbers
from fewbits.training.lora.base import Base

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_ENDS = {".lora_A.weight": 0, ".lora_B.weight": 1}
_UNREAD = {
    "use_dora": "DoRA",
    "modules_to_save": "modules that were trained whole",
    "lora_bias": "biases of B",
    "trainable_token_indices": "trained tokens",
    "target_parameters": "adapted parameters",
}
"""Entries of the configuration that change more than W + scale B A, and what they are."""


@dataclass(frozen=True)
class Pair:
    """The adapter of one matrix: W becomes W + scale B A."""

    a: StoredTensor
    """(rank, cols)."""
    b: StoredTensor
    """(rows, rank)."""
    scale: float

    @property
    def rank(self) -> int:
        """Columns of B."""
        return self.a.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """Of the matrix: rows are outputs."""
        return self.b.shape[0], self.a.shape[1]

    def change(self) -> torch.Tensor:
        """The product scale B A, (rows, cols) float32."""
        return (numbers(self.b) @ numbers(self.a)).mul_(self.scale)


@dataclass(frozen=True)
class Adapter:
    """What a folder holds."""

    path: Path
    config: Mapping[str, Any]
    pairs: Mapping[str, Pair]
    """Module of the base -> its adapter."""
    base: Base | None

    @staticmethod
    def open(path: Path) -> Adapter:
        """The adapter in the folder `path`, its headers checked; raises a FewbitsError where it is none."""
        missing = [name for name in (CONFIG, WEIGHTS) if not (path / name).is_file()]
        if missing:
            raise TrainingError(f"{path} is no adapter of peft: it has no {missing[0]}; give the folder of one.")
        config = parse_object((path / CONFIG).read_bytes(), str(path / CONFIG))
        _require_readable(path, config)
        reader = SafetensorsReader(path / WEIGHTS)
        halves: dict[str, list[StoredTensor | None]] = {}
        for name in reader.names():
            module, which = _place_of(path, name)
            halves.setdefault(module, [None, None])[which] = reader.read(name)
        pairs = {module: _pair(path, module, found, config) for module, found in halves.items()}
        if not pairs:
            raise TrainingError(f"{path / WEIGHTS} holds no tensors; the adapter was never trained, or is damaged.")
        return Adapter(path, config, pairs, Base.read(path))

    @property
    def turned(self) -> bool:
        """Whether the network has the adapted matrices with their columns as rows (GPT-2's Conv1D)."""
        return bool(self.config.get("fan_in_fan_out"))

    def require_fitting(self, shapes: Mapping[str, tuple[int, int]]) -> None:
        """Raise TrainingError unless `shapes`, those of the base's matrices, has every one that is adapted."""
        for module, pair in self.pairs.items():
            if shapes.get(module) != pair.shape:
                there = f"is {_sides(shapes[module])}" if module in shapes else "does not exist"
                raise TrainingError(
                    f"{self.path} adapts {module} of {_sides(pair.shape)}, which in this base {there}; take the base "
                    "that it was trained on."
                )


def _sides(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]}"


def _require_readable(path: Path, config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise TrainingError(
            f"{path} is an adapter of the kind {config.get('peft_type')!r}, and only LORA is read here."
        )
    if not isinstance(config.get("r"), int) or not isinstance(config.get("lora_alpha"), int | float):
        raise TrainingError(f"{path / CONFIG} states no rank or no alpha; the adapter's folder is damaged.")
    for key, what in _UNREAD.items():
        if config.get(key):
            raise TrainingError(f"{path} has {what} ({key}), which is more than W + B A; only peft can use it.")
    if config.get("bias", "none") != "none":
        raise TrainingError(f"{path} has trained biases, which are more than W + B A; only peft can use it.")


def _place_of(path: Path, name: str) -> tuple[str, int]:
    """The module that a tensor adapts, and whether it is A or B."""
    end = next((end for end in _ENDS if name.endswith(end)), None)
    if end is None or not name.startswith(_PREFIX):
        raise TrainingError(f"{path / WEIGHTS} holds {name!r}, which is neither A nor B of a linear module.")
    return name.removeprefix(_PREFIX).removesuffix(end), _ENDS[end]


def _pair(path: Path, module: str, found: list[StoredTensor | None], config: Mapping[str, Any]) -> Pair:
    a, b = found
    if a is None or b is None:
        raise TrainingError(f"{path / WEIGHTS} holds only one of A and B of {module}; the adapter's folder is damaged.")
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1] or not a.shape[0]:
        raise TrainingError(
            f"{path / WEIGHTS}: A {list(a.shape)} and B {list(b.shape)} of {module} do not fit each other; the "
            "adapter's folder is damaged."
        )
    alpha = _of_pattern(module, config.get("alpha_pattern") or {}, config["lora_alpha"])
    rank = a.shape[0]
    return Pair(a, b, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _of_pattern(module: str, patterns: Mapping[str, float], otherwise: float) -> float:
    """What the first pattern that ends `module` says, as peft looks them up."""
    found = (value for pattern, value in patterns.items() if re.match(rf"(.*\.)?({pattern})$", module))
    return float(next(found, otherwise))
