"""`fewbits formats`: the command over `fewbits.formats.describe`."""

from __future__ import annotations

import click


@click.command("formats")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else there.")
def command(names: tuple[str, ...], as_json: bool) -> None:
    """List the number formats by family: bits per weight, span, equation, readers and when to use each.

    With a NAME, or several, everything about each: its bytes as a drawing, range, error bound and source.
    """
    from fewbits import formats
    from fewbits.cli.output import print_json, print_tables

    described = [formats.describe(name) for name in names or formats.FORMATS]
    if as_json:
        print_json({"formats": [d.to_json() for d in described]})
        return
    from fewbits.reporting.format_tables import family_tables, format_details

    print_tables(format_details(described) if names else family_tables(described))
