"""The commands, found by name and imported when they are used."""

from __future__ import annotations

from importlib import import_module

import click

from fewbits.cli.surroundings import calm

COMMANDS = {
    "quantize": "Make a model smaller, verify the result and say what it cost.",
    "convert": "Write a model in another container or dialect, rounding nothing.",
    "finetune": "Train an adapter (LoRA) on a model whose matrices stay packed, in any format.",
    "qat": "Train a model in the formats it will be stored in, until it answers as before.",
    "compare": "Measure on a text how far two models are apart: perplexity, KL divergence; of encoders, cosines.",
    "run": "Let a model continue a text, natively.",
    "chat": "Talk with a model, natively.",
    "bench": "Measure how fast a model runs here: tokens per second, memory, energy, and what memory allows at most.",
    "push": "Upload a finished output to the Hugging Face hub, with a model card.",
    "inspect": "List a file's tensors, formats, sizes and metadata.",
    "formats": "List the number formats: bits per weight, equation, layout, and when to use which.",
    "explain": "Show what formats make of numbers, or of a tensor: bits, what comes back, the error.",
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


def run(arguments: list[str]) -> int:
    """Run one command; returns its exit code, and raises whatever goes wrong."""
    # Not cli.main(): it turns an interrupt and a closed pipe into words and codes of its own.
    try:
        with calm(), cli.make_context("fewbits", arguments) as context:
            cli.invoke(context)
    except click.exceptions.Exit as finished:  # --help and --version end this way
        return finished.exit_code
    return 0
