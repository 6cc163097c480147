"""`fewbits.run`: a model continues a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewbits.engine.opening import checked_stops, open_to_write, text_of
from fewbits.engine.sampling import Sampling
from fewbits.engine.schema import JSONSchema, parse_schema, read_schema
from fewbits.engine.writing import Ask, Written
from fewbits.errors import EngineError
from fewbits.memory import peak_resident_memory
from fewbits.request import Progress, silent

TOKENS = 256
"""Written where nobody says how many."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a text is written with, every default filled in."""

    tokens: int
    context: int
    cache: str
    exact: bool
    mmap: bool
    threads: int | None
    stop: tuple[str, ...]
    sampling: Sampling

    def to_json(self) -> dict[str, Any]:
        """Every setting by the name of its option."""
        own = {name: getattr(self, name) for name in ("tokens", "context", "cache", "exact", "mmap", "threads")}
        return {**own, "stop": list(self.stop), **self.sampling.to_json()}


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What a model wrote after a prompt, how fast, and with which settings."""

    model: str
    architecture: str
    written: Written
    settings: Settings
    load_seconds: float
    peak_memory: int
    """Bytes: the largest resident size of this process, mapped weights included."""

    @property
    def text(self) -> str:
        """The text, without the prompt."""
        return self.written.text

    def to_json(self) -> dict[str, Any]:
        """One JSON object: text, tokens, why it ended, speeds, memory, settings."""
        written = self.written
        return {
            "model": self.model,
            "architecture": self.architecture,
            "text": written.text,
            "tokens": len(written.tokens),
            "ended": written.ended,
            "stop_string": written.stop_string,
            "complete": written.complete,
            "prompt_tokens": written.prompt_tokens,
            "prompt_tokens_per_second": written.prompt_speed,
            "tokens_per_second": written.speed,
            "load_seconds": self.load_seconds,
            "peak_memory_bytes": self.peak_memory,
            "settings": self.settings.to_json(),
        }


def run(
    model: str | Path,
    prompt: str,
    *,
    tokens: int | None = None,
    sampling: Sampling | None = None,
    stop: Sequence[str] = (),
    json_schema: str | Path | dict[str, Any] | None = None,
    context: int | None = None,
    cache: str | None = None,
    exact: bool = False,
    mmap: bool = False,
    threads: int | None = None,
    on_settings: Callable[[Settings], None] = lambda _settings: None,
    on_text: Callable[[str], None] = lambda _piece: None,
    progress: Progress = silent,
) -> Completion:
    """What `model` (a GGUF file, a model directory, a hub id) writes after `prompt`, at most `tokens` tokens.

    The context is as large as prompt and answer need where it is not given. Text reaches `on_text` as soon as it is
    sure, and an interrupt ends it (`written.ended`); before it, `progress` is told how far weights are repacked and the
    prompt is read. EngineError, one sentence, for whatever cannot be done.
    """
    choice, schema, stops = sampling or Sampling(), _schema(json_schema, stop), checked_stops(stop)
    if not text_of(prompt, "the prompt"):
        raise EngineError("the prompt is empty; give some text to continue.")
    opened = open_to_write(model, threads=threads, exact=exact, mapped=mmap)
    ids = opened.vocabulary.encode(prompt)
    size, count = _sizes(len(ids), tokens, context, opened.model.context)
    writer = opened.writer(size, cache, progress)
    constraint = schema.constraint(opened.vocabulary, opened.model.vocabulary) if schema else None
    settings = Settings(
        tokens=count,
        context=size,
        cache=opened.model.cached_as(cache),
        exact=exact,
        mmap=mmap,
        threads=threads,
        stop=stops,
        sampling=choice,
    )
    writer.check(ids)
    on_settings(settings)
    ask = Ask(prompt=ids, count=count, sampler=choice.sampler(), stops=stops, constraint=constraint)
    return Completion(
        model=str(model),
        architecture=opened.model.architecture,
        written=writer.write(ask, on_text, progress),
        settings=settings,
        load_seconds=opened.seconds,
        peak_memory=peak_resident_memory(),
    )


def _schema(stated: str | Path | dict[str, Any] | None, stop: Sequence[str]) -> JSONSchema | None:
    if stated is None:
        return None
    if stop:
        raise EngineError("a stop string would cut off JSON of a schema; leave out --stop or --json-schema.")
    return parse_schema(stated) if isinstance(stated, dict) else read_schema(stated)


def _sizes(prompt: int, tokens: int | None, context: int | None, limit: int) -> tuple[int, int]:
    """Context and number of tokens to write; EngineError where a number that was asked for does not fit."""
    wanted = TOKENS if tokens is None else tokens
    if wanted < 1:
        raise EngineError(f"{wanted} tokens are to be written; ask for at least one.")
    room = limit if context is None else context
    if tokens is not None and prompt + tokens > room:
        whose = "the model was made for" if context is None else "the context has room for"
        raise EngineError(
            f"the prompt has {prompt} tokens and {tokens} are to be written, and {whose} {room} in all; "
            "give a shorter prompt, fewer --tokens or a larger --context."
        )
    size = min(prompt + wanted, limit) if context is None else context
    return max(size, 2), max(min(wanted, size - prompt), 1)
