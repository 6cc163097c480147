"""What one generated token reads of a model's weights, from the headers of its file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewbits.inspection import InspectedTensor, inspect, kind_of

_EMBEDDINGS = ("token_embd", "embed_tokens", "wte")
_POSITIONS = ("position_embd", "wpe")
_OUTPUTS = ("output", "lm_head")
_EXPERTS = ("_exps", ".experts.")
_EXPERTS_USED = ("expert_used_count", "num_experts_per_tok", "experts_per_token")
_EXPERTS_ALL = ("expert_count", "num_local_experts", "num_experts")


@dataclass(frozen=True)
class Weights:
    """Bytes of the files, and how many of them a token reads."""

    file_bytes: int
    bytes_per_token: int


def weights_read(path: str | Path) -> Weights:
    """Sizes of the model at `path`: every matrix is read whole, but of a table of embeddings one row, and of experts
    those that are chosen.

    A table that is the output matrix as well is read whole. Raises CheckpointError where `path` is no model.
    """
    found = inspect(path)
    tied = not any(kind_of(tensor.name).split(".")[-1] in _OUTPUTS for tensor in found.tensors)
    share = _share_of_experts(found.metadata)
    return Weights(found.file_bytes, round(sum(_read_of(tensor, tied, share) for tensor in found.tensors)))


def _read_of(tensor: InspectedTensor, tied: bool, share: float) -> float:
    kind = kind_of(tensor.name)
    if kind.endswith(_POSITIONS) or (kind.endswith(_EMBEDDINGS) and not tied):
        return tensor.bytes / tensor.shape[0]
    return tensor.bytes * share if any(part in tensor.name for part in _EXPERTS) else tensor.bytes


def _share_of_experts(metadata: Mapping[str, Any]) -> float:
    """The share of its experts that a model asks for one token: 1 where it has none."""
    used, known = _first(metadata, _EXPERTS_USED), _first(metadata, _EXPERTS_ALL)
    return used / known if used and known else 1.0


def _first(metadata: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    """The first number whose key is one of `names`, in GGUF behind the architecture's."""
    found = (value for name in names for key, value in metadata.items() if key.split(".")[-1] == name)
    return next((value for value in found if isinstance(value, int)), None)
