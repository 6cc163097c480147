"""`fewbits finetune`: the command over `fewbits.finetune`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fewbits.cli.training_options import data_options, keeping_options, settings_options


@click.command("finetune")
@click.argument("model")
@click.option(
    "-o", "--output", required=True, metavar="DIR", type=click.Path(path_type=Path), help="Folder of the adapter."
)
@click.option(
    "--base", metavar="RECIPE", help="Quantize the base while it loads: nf4, Q4_K_M, ...  [default: as it is]"
)
@click.option(
    "--lora", type=click.IntRange(min=1), default=16, show_default=True, metavar="RANK", help="Of the adapter."
)
@click.option("--alpha", type=float, metavar="X", help="The adapter counts alpha / rank times  [default: the rank]")
@click.option("--dropout", type=float, default=0.0, show_default=True, metavar="SHARE", help="Of the adapter's inputs.")
@click.option(
    "--targets", multiple=True, metavar="NAME", help="Modules that get one; repeatable  [default: all linears]"
)
@click.option("--merge", metavar="OUT", type=click.Path(path_type=Path), help="Write the base with the adapter in it.")
@click.option(
    "--merge-to", default="BF16", show_default=True, metavar="RECIPE", help="In which formats --merge writes."
)
@click.option(
    "--gguf", metavar="FILE", type=click.Path(path_type=Path), help="Write the adapter for llama.cpp's --lora."
)
@data_options
@settings_options(2e-4)
@keeping_options
@click.pass_context
def command(ctx: click.Context, /, model: str, output: Path, targets: tuple[str, ...], **options: Any) -> None:
    """Train an adapter (LoRA) on MODEL (a model directory in any dialect, a GGUF file, or a hub id).

    The base stays as it is, packed; DIR gets the adapter as peft's, and fewbits_training.json with all that was done.
    FILE has one JSON object per line with a text, with messages (only answers are learned) or with a prompt and a
    completion, or is a text. A run that was broken off goes on with --resume, to the same losses.
    """
    from fewbits.cli.trained import run_training
    from fewbits.training.finetuning import finetune

    run_training(ctx, finetune, model, output, {"targets": list(targets) or "all-linear", **options})
