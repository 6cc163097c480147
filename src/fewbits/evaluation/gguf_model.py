"""A GGUF file, evaluated through its decoded weights in transformers.

The configuration comes from the file's own metadata and never from the model it was made from: a wrong key in the
file must show in the figures. For the same reason the rows that llama.cpp wants in another order are put back by code
of its own (`gguf_tensors.py`), not by the code that moved them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewbits.checkpoints.gguf_parts import GGUFParts, open_gguf
from fewbits.checkpoints.pooling import key_of, mode_of
from fewbits.checkpoints.rope import LONG, SHORT
from fewbits.errors import EvaluationError
from fewbits.evaluation.decoding import decoded, require_decodable
from fewbits.evaluation.encoder_vocabulary import EncoderVocabulary
from fewbits.evaluation.experts import taken_apart
from fewbits.evaluation.gguf_config import GGUFConfig, read_config
from fewbits.evaluation.gguf_tensors import GGUFTensors
from fewbits.evaluation.model_files import LoadedModel, Vocabulary
from fewbits.evaluation.skeleton import bare_network, give_frequencies
from fewbits.evaluation.vocabularies import GGUFVocabulary
from fewbits.models import is_encoder, parts_of

if TYPE_CHECKING:
    import torch

ROPE_FACTORS = "rope_freqs.weight"
"""Divisors of the RoPE frequencies (Llama 3.1's scaling), one per pair of a head: no parameter of the network."""
NO_PARAMETERS = {ROPE_FACTORS, LONG, SHORT}
"""LongRoPE's lists are part of the configuration."""


@dataclass(frozen=True)
class GGUFModel:
    """A GGUF file whose header was read and whose architecture is known."""

    path: Path
    context_limit: int
    reader: GGUFParts
    config: GGUFConfig

    @staticmethod
    def open(path: Path) -> GGUFModel:
        """Read the header; raises CheckpointError or EvaluationError when no model can be made from it."""
        reader = open_gguf(path)
        config = read_config(reader)
        return GGUFModel(path, config.values["max_position_embeddings"], reader, config)

    @property
    def encoder(self) -> bool:
        """Whether the model answers with states and continues no text."""
        return is_encoder(self.config.values.get("architectures"))

    @property
    def pooling(self) -> str | None:
        """How an encoder's states become one embedding; None where the file does not say."""
        stated = self.reader.metadata.get(key_of(str(self.reader.metadata["general.architecture"].value)))
        return mode_of(stated.value) if self.encoder and stated is not None else None

    def vocabulary(self) -> Vocabulary:
        """The file's own tokens; raises EvaluationError when it has none."""
        tokens = GGUFVocabulary.read(self.path, self.reader.metadata, self.config.values["vocab_size"])
        return EncoderVocabulary.of(self.path, tokens) if self.encoder else tokens

    def load(self) -> LoadedModel:
        """The network in float32, one tensor decoded at a time; raises EvaluationError naming what does not fit."""
        network = self.skeleton()
        tensors = self.tensors(network)
        state = {name: tensors.parameter(name) for name, _ in network.named_parameters()}
        network.load_state_dict(state, strict=False, assign=True)
        network.tie_weights()
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            if tensor.is_meta:
                raise EvaluationError(f"{self.path}: nothing in the file fills {name} of the network.")
        return LoadedModel(self.path, network.eval().requires_grad_(False))

    def tensors(self, network: Any) -> GGUFTensors:
        """What fills the parameters of `network`, which may be bare; raises EvaluationError naming what does not fit.

        Each of them has its tensor and each tensor its parameter.
        """
        require_decodable({self.reader.read(name).format for name in self.reader.names()})
        tensors = GGUFTensors(self.reader, self.config)
        self._require_fit(network, tensors)
        return tensors

    def skeleton(self) -> Any:
        """The network without memory behind its parameters; the RoPE tables are there."""
        network = bare_network(self.path, self.configuration)
        give_frequencies(self.path, network, self.rope_factors())
        return network

    def configuration(self, transformers: Any) -> Any:
        """What transformers calls the file's metadata."""
        kind, values = self.config.model_type, self.config.values
        return transformers.AutoConfig.for_model(kind, **_settable(transformers.CONFIG_MAPPING[kind], values))

    def rope_factors(self) -> torch.Tensor | None:
        """What RoPE's frequencies are divided by, one number per pair of a head; None where the file has none."""
        return decoded(self.reader.read(ROPE_FACTORS)) if ROPE_FACTORS in self.reader.names() else None

    def _require_fit(self, network: Any, tensors: GGUFTensors) -> None:
        """Raise EvaluationError unless every parameter has its tensor and every tensor its parameter."""
        facts = self.config.facts
        shapes = {name: tuple(p.shape) for name, p in network.named_parameters()}
        whole = {target for target, fact in facts.values() if fact.view}
        parameters = taken_apart({name: shape for name, shape in shapes.items() if name not in whole})
        parameters |= {name: shape for name, shape in shapes.items() if name in whole}
        stored = set(self.reader.names())
        if extra := sorted(stored - set(facts) - NO_PARAMETERS):
            raise EvaluationError(
                f"{self.path}: the {self.config.model_type} architecture has no place for tensor {_listed(extra)}."
            )
        if missing := sorted(set(facts) - stored):
            raise EvaluationError(f"{self.path}: the file lacks tensor {_listed(missing)}.")
        if empty := sorted(set(parameters) - {part for target, _ in facts.values() for part in parts_of(target)}):
            raise EvaluationError(f"{self.path}: no tensor of the file fills parameter {_listed(empty)}.")
        for name, (target, fact) in facts.items():
            shape = self.reader.read(name).shape
            if view := tensors.view(fact):
                wanted = view.taken if parameters.get(target) == view.stored else parameters.get(target)
            else:
                shape = fact.in_checkpoint(shape)
                wanted = _joined_shape([parameters.get(part) for part in parts_of(target)])
            if wanted != shape:
                raise EvaluationError(
                    f"{self.path}: tensor {name} has shape {shape}, but the file's metadata ask for {wanted}."
                )


def _joined_shape(shapes: Sequence[tuple[int, ...] | None]) -> tuple[int, ...] | None:
    """The shape of matrices of equal shapes one below another; of one its own."""
    first = shapes[0]
    alike = first is not None and all(shape == first for shape in shapes)
    return (len(shapes) * first[0], *first[1:]) if first is not None and alike else None


def _settable(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` without those that a configuration of this kind works out from the others (the width of a head)."""
    derived = {key for key in values if isinstance(getattr(kind, key, None), property) and not getattr(kind, key).fset}
    return {key: value for key, value in values.items() if key not in derived}


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
