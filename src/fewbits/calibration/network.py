"""A causal language model of transformers of which one layer at a time has weights.

The rest of the network stays on the meta device. What surrounds the layers (embedding, masks, positions, the last norm,
the head) is transformers' own code: it runs with stand-ins in the layers' places, so nothing of an architecture is
written here a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from threading import local
from typing import TYPE_CHECKING, Any

from fewbits.calibration.experts import list_experts
from fewbits.calibration.precision import FLOAT32, computing
from fewbits.calibration.transposed import straighten
from fewbits.errors import CalibrationError
from fewbits.lazy import LazyModule

if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

Parameters = Callable[[str], "torch.Tensor"]
"""The numbers of the parameter of a name, in its own shape."""


class ReachedError(Exception):
    """Thrown where everything that is watched was seen, to end a run there; never seen outside."""


@dataclass(frozen=True)
class Call:
    """What a layer is called with beside its states; the same for every batch of one shape."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


class LayeredNetwork:
    """`network`, all of it on the meta device, whose parameters come from `parameters` when they are needed."""

    def __init__(self, network: Any, parameters: Parameters, precision: str = FLOAT32) -> None:
        list_experts(network)
        straighten(network)
        self.network = network
        self.precision = precision
        """In which layers and head are computed."""
        self._parameters = parameters
        self.prefix, self._layers = _layers(network)
        self._real = list(self._layers)

    def __len__(self) -> int:
        return len(self._real)

    def layer_name(self, index: int) -> str:
        """The name of layer `index` among the network's modules."""
        return f"{self.prefix}.{index}"

    def shape(self, index: int) -> Any:
        """Layer `index` without its weights, to look at."""
        return self._real[index]

    @contextmanager
    def layer(self, index: int) -> Iterator[Any]:
        """Layer `index` with its weights in memory until the end of the block."""
        with self._filled(self._real[index], self.layer_name(index)) as module:
            yield module

    @contextmanager
    def embedding(self) -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
        """A function from ids (windows, length) to the states (windows, length, hidden) that the first layer gets."""
        with self._before() as (base, stand_ins):

            def embed(ids: torch.Tensor) -> torch.Tensor:
                base(input_ids=ids, use_cache=False)
                return _required(stand_ins[0].states)

            yield embed

    def calls(self, ids: torch.Tensor) -> list[Call]:
        """What each layer is called with for windows of the shape of `ids`."""
        with self._before() as (base, stand_ins):
            base(input_ids=ids, use_cache=False)
            _required(stand_ins[-1].states)
            return [s.call for s in stand_ins]

    @contextmanager
    def _before(self) -> Iterator[tuple[Any, list[Any]]]:
        """The network less its head, with all weights but the layers', and the stand-ins in their places."""
        stand_ins = [_stand_in_class()() for _ in self._real]
        base = self.network.get_decoder()
        names = [name for name, _ in base.named_parameters() if not (f".{name}").startswith(self._inside(base))]
        with self._replaced(stand_ins), self._filled_parameters(base, self._name_of(base), names):
            yield base, stand_ins

    def _inside(self, base: Any) -> str:
        """How names of the layers' parameters begin, seen from `base`."""
        own = self._name_of(base)
        return f".{self.prefix.removeprefix(own + '.')}." if own else f".{self.prefix}."

    def _name_of(self, module: Any) -> str:
        found: str = next(name for name, candidate in self.network.named_modules() if candidate is module)
        return found

    @contextmanager
    def head(self) -> Iterator[Head]:
        """What comes after the last layer, with its weights in memory until the end of the block."""
        stand_ins = [_stand_in_class()() for _ in self._real]
        names = [
            name
            for name, _ in self.network.named_parameters(remove_duplicate=False)
            if not name.startswith(f"{self.prefix}.") and not self._embeds(name)
        ]
        with self._replaced(stand_ins), self._filled_parameters(self.network, "", names):
            yield Head(self.network, stand_ins[-1], self.precision)

    def _embeds(self, name: str) -> bool:
        """Whether the parameter `name` is the embedding's, which nothing behind the layers reads unless it is tied."""
        return name == f"{self._name_of(self.network.get_input_embeddings())}.weight"

    @contextmanager
    def _replaced(self, stand_ins: list[Any]) -> Iterator[None]:
        for index, stand_in in enumerate(stand_ins):
            self._layers[index] = stand_in
        try:
            yield
        finally:
            for index, real in enumerate(self._real):
                self._layers[index] = real

    @contextmanager
    def _filled(self, module: Any, name: str) -> Iterator[Any]:
        own = [parameter for parameter, _ in module.named_parameters()]
        with self._filled_parameters(module, name, own):
            yield module

    @contextmanager
    def _filled_parameters(self, module: Any, prefix: str, names: list[str]) -> Iterator[None]:
        """Give the parameters `names` of `module` their numbers, and take them away again."""
        meta = {name: module.get_parameter(name) for name in names}
        try:
            for name in names:
                _assign(module, name, self._parameters(f"{prefix}.{name}" if prefix else name))
            yield
        finally:
            for name, parameter in meta.items():
                _assign(module, name, parameter)


