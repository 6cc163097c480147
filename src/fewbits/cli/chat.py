"""`fewbits chat`: the command over `fewbits.chat`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import click

from fewbits.cli.engine_options import chosen_for_you, engine_options, sampling_of, sampling_options

if TYPE_CHECKING:
    from fewbits.engine.chat import Conversation
    from fewbits.engine.writing import Written

INTERRUPTED = 130
"""The exit code of a program that an interrupt ended."""


@click.command("chat")
@click.argument("model")
@click.option("--system", metavar="TEXT", help="What the model is told before the conversation.")
@click.option("--template", metavar="NAME", help="chatml, llama3, ..., or a file  [default: the model's own]")
@click.option("--tokens", type=click.IntRange(min=1), metavar="N", help="Most tokens of a reply  [default: no limit]")
@sampling_options
@engine_options
@click.option("-q", "--quiet", is_flag=True, help="Say nothing about the replies, only write them.")
@click.pass_context
def command(ctx: click.Context, /, model: str, quiet: bool, **options: Any) -> None:
    """Talk with MODEL (a GGUF file, a model directory, or a hub id).

    Each line is a message; /reset begins anew, /exit or the end of the input ends. Ctrl-C ends a reply. The model's
    cache remembers the conversation: of each message only what is new is read.
    """
    from fewbits.cli.progress import progress_report
    from fewbits.cli.streamed import note
    from fewbits.engine.chat import chat

    try:
        choice = sampling_of(options)
        with progress_report("prepare", quiet=quiet) as progress:
            conversation = chat(model, sampling=choice, progress=progress, **options)
        if not quiet:
            settings = {"tokens": conversation.tokens, "context": conversation.writer.session.context}
            settings |= {"cache": conversation.cache, "threads": options["threads"]} | choice.to_json()
            note(f"chosen for you: {chosen_for_you(ctx, settings)}")
            note("/reset begins anew, /exit ends, Ctrl-C ends a reply.")
        _talk(conversation, quiet=quiet)
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        ctx.exit(INTERRUPTED)


def _talk(conversation: Conversation, *, quiet: bool) -> None:
    """Answer line by line until the input or the user ends it."""
    while (line := _next_line()) is not None:
        order = _ORDERS.get(line.strip())
        if order is not None:
            if order(conversation):
                return
        elif line.strip():
            _answer(conversation, line, quiet=quiet)


def _answer(conversation: Conversation, line: str, *, quiet: bool) -> None:
    """Write one reply; in a terminal a message that is refused, or a reply that is broken off, ends nothing else."""
    from fewbits.cli.failure import one_line
    from fewbits.cli.streamed import Streamed, note, until_text
    from fewbits.errors import EngineError

    streamed = Streamed()
    try:
        with until_text(streamed, quiet=quiet) as (on_text, progress):
            written = conversation.say(line, on_text, progress)
    except EngineError as error:
        if not sys.stdin.isatty():
            raise
        note(one_line(str(error)))
        return
    streamed.end()
    if not quiet:
        note(_summary(written))
    if written.ended == "interrupted" and not sys.stdin.isatty():
        raise KeyboardInterrupt


def _next_line() -> str | None:
    """What the user says next; None at the end of the input."""
    from fewbits.engine.opening import decoded

    if sys.stdin.isatty():
        try:
            return input("> ")
        except EOFError:
            sys.stdout.write("\n")
            return None
    raw = sys.stdin.buffer.readline()
    return decoded(raw, "stdin").rstrip("\r\n") if raw else None


def _reset(conversation: Conversation) -> bool:
    from fewbits.cli.streamed import note

    conversation.reset()
    note("a new conversation begins.")
    return False


def _leave(_conversation: Conversation) -> bool:
    return True


_ORDERS: Mapping[str, Callable[[Conversation], bool]] = MappingProxyType({"/reset": _reset, "/exit": _leave})
"""What is no message; whether the conversation is over then."""


def _summary(written: Written) -> str:
    read = written.prompt_tokens - written.reused
    speed = "" if written.speed is None else f" ({written.speed:.1f} tokens/s)"
    numbers = f"{read} tokens read, {written.reused} remembered, {len(written.tokens)} written{speed}"
    return f"{numbers}; ended by: {written.ended}"
