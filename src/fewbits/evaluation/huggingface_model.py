"""A Hugging Face directory, evaluated by transformers itself in float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewbits.checkpoints.huggingface import convert_directory
from fewbits.checkpoints.pooling import read_pooling
from fewbits.errors import EvaluationError
from fewbits.evaluation.encoder_vocabulary import EncoderVocabulary
from fewbits.evaluation.model_files import SAFE, LoadedModel, Vocabulary, first_sentence, quiet_transformers
from fewbits.evaluation.network_kinds import kind_for, positions_of, stands_beside
from fewbits.evaluation.skeleton import bare_network, give_frequencies
from fewbits.evaluation.vocabularies import GGUFVocabulary, HuggingFaceVocabulary
from fewbits.models import is_encoder


@dataclass(frozen=True)
class HuggingFaceModel:
    """A directory whose config.json was read."""

    path: Path
    context_limit: int
    config: Any

    @staticmethod
    def open(path: Path) -> HuggingFaceModel:
        """Read config.json; raises EvaluationError when it is missing or of a model that transformers lacks."""
        if not (path / "config.json").is_file():
            raise EvaluationError(f"{path}: no config.json there; give a Hugging Face model directory or a GGUF file.")
        try:
            with quiet_transformers() as transformers:
                config = transformers.AutoConfig.from_pretrained(path, **SAFE)
        except Exception as error:  # transformers raises whatever its many parsers raise
            raise EvaluationError(f"{path}: config.json cannot be used ({first_sentence(error)}).") from error
        if getattr(config, "text_config", None) is not None:
            raise EvaluationError(
                f"{path}: config.json is of a model that does more than continue text, and its language model cannot "
                "be run by itself out of the directory; make a GGUF file of it first (fewbits quantize --to F16), and "
                "give that."
            )
        limit = positions_of(config)
        if limit is None:
            raise EvaluationError(f"{path}: config.json gives no max_position_embeddings; is this a language model?")
        return HuggingFaceModel(path, limit, config)

    @property
    def encoder(self) -> bool:
        """Whether the model answers with states and continues no text."""
        return is_encoder(self.config.architectures)

    @property
    def pooling(self) -> str | None:
        """How an encoder's states become one embedding; None where the directory does not say."""
        return read_pooling(self.path).mode if self.encoder else None

    def vocabulary(self) -> Vocabulary:
        """The directory's tokens; raises EvaluationError or CheckpointError when they cannot be read."""
        size = int(self.config.vocab_size)
        if self.encoder:
            return EncoderVocabulary.of(self.path, HuggingFaceVocabulary.read(self.path, size))
        if (self.path / "tokenizer.json").is_file() or not (self.path / "tokenizer.model").is_file():
            return HuggingFaceVocabulary.read(self.path, size)
        # From a bare SentencePiece model transformers guesses the space before a text, and guesses wrong.
        return GGUFVocabulary.read(self.path, convert_directory(self.path).metadata, size)

    def skeleton(self) -> Any:
        """The network without memory behind its parameters; the RoPE tables are there."""
        network = bare_network(self.path, lambda _: self.config)
        give_frequencies(self.path, network)
        return network

    def load(self) -> LoadedModel:
        """The network in float32; raises EvaluationError when weights are missing, left over or misshapen."""
        import torch

        try:
            with quiet_transformers() as transformers:
                kind = kind_for(self.config)
                network, report = kind.of(transformers).from_pretrained(
                    self.path,
                    config=self.config,
                    dtype=torch.float32,
                    use_safetensors=True,
                    output_loading_info=True,
                    **kind.options,
                    **SAFE,
                )
        except Exception as error:  # as above
            raise EvaluationError(f"{self.path}: the model cannot be loaded ({first_sentence(error)}).") from error
        require_all(self.path, report, stands_beside(self.config))
        return LoadedModel(self.path, network.eval().requires_grad_(False))


def require_all(path: Path, report: Mapping[str, Any], beside: Callable[[str], bool]) -> None:
    """Raise EvaluationError when transformers' loading report names missing, unexpected or misshapen weights.

    `beside` tells names of what may be there and is no part of the network.
    """
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if names := sorted(name for key in report.get(what, ()) if not beside(name := str(key))):
            raise EvaluationError(
                f"{path}: the weights do not fit config.json: {what.replace('_', ' ')} {', '.join(names[:3])}"
                f"{' and others' if len(names) > 3 else ''}."
            )
