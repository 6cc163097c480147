"""`fewbits qat`: the command over `fewbits.qat`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fewbits.cli.training_options import data_options, keeping_options, settings_options


@click.command("qat")
@click.argument("model")
@click.option("-o", "--output", required=True, metavar="OUT", type=click.Path(path_type=Path), help="File to write.")
@click.option("--to", required=True, metavar="RECIPE", help="A format, or a recipe's name or TOML file.")
@click.option("--tensor", "tensors", multiple=True, metavar="PATTERN=FORMAT", help="Another format; repeatable.")
@click.option("--begin", metavar="FILE", help="A model quantized in these formats to begin at  [default: the nearest]")
@click.option("--labels", type=float, default=0.0, show_default=True, metavar="SHARE", help="Of the text's own loss.")
@click.option("--temperature", type=float, default=1.0, show_default=True, metavar="T", help="Of both models' answers.")
@click.option("--dialect", metavar="NAME", help="How a model directory lays out matrices  [default: our own]")
@data_options
@settings_options(1e-4)
@keeping_options
@click.pass_context
def command(ctx: click.Context, /, model: str, output: Path, **options: Any) -> None:
    """Train MODEL in the formats of a RECIPE until it answers as before (a model directory, a GGUF file, a hub id).

    OUT ends in .gguf, or without an ending is a model directory. The teacher is MODEL as it is; the loss is the KL
    divergence of its answers from the student's. What is written are the numbers that were trained, none rounded again.
    A run that was broken off goes on with --resume, to the same losses.
    """
    from fewbits.cli.trained import run_training
    from fewbits.training.teaching import qat

    run_training(ctx, qat, model, output, options)
