"""The parameters of a network by their names in transformers, out of a source whose rows may lie in another order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fewbits import kernels
from fewbits.calibration.network import LayeredNetwork
from fewbits.calibration.precision import precision_for
from fewbits.checkpoints.base import Conversion, Order, Placement
from fewbits.checkpoints.configuration import read_configuration
from fewbits.checkpoints.gguf import GGUFReader
from fewbits.checkpoints.rope import interleaved
from fewbits.errors import CalibrationError
from fewbits.evaluation.gguf_config import read_config
from fewbits.evaluation.gguf_model import GGUFModel
from fewbits.evaluation.huggingface_model import HuggingFaceModel
from fewbits.evaluation.model_files import Vocabulary
from fewbits.models import Architecture, StreamFact, for_gguf
from fewbits.workers import row_slabs

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Parameter:
    """One parameter: `placement` gives its rows in the target's order, of which row `order[r]` is the network's r."""

    placement: Placement
    order: Order | None

    @property
    def target(self) -> str:
        """The tensor's name in the target."""
        return self.placement.name

    def rows(self) -> torch.Tensor:
        """The matrix (rows, cols) float32 as the target orders its rows."""
        import torch

        source = self.placement.source
        w = torch.empty(source.rows, source.cols)
        for start, stop in row_slabs(source.rows, source.row_bytes):
            slab = self.placement.slab(start, stop)
            w[start:stop] = torch.from_numpy(kernels.decode_rows(source.format, slab, source.cols))
        return w

    def in_network(self, w: torch.Tensor) -> torch.Tensor:
        """Rows `w` in the target's order as the network has them, in the parameter's own shape."""
        import torch

        ordered = w if self.order is None else w[torch.from_numpy(self.order)]
        return ordered.reshape(self.placement.source.shape)

    def in_target(self, rows: torch.Tensor) -> torch.Tensor:
        """One number per row of the network (rows,) as the target orders them."""
        return rows if self.order is None else rows[np.argsort(self.order)]


class Parameters:
    """Name in transformers -> parameter. Calling it with a name reads the numbers."""

    def __init__(self, named: Mapping[str, Parameter], stream: StreamFact) -> None:
        self.named = named
        self._tied = {stream.head: stream.embedding}

    def __call__(self, name: str) -> torch.Tensor:
        """The numbers of the parameter `name`, in its own shape."""
        parameter = self.find(name)
        return parameter.in_network(parameter.rows())

    def find(self, name: str) -> Parameter:
        """The parameter `name`; a head without a matrix of its own has the embedding's."""
        found = self.named.get(name) or self.named.get(self._tied.get(name, ""))
        if found is None:
            raise CalibrationError(
                f"the network wants {name}, which the source does not have; it cannot be run, so take --method nearest."
            )
        return found


@dataclass(frozen=True)
class SourceNetwork:
    """A source that can be run: the network, one layer of which has weights at a time, weights by name, tokens."""

    network: LayeredNetwork
    parameters: Parameters
    vocabulary: Vocabulary
    context_limit: int
    architecture: Architecture
    config: Mapping[str, Any]
    """What the architecture's facts ask for."""


def open_network(conversion: Conversion) -> SourceNetwork:
    """What the walk needs of the source of `conversion`; raises EvaluationError where transformers cannot run it."""
    first = conversion.files[0]
    precision = precision_for(_most_common_numbers(conversion))
    if first.name == "config.json":
        directory = HuggingFaceModel.open(first.parent)
        named = {p.source.name: Parameter(p, _inverse(p.order)) for p in conversion.placements if not p.computed}
        config = read_configuration(first.parent)
        parameters = Parameters(named, config.architecture.stream)
        return SourceNetwork(
            LayeredNetwork(directory.skeleton(), parameters, precision),
            parameters,
            directory.vocabulary(),
            directory.context_limit,
            config.architecture,
            config.values,
        )
    model = GGUFModel.open(first)
    architecture = for_gguf(conversion.architecture)
    parameters = Parameters(_of_gguf(conversion, first), architecture.stream)
    return SourceNetwork(
        LayeredNetwork(model.skeleton(), parameters, precision),
        parameters,
        model.vocabulary(),
        model.context_limit,
        architecture,
        model.config.values,
    )


def _most_common_numbers(conversion: Conversion) -> str:
    """The format of most of the weights."""
    weights: Counter[str] = Counter()
    for placement in conversion.placements:
        weights[placement.source.format] += placement.source.rows * placement.source.cols
    return weights.most_common(1)[0][0]


def _of_gguf(conversion: Conversion, path: Path) -> dict[str, Parameter]:
    """A GGUF source keeps its rows' order in the target; the network wants the halves of heads apart."""
    config = read_config(GGUFReader(path))
    named = {}
    for placement in conversion.placements:
        if placement.name not in config.facts:
            continue  # RoPE factors are no parameter
        name, fact = config.facts[placement.name]
        heads = config.values["num_attention_heads" if fact.shape[0] == "query" else "num_key_value_heads"]
        order = interleaved(placement.source.rows, heads) if fact.order == "rope" else None
        named[name] = Parameter(placement, _inverse(order))
    return named


def _inverse(order: Order | None) -> Order | None:
    return None if order is None else np.argsort(order)
