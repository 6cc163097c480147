"""A quantized model directory in any dialect, evaluated through its decoded weights in transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewbits import formats
from fewbits.checkpoints.base import StoredTensor
from fewbits.checkpoints.dialects.reader import DialectReader
from fewbits.checkpoints.fields import FieldsReader, StoredMatrix
from fewbits.errors import EvaluationError
from fewbits.evaluation.decoding import decoded
from fewbits.evaluation.huggingface_model import HuggingFaceModel, require_all
from fewbits.evaluation.model_files import LoadedModel, Vocabulary, first_sentence, quiet_transformers
from fewbits.evaluation.network_kinds import kind_for, stands_beside
from fewbits.evaluation.rounded_inputs import round_inputs
from fewbits.kernels.stored import stored_numbers

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class FieldsModel:
    """A directory whose configuration and weights' header were read."""

    directory: HuggingFaceModel
    reader: FieldsReader | DialectReader

    @staticmethod
    def open(path: Path, reader: FieldsReader | DialectReader) -> FieldsModel:
        """Read the configuration; raises EvaluationError or CheckpointError when no model can be made from it."""
        return FieldsModel(HuggingFaceModel.open(path), reader)

    @property
    def path(self) -> Path:
        """The directory."""
        return self.directory.path

    @property
    def context_limit(self) -> int:
        """Most tokens that the model was made for."""
        return self.directory.context_limit

    @property
    def encoder(self) -> bool:
        """Whether the model answers with states and continues no text."""
        return self.directory.encoder

    @property
    def pooling(self) -> str | None:
        """How an encoder's states become one embedding; None where the directory does not say."""
        return self.directory.pooling

    def vocabulary(self) -> Vocabulary:
        """The directory's tokens."""
        return self.directory.vocabulary()

    def load(self) -> LoadedModel:
        """The network in float32; raises EvaluationError when weights are missing, left over or misshapen."""
        state = {name: _numbers(self.reader.read(name)) for name in self.reader.names()}
        config = self.directory.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config  # the weights are plain numbers from here on
        try:
            network, report = _filled(config, state)
        except Exception as error:  # transformers raises whatever its many checks raise
            raise EvaluationError(f"{self.path}: the model cannot be loaded ({first_sentence(error)}).") from error
        require_all(self.path, report, stands_beside(config))
        rounded = round_inputs(self.path, network, map(self.reader.read, self.reader.names()))
        return LoadedModel(self.path, network.eval().requires_grad_(False), rounded)


def _filled(config: Any, state: dict[str, torch.Tensor]) -> tuple[Any, dict[str, Any]]:
    import torch

    kind = kind_for(config)
    with quiet_transformers() as transformers:
        with torch.device("meta"):
            made = type(kind.of(transformers).from_config(config, **kind.options))
        network, report = made.from_pretrained(
            None,
            config=config,
            state_dict=state,
            dtype=torch.float32,
            output_loading_info=True,
            **kind.options,
        )
        return network, report


def _numbers(stored: StoredMatrix | StoredTensor) -> torch.Tensor:
    """The float32 numbers of a tensor in its own shape."""
    if isinstance(stored, StoredTensor):
        return decoded(stored)
    format = formats.get(stored.format)
    rows = 1
    for size in stored.shape[:-1]:
        rows *= size
    numbers = stored_numbers(format, stored.load(), (rows, stored.shape[-1])).reshape(stored.shape)
    return numbers.T.contiguous() if stored.transposed else numbers
