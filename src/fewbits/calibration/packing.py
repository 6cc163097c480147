"""Documents packed into windows of tokens without padding, and windows chosen evenly over all of a text."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fewbits.calibration.documents import Conversation, Document, plain, size
from fewbits.errors import CalibrationError

Ids = npt.NDArray[np.int64]

CHARACTERS_PER_TOKEN = 16
"""More than any ordinary tokenizer puts into a token on average: so much text is read for each token wanted."""


class Tokenizer(Protocol):
    """What calibration asks of a tokenizer.

    Three more members are used where a tokenizer has them: `end_token: int | None`, which separates documents where
    there is no start token, `closing_token: int | None`, which an encoder wants behind every text, and
    `render(messages: list[dict[str, str]]) -> str | None`, its chat template.
    """

    @property
    def start_token(self) -> int | None:
        """The id that the tokenizer puts in front of a text; None where it adds none."""

    def encode(self, text: str) -> Sequence[int]:
        """Token ids of `text`, without a start or an end token; special tokens in the text become their ids."""


def even_choice(total: int, wanted: int, chance: random.Random) -> list[int]:
    """`wanted` of `total` numbers, one drawn from each of as many equal stretches; all of them where there are fewer.

    >>> even_choice(100, 5, random.Random(0))
    [16, 35, 48, 65, 90]
    """
    if wanted >= total:
        return list(range(total))
    if wanted == 0:
        return []
    edges = [i * total // wanted for i in range(wanted + 1)]
    return [low + int(chance.random() * (high - low)) for low, high in pairwise(edges)]


def evenly_begun(count: int) -> list[int]:
    """The numbers below `count` in an order of which any beginning is spread over all of them: by reversed bits.

    >>> evenly_begun(8)
    [0, 4, 2, 6, 1, 5, 3, 7]
    """
    width = max(count - 1, 1).bit_length()
    return sorted(range(count), key=lambda i: int(f"{i:0{width}b}"[::-1], 2))


def thinned(documents: Sequence[Document], most: int, piece: int, chance: random.Random) -> list[Document]:
    """About `most` characters of `documents`, from all over them: pieces of long texts, some of many conversations."""
    total = sum(map(size, documents))
    if total <= most:
        return list(documents)
    pieces = [cut for document in documents for cut in _pieces(document, piece)]
    wanted = max(1, len(pieces) * most // total)
    return [pieces[i] for i in even_choice(len(pieces), wanted, chance)]


def _pieces(document: Document, piece: int) -> list[Document]:
    """A text cut at ends of lines, where there are some, about every `piece` characters; a conversation stays whole."""
    if not isinstance(document, str):
        return [document]
    found: list[Document] = []
    start = 0
    while start < len(document):
        end = document.find("\n", start + piece, start + 2 * piece)
        end = end + 1 if end >= 0 else start + piece
        found.append(document[start:end])
        start = end
    return found


def rendered(conversation: Conversation, tokenizer: Tokenizer) -> str | None:
    """A conversation in the form of the tokenizer's chat template; None where it has none."""
    render = getattr(tokenizer, "render", None)
    text = render([{"role": message.role, "content": message.content} for message in conversation]) if render else None
    return None if text is None else str(text)


def _words(document: Document, tokenizer: Tokenizer) -> str:
    if isinstance(document, str):
        return document
    text = rendered(document, tokenizer)
    return plain(document) if text is None else text


def token_stream(documents: Sequence[Document], tokenizer: Tokenizer) -> Ids:
    """The ids (n,) of all documents in order; the start token before each, or else the end token after each.

    An encoder never sees its start token within a text: there the closing token stands after each.
    """
    start, end = tokenizer.start_token, getattr(tokenizer, "end_token", None)
    closing = getattr(tokenizer, "closing_token", None)
    start, end = (start, end) if closing is None else (None, closing)
    ids: list[int] = []
    for document in documents:
        text = _words(document, tokenizer)
        found = list(tokenizer.encode(text)) if text.strip() else []
        if not found:
            continue
        # A chat template may have written the start token already.
        ids += [start] if start is not None and found[0] != start else []
        ids += found
        ids += [end] if start is None and end is not None and found[-1] != end else []
    return np.asarray(ids, dtype=np.int64)


def packed(
    ids: Ids, length: int, start_token: int | None, chance: random.Random, closing_token: int | None = None
) -> Ids:
    """Token ids (n,) as n // length windows (windows, length); what is left over is left out at either end.

    A `start_token` replaces the first token of every window, as llama.cpp's tools do: so the model sees windows alone.
    A `closing_token` replaces the last.

    >>> packed(np.arange(10, 17), 3, 1, random.Random(0)).tolist()
    [[1, 12, 13], [1, 15, 16]]
    """
    count = ids.size // length
    first = int(chance.random() * (ids.size - count * length + 1))
    windows = ids[first : first + count * length].reshape(count, length).copy()
    if start_token is not None and count:
        windows[:, 0] = start_token
    if closing_token is not None and count:
        windows[:, -1] = closing_token
    return windows


def apportioned(wanted: int, shares: Sequence[float], available: Sequence[int]) -> list[int]:
    """How many of `wanted` windows each part gives: by its share as far as it goes, the rest from the others.

    One after another, each to the part that is furthest behind its share (Webster's method).

    >>> apportioned(10, [0.5, 0.3, 0.2], [100, 2, 100])
    [6, 2, 2]
    """
    counts = [0] * len(shares)
    for _ in range(min(wanted, sum(available))):
        able = [i for i in range(len(shares)) if counts[i] < available[i]]
        most = max(able, key=lambda i: (shares[i] / (2 * counts[i] + 1), -i))
        counts[most] += 1
    return counts


def check_sizes(length: int, windows: int) -> None:
    """Raise CalibrationError for windows that no model could be measured on."""
    if length < SHORTEST:
        raise CalibrationError(f"windows of {length} tokens are too short; use at least {SHORTEST}.")
    if windows < 1:
        raise CalibrationError(f"{windows} windows measure nothing; use at least 1.")


SHORTEST = 8
