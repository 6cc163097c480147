"""A network of transformers without memory behind its parameters; what no file holds is computed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewbits.errors import EvaluationError
from fewbits.evaluation.model_files import first_sentence, quiet_transformers
from fewbits.evaluation.network_kinds import kind_for

if TYPE_CHECKING:
    import torch


def bare_network(path: Path, configured: Callable[[Any], Any]) -> Any:
    """The network of `configured(transformers)`, a causal language model or an encoder, all of it on the meta device.

    Raises EvaluationError, naming `path`, where transformers refuses the configuration.
    """
    import torch

    try:
        with quiet_transformers() as transformers, torch.device("meta"):
            config = configured(transformers)
            kind = kind_for(config)
            network = kind.of(transformers).from_config(config, dtype=torch.float32, **kind.options)
            _count_buffers_in(network)
            return network.eval()  # BERT drops a tenth of its states while it is trained
    except Exception as error:  # transformers raises whatever its checks of a configuration raise
        raise EvaluationError(f"{path}: its metadata describe no model ({first_sentence(error)}).") from error


def _count_buffers_in(network: Any) -> None:
    """Make parameters of the numbers that a checkpoint holds beside them (DeepSeek's correction of scores)."""
    import torch

    held = set(network.state_dict())
    for name, buffer in list(network.named_buffers()):
        if name in held and buffer.is_floating_point():
            owner, _, leaf = name.rpartition(".")
            module = network.get_submodule(owner)
            delattr(module, leaf)
            module.register_parameter(leaf, torch.nn.Parameter(buffer, requires_grad=False))


def give_frequencies(path: Path, network: Any, factors: torch.Tensor | None = None) -> None:
    """Compute what no file holds of `network`, RoPE tables and constants, and divide RoPE's frequencies by `factors`.

    An encoder's numbers of positions are such tables too. Raises EvaluationError where there is another number of
    factors, or something is left that nothing computes.
    """
    import torch

    for name, module in list(network.named_modules()):
        empty = [own for own, buffer in module.named_buffers(recurse=False) if buffer.is_meta]
        if not empty:
            continue
        if not all(module.get_buffer(own).is_floating_point() for own in empty):
            _give_counts(module, network.config)
            continue
        for own in empty:
            shape = module.get_buffer(own)
            module.register_buffer(own, torch.full(shape.shape, torch.nan, dtype=shape.dtype), persistent=False)
        with torch.no_grad():
            network._init_weights(module)  # parameters are on the meta device, so that nothing happens to them
        if any(bool(module.get_buffer(own).isnan().any()) for own in empty):
            raise EvaluationError(f"{path}: nothing computes {empty[0]} of {name} in this version of transformers.")
    if factors is not None:
        divide_frequencies(path, network, factors)


def divide_frequencies(path: Path, network: Any, factors: torch.Tensor) -> None:
    """Divide RoPE's frequencies in `network` by `factors`; raises EvaluationError where they are not as many."""
    for module in network.modules():
        if not hasattr(module, "inv_freq"):
            continue
        if factors.shape != module.inv_freq.shape:
            raise EvaluationError(f"{path}: RoPE has {factors.numel()} factors for {module.inv_freq.numel()} pairs.")
        module.inv_freq.div_(factors)


def _give_counts(module: Any, config: Any) -> None:
    """Give `module` its tables of whole numbers; parameters beside them stay on the meta device."""
    for leaf, buffer in type(module)(config).named_buffers(recurse=False):
        setattr(module, leaf, buffer)
