"""The parameters of a network by their names in transformers, out of a source whose rows may lie in another order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fewbits import kernels
from fewbits.calibration.network import LayeredNetwork
from fewbits.calibration.precision import precision_for
from fewbits.checkpoints.base import Bytes, Conversion, Order, Placement
from fewbits.checkpoints.configuration import Configuration, read_configuration
from fewbits.checkpoints.derived import PartTensor, ReshapedTensor, ShiftedTensor
from fewbits.checkpoints.gguf_parts import open_gguf
from fewbits.checkpoints.rope import interleaved, parted
from fewbits.checkpoints.row_tensors import RowTensor
from fewbits.errors import CalibrationError
from fewbits.evaluation.gguf_config import read_config
from fewbits.evaluation.gguf_model import GGUFModel
from fewbits.evaluation.huggingface_model import HuggingFaceModel
from fewbits.evaluation.model_files import Vocabulary
from fewbits.formats import Fields
from fewbits.models import EXPERT, Architecture, StreamFact, TensorFact, View, for_gguf, parts_of
from fewbits.models.widths import widths_of
from fewbits.workers import row_slabs

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Parameter:
    """One parameter: `placement` gives its rows in the target's order, of which row `order[r]` is the network's r."""

    placement: Placement
    order: Order | None
    part: range | None = None
    """Its rows in the target, where a stack of experts or a fused matrix has more."""
    add: float = 0.0
    """What the target's numbers are more than the network's."""
    shape: tuple[int, ...] | None = None
    """The network's own shape, where it is another one."""

    @property
    def target(self) -> str:
        """The tensor's name in the target."""
        return self.placement.name

    def rows(self) -> torch.Tensor:
        """The matrix (rows, cols) float32 as the target orders its rows."""
        import torch

        source, first = self.placement.source, self.part.start if self.part else 0
        w = torch.empty(self.count, source.cols)
        for start, stop in row_slabs(self.count, source.row_bytes):
            slab = self.placement.slab(first + start, first + stop)
            w[start:stop] = torch.from_numpy(kernels.decode_rows(source.format, slab, source.cols))
        return w

    def in_network(self, w: torch.Tensor) -> torch.Tensor:
        """Rows `w` in the target's order as the network has them, in the parameter's own shape."""
        import torch

        own = w - self.add if self.add else w
        ordered = own if self.order is None else own[torch.from_numpy(self.order)]
        own_shape = self.placement.source.shape
        return ordered.reshape(self.shape or (own_shape if self.part is None else own_shape[1:]))

    def stored(self, fields: Fields) -> Fields:
        """Its part of the target's stored fields."""
        part = self.part
        return fields if part is None else {name: field[part.start : part.stop] for name, field in fields.items()}

    @property
    def count(self) -> int:
        """Rows."""
        return len(self.part) if self.part else self.placement.source.rows

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

    def over(self, placements: Mapping[str, Placement]) -> SourceNetwork:
        """The same network with the numbers of other placements, those of the same targets."""
        named = {name: replace(p, placement=placements[p.target]) for name, p in self.parameters.named.items()}
        parameters = Parameters(named, self.architecture.stream)
        network = LayeredNetwork(self.network.network, parameters, self.network.precision)
        return replace(self, network=network, parameters=parameters)


def open_network(conversion: Conversion) -> SourceNetwork:
    """What the walk needs of the source of `conversion`; raises EvaluationError where transformers cannot run it."""
    first = conversion.files[0]
    precision = precision_for(_most_common_numbers(conversion))
    if first.name == "config.json":
        directory = HuggingFaceModel.open(first.parent)
        config = read_configuration(first.parent)
        named = _of_directory(conversion, config)
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
    experts = bool(model.config.values.get("num_local_experts"))
    architecture = for_gguf(conversion.architecture, experts=experts, metadata=_plain(conversion))
    parameters = Parameters(_of_gguf(conversion, first), architecture.stream)
    return SourceNetwork(
        LayeredNetwork(model.skeleton(), parameters, precision),
        parameters,
        model.vocabulary(),
        model.context_limit,
        architecture,
        model.config.values,
    )


def _of_directory(conversion: Conversion, config: Configuration) -> dict[str, Parameter]:
    """Names in a checkpoint are those of the network but for experts, which either side may list or stack."""
    facts, architecture = config.values, config.architecture
    sources, parameters = (each(facts, config.layers) for each in (architecture.facts, architecture.parameters))
    names = {sources[target][0]: parameters[target][0] for target in sources}
    names |= {source.removeprefix(architecture.prefix): own for source, own in names.items()}
    for source, parameter in [pair for pair in names.items() if EXPERT in pair[0]]:
        names |= {source.replace(EXPERT, str(n)): parameter.replace(EXPERT, str(n)) for n in range(config.experts)}
    named: dict[str, Parameter] = {}
    for placement in conversion.placements:
        name = placement.source.name
        if isinstance(placement.source, PartTensor):
            named |= _part(parameters[placement.name][0], placement)
        elif not placement.computed:
            whole = replace(placement, source=placement.whole) if placement.whole else placement
            named |= _each_expert(names.get(name, name), _derived(whole))
    return named


