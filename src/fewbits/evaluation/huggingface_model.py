"""A Hugging Face directory, evaluated by transformers itself in float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewbits.errors import EvaluationError
from fewbits.evaluation.model_files import LoadedModel, first_sentence, quiet_transformers

# Nothing is downloaded, no code of the checkpoint runs, no pickle is opened.
_SAFE = {"local_files_only": True, "trust_remote_code": False}


@dataclass(frozen=True)
class HuggingFaceVocabulary:
    """The tokens of a directory's tokenizer; `size` counts the rows of the model's output, which may be padded."""

    size: int
    start_token: int | None
    tokenizer: Any

    def encode(self, text: str) -> Sequence[int]:
        """Token ids of `text`, without a start or an end token."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def token(self, index: int) -> str | None:
        """The token of an id as it is stored; None where the id has none."""
        token: str | None = self.tokenizer.convert_ids_to_tokens(index)
        return token


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
                config = transformers.AutoConfig.from_pretrained(path, **_SAFE)
        except Exception as error:  # transformers raises whatever its many parsers raise
            raise EvaluationError(f"{path}: config.json cannot be used ({first_sentence(error)}).") from error
        limit = getattr(config, "max_position_embeddings", None)
        if not isinstance(limit, int):
            raise EvaluationError(f"{path}: config.json gives no max_position_embeddings; is this a language model?")
        return HuggingFaceModel(path, limit, config)

    def vocabulary(self) -> HuggingFaceVocabulary:
        """The directory's tokenizer; raises EvaluationError when there is none that transformers can read."""
        try:
            with quiet_transformers() as transformers:
                tokenizer = transformers.AutoTokenizer.from_pretrained(self.path, **_SAFE)
        except Exception as error:  # as above
            raise EvaluationError(f"{self.path}: the tokenizer cannot be read ({first_sentence(error)}).") from error
        plain = tokenizer("a", add_special_tokens=False)["input_ids"]
        dressed = tokenizer("a")["input_ids"]
        start = dressed[0] if dressed[:1] != plain[:1] else None
        return HuggingFaceVocabulary(int(self.config.vocab_size), start, tokenizer)

    def load(self) -> LoadedModel:
        """The network in float32; raises EvaluationError when weights are missing, left over or misshapen."""
        import torch

        try:
            with quiet_transformers() as transformers:
                network, report = transformers.AutoModelForCausalLM.from_pretrained(
                    self.path,
                    config=self.config,
                    dtype=torch.float32,
                    attn_implementation="sdpa",
                    use_safetensors=True,
                    output_loading_info=True,
                    **_SAFE,
                )
        except Exception as error:  # as above
            raise EvaluationError(f"{self.path}: the model cannot be loaded ({first_sentence(error)}).") from error
        for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            if names := sorted(str(key) for key in report.get(what, ())):
                raise EvaluationError(
                    f"{self.path}: the weights do not fit config.json: {what.replace('_', ' ')} {', '.join(names[:3])}"
                    f"{' and others' if len(names) > 3 else ''}."
                )
        return LoadedModel(self.path, network.eval())
