"""A text as the windows that are evaluated: which tokens a model sees, and which of its predictions are scored.

The protocol is the field's own (llama.cpp's perplexity tool), so that numbers can be set side by side: windows of
`context` tokens that do not overlap, the tokenizer's start token (if it adds one) at the head of each, and only the
second half of each window scored, where every prediction has at least half a window to look back on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fewbits.errors import EvaluationError

Ids = npt.NDArray[np.int64]

SMALLEST_CONTEXT = 8
FEWEST_WINDOWS = 2


@dataclass(frozen=True)
class Text:
    """The content of a text file and the SHA-256 (hexadecimal) of its bytes."""

    path: Path
    content: str
    sha256: str


def read_text(path: str | Path) -> Text:
    """Read a UTF-8 file; raises EvaluationError when it is missing, not text or empty."""
    path = Path(path)
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise EvaluationError(f"{path}: there is no such text file.") from None
    except OSError as error:
        raise EvaluationError(f"{path}: the text cannot be read ({error.strerror}).") from None
    try:
        content = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise EvaluationError(f"{path}: not UTF-8 text (byte {error.start}); convert it to UTF-8 first.") from None
    if not content.strip():
        raise EvaluationError(f"{path}: the text is empty; give one of at least a few thousand characters.")
    return Text(path, content, hashlib.sha256(raw).hexdigest())


def scored_positions(context: int) -> range:
    """Positions of a window whose next token is scored: the second half, less the last (its next token is outside).

    >>> scored_positions(512)
    range(256, 511)
    """
    return range(context // 2, context - 1)


def cut_windows(
    ids: Sequence[int] | Ids, context: int, start_token: int | None, closing_token: int | None = None
) -> Ids:
    """Cut token ids (n,) into n // context windows (windows, context); the rest at the end is left out.

    With a `start_token`, it precedes the text and then also replaces the first token of every window; a
    `closing_token`, which an encoder wants behind every text, replaces the last.

    >>> cut_windows([5, 6, 7, 8, 9], 3, start_token=1).tolist()
    [[1, 5, 6], [1, 8, 9]]
    """
    flat = np.asarray(ids, dtype=np.int64)
    if start_token is not None:
        flat = np.concatenate([np.array([start_token], dtype=np.int64), flat])
    count = flat.size // context
    windows = flat[: count * context].reshape(count, context).copy()
    if start_token is not None:
        windows[:, 0] = start_token
    if closing_token is not None:
        windows[:, -1] = closing_token
    return windows


def evaluation_windows(
    ids: Sequence[int] | Ids,
    context: int,
    start_token: int | None,
    *,
    max_tokens: int | None,
    source: str,
    closing_token: int | None = None,
) -> Ids:
    """The windows (windows, context) of a text of token `ids`, at most `max_tokens` tokens of it.

    Raises EvaluationError when fewer than two windows come out, saying how many tokens there are and are needed.
    """
    if context < SMALLEST_CONTEXT:
        raise EvaluationError(f"a context of {context} tokens is too small; use at least {SMALLEST_CONTEXT}.")
    flat = np.asarray(ids, dtype=np.int64)
    if max_tokens is not None:
        flat = flat[: max(max_tokens - (start_token is not None), 0)]
    windows = cut_windows(flat, context, start_token, closing_token)
    if len(windows) >= FEWEST_WINDOWS:
        return windows
    have = flat.size + (start_token is not None)
    limit = f" (max_tokens={max_tokens})" if max_tokens is not None else ""
    smaller = have // FEWEST_WINDOWS
    remedy = f", or a context of at most {smaller}" if smaller >= SMALLEST_CONTEXT else ""
    raise EvaluationError(
        f"{source}: too short to evaluate: {have} tokens{limit}, but {FEWEST_WINDOWS} windows of {context} need "
        f"{FEWEST_WINDOWS * context}; give a longer text{remedy}."
    )
