"""The tokens of a conversation that goes on: known ones stand for their text, and the rest is encoded.

A reply's tokens need not be those that the tokenizer would choose for its text. Encoding it anew would be as right, but
what the cache holds of it would be lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fewbits.engine.vocabulary import Vocabulary


@dataclass(frozen=True)
class Spoken:
    """The text of the last prompt, its tokens, and those of the reply."""

    text: str = ""
    prompt: Sequence[int] = ()
    reply: Sequence[int] = ()

    def encode(self, text: str, vocabulary: Vocabulary) -> list[int]:
        """Tokens of `text`: those of the last prompt and of its reply as far as they mean it, then the tokenizer's."""
        if not self.prompt or not text.startswith(self.text):
            return vocabulary.encode(text)
        known, rest = self._known(text[len(self.text) :].encode(), vocabulary)
        if not rest:
            return [*self.prompt, *known]
        following = vocabulary.encode(rest, start=False)
        # SentencePiece puts a space before text, but not before a special token.
        if vocabulary.strips_first_space and vocabulary.piece(following[0]):
            return vocabulary.encode(text)
        return [*self.prompt, *known, *following]

    def _known(self, data: bytes, vocabulary: Vocabulary) -> tuple[list[int], str]:
        """The reply's first tokens, as many as `data` begins with and end with a whole character; the rest as text."""
        taken, best, at = 0, 0, 0
        for count, token in enumerate(self.reply, start=1):
            piece = vocabulary.piece(token)
            if not data.startswith(piece, at):
                break
            at += len(piece)
            if at == len(data) or data[at] & 0xC0 != 0x80:  # no byte that goes on with a character
                taken, best = count, at
        return list(self.reply[:taken]), data[best:].decode()
