"""Text out of a stream of tokens: what may be shown already, and where the text ends.

Bytes of a character that is spread over tokens wait for the rest of it; text that may be the beginning of a stop string
waits until it is known not to be. What comes out does not depend on how the tokens arrive.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from fewbits.errors import EngineError


class Characters:
    """UTF-8 bytes, as they come, to text; bytes that are no UTF-8 become U+FFFD, an unfinished character nothing.

    >>> characters = Characters()
    >>> characters.add(b"na\\xc3"), characters.add(b"\\xafve")
    ('na', 'ïve')
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, data: bytes) -> str:
        """The characters that `data` completes."""
        return self._decoder.decode(data)


class StopStrings:
    """Text, as it comes, up to the first stop string that is complete.

    >>> stops = StopStrings(["\\n\\n"])
    >>> stops.add("one\\n"), stops.add("two\\n"), stops.add("\\nthree"), stops.found
    ('one', '\\ntwo', '', '\\n\\n')
    """

    def __init__(self, strings: Sequence[str]) -> None:
        if "" in strings:
            raise EngineError("a stop string is empty, so that no text could be written; give one with characters.")
        self._strings = tuple(strings)
        self._held = ""
        self.found: str | None = None
        """The stop string that ended the text."""

    def add(self, text: str) -> str:
        """What of the text so far is new and cannot be part of a stop string; nothing once one was found."""
        if self.found is not None:
            return ""
        self._held += text
        ends = [(at + len(each), at, each) for each in self._strings if (at := self._held.find(each)) >= 0]
        if ends:
            _, at, self.found = min(ends)  # the one that is complete first, and of those the longest
            return self._release(at)
        return self._release(len(self._held) - self._undecided())

    def finish(self) -> str:
        """The text that was held back, once it is known that nothing follows."""
        return self._release(len(self._held)) if self.found is None else ""

    def _undecided(self) -> int:
        """How many characters at the end could be the beginning of a stop string."""
        most = min(max((len(each) - 1 for each in self._strings), default=0), len(self._held))
        tails = (n for n in range(most, 0, -1) if any(each.startswith(self._held[-n:]) for each in self._strings))
        return next(tails, 0)

    def _release(self, count: int) -> str:
        text, self._held = self._held[:count], self._held[count:]
        return text


class TextStream:
    """Pieces of text out of the bytes of tokens, up to a stop string; `text` is all of it so far.

    With `strip`, a space at the very beginning is left out, as SentencePiece's decoders do.
    """

    def __init__(self, *, stops: Sequence[str] = (), strip: bool = False) -> None:
        self._characters = Characters()
        self._stops = StopStrings(stops)
        self._strip = strip
        self.text = ""

    @property
    def stopped_by(self) -> str | None:
        """The stop string that ended the text; None so far."""
        return self._stops.found

    def add(self, data: bytes) -> str:
        """The text that is sure after the bytes of one more token."""
        characters = self._characters.add(data)
        if self._strip and characters:
            characters, self._strip = characters.removeprefix(" "), False
        return self._take(self._stops.add(characters))

    def finish(self) -> str:
        """The text that was held back, as nothing follows; a character without its last bytes is left out."""
        return self._take(self._stops.finish())

    def _take(self, piece: str) -> str:
        self.text += piece
        return piece
