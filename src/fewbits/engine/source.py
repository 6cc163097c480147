"""A model as the engine wants it: its configuration, and its tensors under the names that GGUF gives them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fewbits.checkpoints.base import Reader, StoredTensor
from fewbits.checkpoints.gguf_parts import open_gguf
from fewbits.engine.checking import network_of, require_tensors
from fewbits.engine.directory import DirectoryReader
from fewbits.evaluation.gguf_config import read_config
from fewbits.kernels import decode_rows
from fewbits.models import Architecture, for_gguf
from fewbits.models.network import NetworkFact
from fewbits.models.widths import widths_of


@dataclass(frozen=True)
class Source:
    """An opened model whose header was checked."""

    path: Path
    architecture: Architecture
    network: NetworkFact
    values: dict[str, Any]
    """Configuration values by transformers' names."""
    neighbours: bool
    """Whether RoPE turns neighbouring columns of a head, as files for llama.cpp's Llama have them; else its halves."""
    reader: Reader

    def has(self, name: str) -> bool:
        """Whether the model has the tensor `name`."""
        return name in self._names

    def read(self, name: str) -> StoredTensor:
        """The tensor `name`; raises CheckpointError when there is none."""
        return self.reader.read(name)

    def order(self, name: str) -> tuple[int, ...]:
        """Which column of its inputs each column of the matrix `name` is; nothing where each is its own."""
        return self.reader.order(name) if isinstance(self.reader, DirectoryReader) else ()

    def numbers(self, name: str) -> npt.NDArray[np.float32]:
        """The numbers of the tensor `name`, decoded, in one line."""
        stored = self.read(name)
        return decode_rows(stored.format, stored.slab(0, stored.rows), stored.cols).ravel()

    @property
    def _names(self) -> frozenset[str]:
        return frozenset(self.reader.names())


def open_model(path: Path, *, exact: bool = False) -> Source:
    """The model in the GGUF file or the directory `path`; `exact` asks for matrices that hold every number.

    Raises CheckpointError, EvaluationError or EngineError where it cannot be run.
    """
    reader = DirectoryReader(path, exact=exact) if path.is_dir() else open_gguf(path)
    config = read_config(reader)
    metadata = reader.metadata
    name = str(metadata["general.architecture"].value)
    architecture = for_gguf(name, experts=bool(config.values.get("num_local_experts")), metadata=metadata)
    network = network_of(path, architecture)
    facts = {name: fact for name, (_, fact) in config.facts.items()}
    turned = {name for name, fact in facts.items() if fact.order == "rope"}
    if isinstance(reader, DirectoryReader):
        reader.leave_rows(turned)
        turned = set()
    require_tensors(path, reader, facts, widths_of(config.values, config.sums))
    return Source(path, architecture, network, config.values, bool(turned), reader)
