"""Pictures of letters: what terminals and pipes get."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from fewbits import explain, formats
from fewbits.inspection import LayerTotal, inspect
from fewbits.mixes import Difference, Mix
from fewbits.reporting import strips
from fewbits.reporting.explanation_tables import number_tables, tensor_tables
from fewbits.reporting.format_tables import family_tables, format_details
from fewbits.reporting.inspection_tables import LayerStrip, inspection_tables


def drawn(renderables: list[RenderableType], width: int, *, terminal: bool = False) -> str:
    file = io.StringIO()
    console = Console(width=width, file=file, force_terminal=terminal, color_system="truecolor" if terminal else None)
    for renderable in renderables:
        console.print(renderable)
    return file.getvalue()


def layers(count: int) -> list[LayerTotal]:
    return [LayerTotal(n, 1000, 500 + 10 * (n % 7)) for n in range(count)]


def test_a_pipe_gets_the_numbers_and_a_terminal_the_strip() -> None:
    piped, seen = drawn([LayerStrip(layers(8))], 80), drawn([LayerStrip(layers(8))], 80, terminal=True)

    assert "0  4.000" in piped
    assert "6  4.480" in piped
    assert "█" not in piped
    assert "████" in seen
    assert "\x1b[" in seen
    assert "4.480" in seen


@pytest.mark.parametrize("count", [1, 3, 32, 80, 126, 300])
@pytest.mark.parametrize("width", [20, 80, 120])
def test_any_number_of_layers_fits(count: int, width: int) -> None:
    for terminal in (False, True):
        assert max(len(line) for line in plain(drawn([LayerStrip(layers(count))], width, terminal=terminal))) <= width
    assert sum(line.count("4.") for line in plain(drawn([LayerStrip(layers(count))], width))) == count


def plain(text: str) -> list[str]:
    from rich.text import Text

    return Text.from_ansi(text).plain.splitlines()


def test_the_list_shows_every_equation_as_it_is_and_every_use_once() -> None:
    described = [formats.describe(name) for name in formats.FORMATS]
    text = " ".join(drawn(family_tables(described), 200).split())

    for d in described:
        assert f"{d.name} {d.bits_per_weight:.7g}" in text
        assert " ".join(d.equation.split()) in text
        assert text.count(d.when) == len({other.entry for other in described if other.when == d.when})


@pytest.mark.parametrize("width", [20, 60, 80, 200])
def test_no_width_breaks_the_tables(width: int, pocket: Path) -> None:
    described = [formats.describe(name) for name in formats.FORMATS]
    tensor = explain(tensor=f"{pocket}:model.layers.0.mlp.down_proj.weight", formats=["Q4_K", "int8_row_sym"])
    tables = [family_tables(described), format_details(described), number_tables(explain(3.1415, -1e-9))]
    tables += [tensor_tables(tensor), inspection_tables(inspect(pocket))]

    for table in tables:
        assert max(len(line) for line in drawn(table, width).splitlines()) <= width


def test_a_custom_mix_is_told_with_its_tensors_and_hostile_names_are_harmless(pocket: Path) -> None:
    from dataclasses import replace

    differences = tuple(Difference(f"\x1b[2Jblk.{n}", "Q8_0", "Q4_K") for n in range(7))
    text = drawn(inspection_tables(replace(inspect(pocket), mix=Mix("custom", "Q4_K_M", "Q4_K_M", differences))), 100)

    assert "custom: the file says Q4_K_M, and 7 tensors differ from Q4_K_M" in text
    assert "is Q8_0; Q4_K_M has Q4_K" in text
    assert "and 2 more" in text
    assert "\x1b" not in text


def test_histograms_show_what_is_not_zero() -> None:
    assert strips.columns([1000, 1, 0], 3) == ["█▁ "]
    assert strips.fitting(360, 69) == 60
    assert [len(line) for line in strips.columns(list(range(360)), 60, 4)] == [60] * 4
