"""`fewbits run`: the command over `fewbits.run`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fewbits.cli.engine_options import chosen_for_you, engine_options, sampling_of, sampling_options

if TYPE_CHECKING:
    from fewbits.engine.run import Completion, Settings

INTERRUPTED = 130
"""The exit code of a program that an interrupt ended."""


@click.command("run")
@click.argument("model")
@click.option("-p", "--prompt", metavar="TEXT", help="Text to continue; - reads it from stdin.")
@click.option("--prompt-file", metavar="FILE", type=click.Path(path_type=Path), help="Text to continue, from a file.")
@click.option("--tokens", type=int, metavar="N", help="Most tokens to write  [default: 256, or what there is room for]")
@sampling_options
@click.option("--json-schema", metavar="FILE", help="Write JSON of this schema and nothing else.")
@engine_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else there.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing about the text, only write it.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    model: str,
    prompt: str | None,
    prompt_file: Path | None,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Let MODEL (a GGUF file, a model directory, or a hub id) continue a text.

    The text appears on stdout as it is written; what was chosen by default, and how fast it went, on stderr. Ctrl-C
    ends the text, and what was written stays.
    """
    from fewbits.cli.output import print_json, stdout_reserved
    from fewbits.cli.streamed import Streamed, note, until_text
    from fewbits.engine.run import run

    def tell(settings: Settings) -> None:
        if not (as_json or quiet):
            note(f"chosen for you: {chosen_for_you(ctx, settings.to_json())}")

    try:
        choice, text = sampling_of(options), _prompt(prompt, prompt_file)
        if as_json:
            with stdout_reserved():
                result = run(model, text, sampling=choice, **options)
            print_json(result.to_json())
        else:
            streamed = Streamed()
            with until_text(streamed, quiet=quiet) as (on_text, progress):
                result = run(
                    model, text, sampling=choice, on_settings=tell, on_text=on_text, progress=progress, **options
                )
            streamed.end()
        if not (as_json or quiet):
            note(_summary(result))
    except KeyboardInterrupt:  # before there was any text
        note("interrupted.")
        ctx.exit(INTERRUPTED)
    if result.written.ended == "interrupted":
        ctx.exit(INTERRUPTED)


def _prompt(given: str | None, file: Path | None) -> str:
    """The text that the user gave in one of three ways; EngineError where it is none of them, or two."""
    from fewbits.engine.opening import decoded, read_prompt
    from fewbits.errors import EngineError

    if (given is None) == (file is None):
        raise EngineError("give the text to continue either by -p TEXT (or -p - for stdin) or by --prompt-file FILE.")
    if file is not None:
        return read_prompt(file)
    return decoded(sys.stdin.buffer.read(), "stdin") if given == "-" else str(given)


def _summary(result: Completion) -> str:
    written = result.written
    unfinished = "" if written.complete else ", so that the JSON is unfinished"
    return (
        f"prompt of {written.prompt_tokens} tokens{_speed(written.prompt_speed)}, {len(written.tokens)} written"
        f"{_speed(written.speed)}; ended by: {written.ended}{unfinished}; loaded in {result.load_seconds:.2f} s, "
        f"peak memory {result.peak_memory / 1e6:.0f} MB"
    )


def _speed(tokens_per_second: float | None) -> str:
    return "" if tokens_per_second is None else f" ({tokens_per_second:.1f} tokens/s)"
