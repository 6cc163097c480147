"""`fewbits.load`: a stored model, whatever its container, as a network of transformers whose matrices stay packed."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fewbits.errors import FewbitsError, LoadingError
from fewbits.evaluation.huggingface_model import require_all
from fewbits.evaluation.model_files import first_sentence, quiet_transformers
from fewbits.evaluation.skeleton import divide_frequencies
from fewbits.hub.locating import locate
from fewbits.layers.products import WIDE, require_known
from fewbits.loading.pieces import is_quantized
from fewbits.loading.sources import Source, open_source
from fewbits.loading.stored import Stored
from fewbits.memory import available_memory
from fewbits.models import add_architecture

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from fewbits.loading.config import Config

_LOG = logging.getLogger("fewbits")


def load(
    source: str | Path,
    *,
    to: str | Config | None = None,
    dtype: torch.dtype = torch.float32,
    inputs: str = WIDE,
    revision: str | None = None,
    architecture: str | Path | None = None,
) -> PreTrainedModel:
    """The model at a path or of a hub id as a network of transformers; its linears and embeddings stay packed.

    A directory may be plain or in any dialect, a GGUF file of any architecture that is known here. The class is the
    one that the configuration names. The network computes in `dtype`; plain matrices that are stored in fewer bits stay
    packed as well. Inputs of products are rounded as the file says; where it says nothing, as `inputs` does: to 16 bits
    in groups of 32, "int8_group" (8 bits, faster), or "exact". Tied weights stay tied. A model that is not quantized
    is quantized `to` a format or recipe as it is read ("nf4", "Q4_K_M", or a `fewbits.Config`). `model.fewbits`
    (`Loaded`) says what is packed and what is not. `revision` is that of a hub id, `architecture` a TOML file as
    `quantize` takes it. Raises a FewbitsError, one sentence, where no network can be made.
    """
    require_known(inputs)
    if architecture is not None:
        add_architecture(Path(architecture))
    located = locate(str(source), revision=revision)
    opened = open_source(Path(located.path).expanduser())
    if to is None:
        _require_memory(opened)
    else:
        _require_plain(opened)
    try:
        network: PreTrainedModel = _network(Stored(opened, inputs), to, dtype)
    except MemoryError as error:
        raise LoadingError(
            f"{opened.path}: there is not enough memory to load it; free some, or take a smaller model."
        ) from error
    for note in located.notes:
        _LOG.warning(note)
    return network


def _network(stored: Stored, to: str | Config | None, dtype: torch.dtype) -> Any:
    source = stored.source
    try:
        with quiet_transformers():
            from fewbits.loading.quantizer import configuration_of  # which has transformers import its own quantizers

            network, report = source.network.from_pretrained(
                None,
                config=source.config,
                state_dict=stored.state,
                dtype=dtype,
                quantization_config=configuration_of(stored, to),
                output_loading_info=True,
                **source.options,
            )
    except (FewbitsError, MemoryError):
        raise
    except Exception as error:  # transformers raises whatever its many checks raise
        raise LoadingError(f"{source.path}: the model cannot be loaded ({first_sentence(error)}).") from error
    require_all(source.path, report, source.beside)
    if source.rope_factors is not None:
        divide_frequencies(source.path, network, source.rope_factors)
    network.name_or_path = network.config.name_or_path = str(source.path)
    if source.generation is not None:
        network.generation_config = source.generation
    return network.eval().requires_grad_(False)


def _require_plain(source: Source) -> None:
    """Raise LoadingError where the model is quantized already."""
    found = next((name for name, piece in source.pieces.items() if is_quantized(piece)), None)
    if found is not None:
        raise LoadingError(
            f"{source.path} is quantized already ({found}); load it as it is, or quantize the original model."
        )


def _require_memory(source: Source) -> None:
    """Raise LoadingError where the packed model alone is larger than what memory is left."""
    free = available_memory()
    if free is not None and source.bytes > free:
        raise LoadingError(
            f"{source.path} has {source.bytes / 1e9:.2f} GB of weights, and {free / 1e9:.2f} GB of memory are free; "
            "free some, or quantize the model to fewer bits."
        )
