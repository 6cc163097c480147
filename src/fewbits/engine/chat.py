"""`fewbits.chat`: a conversation with a model, whose cache remembers what was said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from fewbits.engine.conversation import Message, Template, choose_template
from fewbits.engine.opening import checked_stops, open_to_write, text_of
from fewbits.engine.sampling import Sampling
from fewbits.engine.spoken import Spoken
from fewbits.engine.writing import Ask, Writer, Written
from fewbits.errors import EngineError
from fewbits.request import Progress, silent

CONTEXT = 4096
"""Tokens that a conversation has room for where nobody says how many, and the model allows it."""


class Conversation:
    """Turns of a user and a model. Of each prompt only what the cache does not hold yet is read."""

    def __init__(
        self,
        writer: Writer,
        template: Template,
        sampling: Sampling,
        *,
        system: str | None,
        stop: Sequence[str],
        tokens: int,
        cache: str,
    ) -> None:
        self.writer = writer
        self.template = template
        self.sampling = sampling
        self.tokens = tokens
        """Most tokens of a reply."""
        self.cache = cache
        """What keys and values are kept in."""
        self.stops = (*template.stops, *stop)
        self._sampler = sampling.sampler()
        self._opening = [Message("system", text_of(system, "the system prompt"))] if system else []
        self.messages = list(self._opening)
        self._spoken = Spoken()

    def say(
        self, text: str, on_text: Callable[[str], None] = lambda _piece: None, progress: Progress = silent
    ) -> Written:
        """The model's reply to `text`, which is part of the conversation from then on, interrupted or not.

        EngineError where the template refuses it or the context has no room: the conversation is as it was then.
        """
        if not text.strip():
            raise EngineError("an empty message was said; write something.")
        asked = [*self.messages, Message("user", text_of(text, "the message"))]
        rendered = self.template.render(asked)
        prompt = self._spoken.encode(rendered, self.writer.vocabulary)
        if len(prompt) >= self.writer.session.context:
            raise EngineError(
                f"the conversation has {len(prompt)} tokens by now, and the context has room for "
                f"{self.writer.session.context}; begin a new one (/reset), or start with a larger --context."
            )
        strip = self.writer.vocabulary.strips_first_space
        ask = Ask(prompt=prompt, count=self.tokens, sampler=self._sampler, stops=self.stops, strip=strip)
        written = self.writer.write(ask, on_text, progress)
        self.messages = [*asked, Message("assistant", written.text)]
        self._spoken = Spoken(rendered, prompt, written.tokens)
        return written

    def reset(self) -> None:
        """Begin anew, with the same system prompt and the seed's first random number."""
        self.messages, self._spoken = list(self._opening), Spoken()
        self._sampler = self.sampling.sampler()


def chat(
    model: str | Path,
    *,
    system: str | None = None,
    template: str | None = None,
    sampling: Sampling | None = None,
    tokens: int | None = None,
    stop: Sequence[str] = (),
    context: int | None = None,
    cache: str | None = None,
    exact: bool = False,
    mmap: bool = False,
    threads: int | None = None,
    progress: Progress = silent,
) -> Conversation:
    """A conversation with `model` (a GGUF file, a model directory, a hub id), written by its own chat template.

    `template` is a built-in one's name or a file; replies have at most `tokens` tokens, or what the context has room
    for; `progress` is told how far weights are repacked. EngineError, one sentence, where the model has no template or
    cannot be run.
    """
    choice, stops = sampling or Sampling(), checked_stops(stop)
    opened = open_to_write(model, threads=threads, exact=exact, mapped=mmap)
    size = min(CONTEXT, opened.model.context) if context is None else context
    written_by = choose_template(opened.vocabulary, template)
    return Conversation(
        opened.writer(size, cache, progress),
        written_by,
        choice,
        system=system,
        stop=stops,
        tokens=size if tokens is None else tokens,
        cache=opened.model.cached_as(cache),
    )