class Head:
    """What comes after the last layer."""

    def __init__(self, network: Any, last: Any, precision: str) -> None:
        self._network = network
        self._last = last
        self._precision = precision
        self.module = network.get_output_embeddings()
        """The output matrix."""
        self.name = next(name for name, module in network.named_modules() if module is self.module)

    @contextmanager
    def inputs_only(self) -> Iterator[None]:
        """Until the end of the block, `reach` stops where the output matrix would be multiplied with."""

        def stop(*_: Any) -> None:
            raise ReachedError

        handle = self.module.register_forward_pre_hook(stop)
        try:
            yield
        finally:
            handle.remove()

    def reach(self, states: torch.Tensor) -> None:
        """Let `states` come to the output matrix, for whoever watches its inputs."""
        with suppress(ReachedError):
            self.logits(states)

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Logits (windows, length, vocabulary) for what the last layer gave, `states` (windows, length, hidden)."""
        # Some architectures scale what they embed: what counts is what the last layer's place answers, in this thread.
        self._last.answer.states = states
        with computing(self._precision):
            logits: torch.Tensor = self._network(inputs_embeds=states, use_cache=False).logits
        return logits


@cache
def _stand_in_class() -> Any:
    """Made when it is first needed: a class that derives from torch's would load torch with this module."""

    class StandIn(torch.nn.Module):
        """In a layer's place: hands states on, and keeps what it was called with."""

        def __init__(self) -> None:
            super().__init__()
            self.states: torch.Tensor | None = None
            self.answer = local()
            self.call = Call((), {})

        def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            self.states, self.call = hidden_states, Call(args, kwargs)
            answer: torch.Tensor = getattr(self.answer, "states", hidden_states).as_subclass(_answer_class())
            return answer

    return StandIn


@cache
def _answer_class() -> Any:
    """Made when it is first needed, as the class of stand-ins."""

    class Answer(torch.Tensor):
        """States which are also the first of a tuple: layers of some architectures answer with one."""

        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            """What is computed from it is a plain tensor."""
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))

        def __getitem__(self, index: Any) -> torch.Tensor:
            states = self.as_subclass(torch.Tensor)
            return states if type(index) is int and index == 0 else states[index]

    return Answer


def _required(states: torch.Tensor | None) -> torch.Tensor:
    if states is None:
        raise CalibrationError("this architecture calls its layers in a way that cannot be followed.")
    return states


def _layers(network: Any) -> tuple[str, Any]:
    """The list of layers: as many modules of one kind as the configuration counts layers."""
    count = network.config.get_text_config().num_hidden_layers
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return name, module
    raise CalibrationError(
        f"no list of {count} layers was found in {type(network).__name__}, so it cannot be walked layer by layer; take "
        "--method nearest."
    )


def _assign(module: Any, name: str, numbers: torch.Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    target = module.get_submodule(owner)
    expected = target.get_parameter(leaf).shape
    if numbers.shape != expected:
        raise CalibrationError(f"{name} has shape {tuple(numbers.shape)} and the network wants {tuple(expected)}.")
    setattr(target, leaf, torch.nn.Parameter(numbers, requires_grad=False))
