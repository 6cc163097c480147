"""The tokens of a model, from a Hugging Face directory or from a GGUF file's metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewbits.checkpoints.base import Value
from fewbits.checkpoints.tokenizer_wordpiece import MODEL as WORDPIECE
from fewbits.errors import EvaluationError
from fewbits.evaluation.model_files import SAFE, first_sentence, quiet_transformers

_SPECIAL = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
"""What transformers calls a special token -> what GGUF does."""


@dataclass(frozen=True)
class HuggingFaceVocabulary:
    """The tokens of a directory's tokenizer; `size` counts the rows of the model's output, which may be padded."""

    size: int
    start_token: int | None
    tokenizer: Any
    last_token: int | None = None
    """The id that the tokenizer puts behind a text; None where it adds none."""

    @staticmethod
    def read(path: Path, size: int) -> HuggingFaceVocabulary:
        """The tokenizer of directory `path`; raises EvaluationError when there is none that transformers can read."""
        try:
            with quiet_transformers() as transformers:
                tokenizer = transformers.AutoTokenizer.from_pretrained(path, **SAFE)
        except Exception as error:  # transformers raises whatever its many parsers raise
            raise EvaluationError(f"{path}: the tokenizer cannot be read ({first_sentence(error)}).") from error
        plain = tokenizer("a", add_special_tokens=False)["input_ids"]
        dressed = tokenizer("a")["input_ids"]
        start = dressed[0] if dressed[:1] != plain[:1] else None
        last = dressed[-1] if dressed[-1:] != plain[-1:] else None
        return HuggingFaceVocabulary(size, start, tokenizer, last)

    def encode(self, text: str) -> Sequence[int]:
        """Token ids of `text`, without a start or an end token."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    @property
    def end_token(self) -> int | None:
        """The id that ends a text; None where the tokenizer names none."""
        end: int | None = self.tokenizer.eos_token_id
        return end

    def render(self, messages: Sequence[Mapping[str, str]]) -> str | None:
        """`messages` (role, content) as the chat template writes them; None without one.

        Raises EvaluationError where the template refuses them.
        """
        return _rendered(self.tokenizer, messages)

    def token(self, index: int) -> str | None:
        """The token of an id as it is stored; None where the id has none."""
        token: str | None = self.tokenizer.convert_ids_to_tokens(index)
        return token


@dataclass(frozen=True)
class GGUFVocabulary:
    """The tokens of a GGUF file; `size` counts the rows of its embedding."""

    size: int
    start_token: int | None
    tokens: Sequence[str]
    metadata: Mapping[str, Value]

    @staticmethod
    def read(path: Path, metadata: Mapping[str, Value], size: int) -> GGUFVocabulary:
        """The tokens that the metadata of `path` list; raises EvaluationError when they list none."""
        if "tokenizer.ggml.tokens" not in metadata:
            raise EvaluationError(f"{path}: the file holds no tokenizer, so what its token ids mean is unknown.")
        from fewbits.checkpoints.tokenizer_from_gguf import stored_tokens

        return GGUFVocabulary(size, _start_token(metadata), stored_tokens(metadata), metadata)

    def encode(self, text: str) -> Sequence[int]:
        """Token ids of `text`, without a start or an end token; CheckpointError when no tokenizer can be rebuilt."""
        from fewbits.checkpoints.tokenizer_from_gguf import tokenizer_from_gguf

        ids: list[int] = tokenizer_from_gguf(self.metadata).encode(text, add_special_tokens=False).ids
        return ids

    @property
    def last_token(self) -> int | None:
        """The id that llama.cpp puts behind a text; None where it adds none."""
        adds = self.metadata.get("tokenizer.ggml.add_eos_token")
        if _is_wordpiece(self.metadata):
            return self._special("seperator")
        return self._special("eos") if adds is not None and adds.value else None

    @property
    def end_token(self) -> int | None:
        """The id that ends a text; None where the file names none."""
        return self._special("eos")

    def render(self, messages: Sequence[Mapping[str, str]]) -> str | None:
        """`messages` (role, content) as the file's chat template writes them; None without one.

        Raises EvaluationError where the template refuses them.
        """
        return _rendered(self.tokenizer(), messages) if "tokenizer.chat_template" in self.metadata else None

    def tokenizer(self) -> Any:
        """The file's tokens as a tokenizer of transformers; CheckpointError when none can be rebuilt."""
        from fewbits.checkpoints.tokenizer_from_gguf import tokenizer_from_gguf

        template = self.metadata.get("tokenizer.chat_template")
        named = {f"{name}_token": self._special(own) for name, own in _SPECIAL.items()}
        special = {name: self.token(index) for name, index in named.items() if index is not None}
        with quiet_transformers() as transformers:
            return transformers.PreTrainedTokenizerFast(
                tokenizer_object=tokenizer_from_gguf(self.metadata),
                chat_template=template and template.value,
                model_input_names=["input_ids", "attention_mask"],
                **special,
            )

    def _special(self, name: str) -> int | None:
        stated = self.metadata.get(f"tokenizer.ggml.{name}_token_id")
        return None if stated is None else int(stated.value)

    def token(self, index: int) -> str | None:
        """The token of an id as it is stored; None where the id has none."""
        return self.tokens[index] if index < len(self.tokens) else None


def _rendered(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> str | None:
    if not tokenizer.chat_template:
        return None
    try:
        text: str = tokenizer.apply_chat_template([dict(message) for message in messages], tokenize=False)
    except Exception as error:  # templates are programs, and raise whatever they like
        raise EvaluationError(
            f"the model's chat template refuses a conversation ({first_sentence(error)}); correct or remove it."
        ) from error
    return text


def _start_token(metadata: Mapping[str, Value]) -> int | None:
    """The id that llama.cpp puts in front of a text; a file that does not say so follows its tokenizer's habit."""
    adds = metadata.get("tokenizer.ggml.add_bos_token")
    token = metadata.get("tokenizer.ggml.bos_token_id")
    model = metadata.get("tokenizer.ggml.model")
    wanted = adds.value if adds is not None else model is not None and model.value == "llama"
    wanted = wanted or _is_wordpiece(metadata)
    return int(token.value) if wanted and token is not None else None


def _is_wordpiece(metadata: Mapping[str, Value]) -> bool:
    """Whether the tokens are BERT's: llama.cpp puts one before and one after a text then, whatever the file says."""
    model = metadata.get("tokenizer.ggml.model")
    return model is not None and model.value == WORDPIECE
