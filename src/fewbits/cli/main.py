"""`fewbits`: finds the command, runs it, and turns whatever goes wrong into one sentence and exit code 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

import click

from fewbits.cli.failure import FAILURE, complain, describe

COMMANDS = {
    "quantize": "Make a model smaller, verify the result and say what it cost.",
    "compare": "Measure perplexity, KL divergence and agreement of two models on a text.",
    "inspect": "List a file's tensors, formats, sizes and metadata.",
}


class LazyCommands(click.Group):
    """A group whose commands are imported when they are used, so that `--help` stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The command names, in the order in which a user meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module named after the command; None when there is none."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"fewbits.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _print_version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted:
        import fewbits

        click.echo(f"fewbits {fewbits.__version__}")
        ctx.exit()


@click.group(cls=LazyCommands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version and exit.",
)
def cli() -> None:
    """Make AI models small by quantization, and prove what it cost."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, or 2 after one sentence on stderr."""
    _tolerate_any_encoding()
    try:
        code = _run(list(sys.argv[1:] if arguments is None else arguments) or ["--help"])
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has left (`| head`), and there is nobody to tell
        _abandon_stdout()
        return FAILURE
    except BaseException as error:  # the last place where a traceback can be kept from the user
        complain(describe(error), error)
        _abandon_stdout()
        return FAILURE
    return code


def _abandon_stdout() -> None:
    """Keep the flush at exit from failing a second time on what a full disk or a closed pipe did not take."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(arguments: list[str]) -> int:
    from fewbits.cli.surroundings import calm

    # Not cli.main(): it turns an interrupt and a closed pipe into words and codes of its own.
    try:
        with calm(), cli.make_context("fewbits", arguments) as context:
            cli.invoke(context)
    except click.exceptions.Exit as finished:  # --help and --version end this way
        return finished.exit_code
    return 0


def _tolerate_any_encoding() -> None:
    """Print file names that the terminal's encoding lacks as escapes instead of failing on them."""
    import io

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
