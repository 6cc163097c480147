"""A model opened to write: engine, vocabulary, a session of the size that is needed; and text as users give it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fewbits.engine.stream import StopStrings
from fewbits.engine.vocabulary import Vocabulary, read_vocabulary
from fewbits.engine.writing import Writer
from fewbits.errors import EngineError
from fewbits.request import Progress, silent

if TYPE_CHECKING:
    from fewbits.engine import Model


@dataclass(frozen=True)
class Opened:
    """A loaded model, its tokens, and the seconds that both took."""

    model: Model
    vocabulary: Vocabulary
    seconds: float

    def writer(self, context: int, cache: str | None, progress: Progress = silent) -> Writer:
        """A new sequence of at most `context` tokens, weights repacked; EngineError for more than it was made for."""
        if not 2 <= context <= self.model.context:
            raise EngineError(
                f"{self.model.path}: a context of {context} tokens is asked for, and the model was made for 2 to "
                f"{self.model.context}; choose --context within that."
            )
        session = self.model.session(context=context, cache=cache)
        self.model.pack(progress)
        return Writer(session, self.vocabulary, self.model.vocabulary)


def open_to_write(source: str | Path, *, threads: int | None, exact: bool, mapped: bool) -> Opened:
    """The model at a path or of a hub id, ready to write; a FewbitsError, one sentence, where it cannot be."""
    from fewbits.engine import load
    from fewbits.hub.locating import locate

    path = Path(locate(str(source)).path).expanduser()
    if not path.exists():
        raise EngineError(
            f"{source}: there is no such model; give a GGUF file, a model directory, or a hub id (org/name)."
        )
    began = time.perf_counter()
    vocabulary = read_vocabulary(path)
    model = load(path, threads=threads, exact=exact, mapped=mapped)
    return Opened(model, vocabulary, time.perf_counter() - began)


def text_of(given: str, what: str) -> str:
    """`given` if it is text that can be encoded; EngineError where it has bytes that were no UTF-8."""
    try:
        given.encode("utf-8")
    except UnicodeEncodeError as error:
        raise EngineError(
            f"{what} is no UTF-8 text (from character {error.start} on); convert it to UTF-8, or set a UTF-8 locale."
        ) from None
    return given


def checked_stops(stop: Sequence[str]) -> tuple[str, ...]:
    """Stop strings; EngineError where one is empty or no text."""
    stops = tuple(text_of(each, "a stop string") for each in stop)
    StopStrings(stops)
    return stops


def read_prompt(path: Path) -> str:
    """The text in a file, as it is; EngineError where it is missing or not UTF-8."""
    if not path.is_file():
        raise EngineError(f"{path}: there is no such file with a prompt.")
    return decoded(path.read_bytes(), str(path))


def decoded(raw: bytes, what: str) -> str:
    """Bytes as text; EngineError where they are not UTF-8."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise EngineError(f"{what}: not UTF-8 text (byte {error.start}); convert it to UTF-8 first.") from None
