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
            network = kind.of(transformers).from_config(
                config, dtype=torch.float32, attn_implementation="sdpa", **kind.options
            )
            return network.eval()  # BERT drops a tenth of its states while it is trained
    except Exception as error:  # transformers raises whatever its checks of a configuration raise
        raise EvaluationError(f"{path}: its metadata describe no model ({first_sentence(error)}).") from error


def give_frequencies(path: Path, network: Any, factors: torch.Tensor | None = None) -> None:
    """Compute the RoPE tables of `network`, which no file holds, and divide their frequencies by `factors`.

    An encoder's numbers of positions are such tables too; what has parameters beside them keeps those on the meta
    device. Raises EvaluationError where there is another number of factors.
    """
    for name, module in list(network.named_modules()):
        if not any(buffer.is_meta for buffer in module.buffers(recurse=False)):
            continue
        rotary = type(module)(network.config)
        if next(module.parameters(), None) is not None:
            for leaf, buffer in rotary.named_buffers(recurse=False):
                setattr(module, leaf, buffer)
            continue
        network.set_submodule(name, rotary)
        if factors is not None:
            if factors.shape != rotary.inv_freq.shape:
                counts = f"{factors.numel()} factors for {rotary.inv_freq.numel()} pairs"
                raise EvaluationError(f"{path}: RoPE has {counts}.")
            rotary.inv_freq.div_(factors)
