"""A GGUF file, evaluated through its decoded weights in transformers.

The configuration comes from the file's own metadata and never from the model it was made from: a wrong key in the
file must show in the figures. For the same reason the rows that llama.cpp wants in another order are put back by code
of this module, not by the code that moved them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from fewbits.checkpoints.gguf_parts import GGUFParts, open_gguf
from fewbits.checkpoints.pooling import key_of, mode_of
from fewbits.checkpoints.rope import LONG, SHORT
from fewbits.errors import EvaluationError
from fewbits.evaluation.decoding import decoded, require_decodable
from fewbits.evaluation.encoder_vocabulary import EncoderVocabulary
from fewbits.evaluation.experts import put_together, taken_apart
from fewbits.evaluation.gguf_config import GGUFConfig, read_config
from fewbits.evaluation.model_files import LoadedModel, Vocabulary
from fewbits.evaluation.skeleton import bare_network, give_frequencies
from fewbits.evaluation.vocabularies import GGUFVocabulary
from fewbits.models import TensorFact, View, is_encoder, parts_of
from fewbits.models.widths import widths_of

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
        import torch

        require_decodable({self.reader.read(name).format for name in self.reader.names()})
        network = self.skeleton()
        facts = self._matched_facts(network)
        state: dict[str, torch.Tensor] = {}
        for name, (target, fact) in facts.items():
            weight = decoded(self.reader.read(name))
            if view := self._view(fact):
                whole = state.setdefault(target, torch.empty(view.stored))
                view.put(whole, weight)
                continue
            weight = weight - fact.add if fact.add else weight
            weight = weight.T.contiguous() if fact.transposed else weight.reshape(fact.in_checkpoint(weight.shape))
            back = _BACK.get(fact.order)
            weight = back(weight, self.config.values) if back else weight
            parts = parts_of(target)
            state |= zip(parts, weight.chunk(len(parts)) if len(parts) > 1 else (weight,), strict=True)
        network.load_state_dict(put_together(state, dict(network.named_parameters())), strict=False, assign=True)
        network.tie_weights()
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            if tensor.is_meta:
                raise EvaluationError(f"{self.path}: nothing in the file fills {name} of the network.")
        return LoadedModel(self.path, network.eval().requires_grad_(False))

    def _view(self, fact: TensorFact) -> View | None:
        """How the network's parameter is seen, of which a tensor of `fact` is a part."""
        values = self.config.values
        return fact.seen(widths_of(values, self.config.sums)) if fact.view else None

    def skeleton(self) -> Any:
        """The network without memory behind its parameters; the RoPE tables are there."""
        kind, values = self.config.model_type, self.config.values

        def configuration(transformers: Any) -> Any:
            return transformers.AutoConfig.for_model(kind, **_settable(transformers.CONFIG_MAPPING[kind], values))

        network = bare_network(self.path, configuration)
        stored = ROPE_FACTORS in self.reader.names()
        give_frequencies(self.path, network, decoded(self.reader.read(ROPE_FACTORS)) if stored else None)
        return network

    def _matched_facts(self, network: Any) -> dict[str, tuple[str, TensorFact]]:
        """GGUF name -> (parameter, fact): every parameter has its tensor and every tensor its parameter."""
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
            if view := self._view(fact):
                wanted = view.taken if parameters.get(target) == view.stored else parameters.get(target)
            else:
                shape = fact.in_checkpoint(shape)
                wanted = _joined_shape([parameters.get(part) for part in parts_of(target)])
            if wanted != shape:
                raise EvaluationError(
                    f"{self.path}: tensor {name} has shape {shape}, but the file's metadata ask for {wanted}."
                )
        return facts


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


def _halves_apart(weight: torch.Tensor, values: Mapping[str, Any]) -> torch.Tensor:
    """Rows (heads * head_dim, ...) from llama.cpp's order, pairs side by side, to transformers', halves apart.

    Row 2 i + j of a head in the file is row j head_dim / 2 + i in transformers, for j in {0, 1}.
    """
    pairs = weight.reshape(-1, values["head_dim"] // 2, 2, *weight.shape[1:])
    return pairs.transpose(1, 2).reshape(weight.shape)


def _heads_together(weight: torch.Tensor, values: Mapping[str, Any]) -> torch.Tensor:
    """Rows (queries, keys, values) as transformers' GPT-NeoX and Falcon have them: each key behind its queries."""
    import torch

    heads, key_heads, rest = values["num_attention_heads"], values["num_key_value_heads"], weight.shape[1:]
    each = torch.split(weight.reshape(heads + 2 * key_heads, -1, *rest), [heads, key_heads, key_heads])
    return torch.cat([part.reshape(key_heads, -1, *part.shape[1:]) for part in each], 1).reshape(weight.shape)


_BACK = MappingProxyType({"rope": _halves_apart, "qkv": _heads_together})
