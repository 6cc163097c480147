"""The tokens of an encoder, which reads every text between a token before it and one after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fewbits.errors import EvaluationError
from fewbits.evaluation.vocabularies import GGUFVocabulary, HuggingFaceVocabulary


@dataclass(frozen=True)
class EncoderVocabulary:
    """A model's tokens, and the id that its tokenizer puts behind a text. There is no conversation to be rendered."""

    tokens: HuggingFaceVocabulary | GGUFVocabulary
    closing_token: int

    @staticmethod
    def of(path: Path, tokens: HuggingFaceVocabulary | GGUFVocabulary) -> EncoderVocabulary:
        """`tokens` with their last one; raises EvaluationError where a text is not put between two tokens."""
        closing = tokens.last_token
        if tokens.start_token is None or closing is None:
            raise EvaluationError(
                f"{path}: its tokenizer does not put a token before and one after a text, as an encoder's does."
            )
        return EncoderVocabulary(tokens, closing)

    @property
    def size(self) -> int:
        """Number of tokens that the model knows."""
        return self.tokens.size

    @property
    def start_token(self) -> int | None:
        """The id that the tokenizer puts in front of a text."""
        return self.tokens.start_token

    def encode(self, text: str) -> Sequence[int]:
        """Token ids of `text` alone."""
        return self.tokens.encode(text)

    def token(self, index: int) -> str | None:
        """The token of an id as a checkpoint stores it; None where the id has none."""
        return self.tokens.token(index)
