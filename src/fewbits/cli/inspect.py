"""`fewbits inspect`: the command over `fewbits.inspect`."""

from __future__ import annotations

import click


@click.command("inspect")
@click.argument("file")
@click.option("--revision", metavar="NAME", help="Branch, tag or commit of a hub id  [default: main]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else there.")
def command(file: str, revision: str | None, as_json: bool) -> None:
    """List the tensors, formats, sizes and metadata of FILE: GGUF, safetensors, ONNX, or a Hugging Face directory.

    Of a hub id (org/name) headers alone are fetched.
    """
    from fewbits.cli.output import print_json, print_tables
    from fewbits.inspection import inspect

    result = inspect(file, revision=revision)
    if as_json:
        print_json(result.to_json())
    else:
        from fewbits.reporting.inspection_tables import inspection_tables

        print_tables(inspection_tables(result))