def _part(name: str, placement: Placement) -> dict[str, Parameter]:
    """The experts that a placement took out of a stack; else the whole matrix, which no tensor of the target is."""
    whole = Placement("", placement.source.in_file)
    return _each_expert(name, Parameter(placement, None)) if EXPERT in name else {name: Parameter(whole, None)}


def _derived(placement: Placement) -> Parameter:
    """The parameter whose numbers the placement was worked out of."""
    source = placement.source
    add = source.add if isinstance(source, ShiftedTensor) else 0.0
    shape = source.in_file.shape if isinstance(source, ReshapedTensor) else None
    return Parameter(placement, _inverse(placement.order), add=add, shape=shape)


def _each_expert(name: str, parameter: Parameter) -> dict[str, Parameter]:
    """The parameter, or one per expert of a stack, or per matrix of those that a checkpoint has as one."""
    fused = parts_of(name)
    if len(fused) > 1:
        rows, cols = parameter.placement.source.shape[0] // len(fused), parameter.placement.source.cols
        ranges = [range(n * rows, (n + 1) * rows) for n in range(len(fused))]
        own = [Parameter(parameter.placement, None, part, shape=(rows, cols)) for part in ranges]
        return dict(zip(fused, own, strict=True))
    if EXPERT not in name:
        return {name: parameter}
    shape = parameter.placement.source.shape
    experts, rows = shape[0], shape[1] if len(shape) > 2 else 1
    parts = [range(n * rows, (n + 1) * rows) for n in range(experts)]
    return {name.replace(EXPERT, str(n)): Parameter(parameter.placement, None, part) for n, part in enumerate(parts)}


def _most_common_numbers(conversion: Conversion) -> str:
    """The format of most of the weights."""
    weights: Counter[str] = Counter()
    for placement in conversion.placements:
        weights[placement.source.format] += placement.source.rows * placement.source.cols
    return weights.most_common(1)[0][0]


def _of_gguf(conversion: Conversion, path: Path) -> dict[str, Parameter]:
    """A GGUF source keeps its rows' order in the target; the network wants the halves of heads apart."""
    config = read_config(open_gguf(path))
    # A tied head may have got numbers of its own on the way.
    experts = bool(config.values.get("num_local_experts"))
    architecture = for_gguf(conversion.architecture, experts=experts, metadata=_plain(conversion))
    facts = {**{fact.gguf: (fact.source, fact) for fact in architecture.tensors if fact.unless}, **config.facts}
    parameters = architecture.parameters(config.values, config.values["num_hidden_layers"])
    widths = widths_of(config.values, architecture.widths)
    parts: dict[str, list[tuple[Placement, View]]] = {}
    named: dict[str, Parameter] = {}
    for placement in conversion.placements:
        if placement.name not in facts:
            continue  # RoPE factors are no parameter
        name, fact = facts[placement.name]
        if fact.view and EXPERT not in fact.parameter:
            parts.setdefault(name, []).append((placement, fact.seen(widths)))
            continue
        name = parameters[placement.name][0] if fact.view else name
        order = _order(fact, placement.source.rows, config.values) if fact.order else None
        shape = fact.in_checkpoint(placement.source.shape) if fact.flat else None
        named |= _each_expert(name, Parameter(placement, _inverse(order), add=fact.add, shape=shape))
    return named | {name: Parameter(_together(name, own), None) for name, own in parts.items()}


def _together(name: str, parts: Sequence[tuple[Placement, View]]) -> Placement:
    """One matrix out of all its parts, which a file has as tensors of their own; no tensor of the target is it."""

    def rows() -> Bytes:
        whole = np.empty(parts[0][1].stored, np.float32)
        for placement, view in parts:
            source = placement.source
            numbers = kernels.decode_rows(source.format, placement.slab(0, source.rows), source.cols)
            view.put(whole, numbers.reshape(view.taken))
        return whole.view(np.uint8)

    return Placement("", RowTensor.of(name, "F32", parts[0][1].stored, rows))


def _plain(conversion: Conversion) -> dict[str, Any]:
    return {key: value.value for key, value in conversion.metadata.items()}


def _order(fact: TensorFact, rows: int, values: Mapping[str, Any]) -> Order:
    """Row of the checkpoint of each row of the file."""
    heads, key_heads = values["num_attention_heads"], values["num_key_value_heads"]
    own = key_heads if fact.shape[0] == "key" else heads
    orders = {"rope": lambda: interleaved(rows, own), "qkv": lambda: parted(rows, heads, key_heads)}
    return orders[fact.order]()


def _inverse(order: Order | None) -> Order | None:
    return None if order is None else np.argsort(order)
