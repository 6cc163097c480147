"""The tables say what the data says, at every width, whatever is in a name."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from rich.console import Console

from fewbits.evaluation.compare import Comparison
from fewbits.evaluation.metrics import Estimate
from fewbits.inspection import inspect
from fewbits.reporting import tables
from fewbits.reporting.inspection_tables import inspection_tables
from references import records


def drawn(renderables: list[object], width: int = 120) -> str:
    console = Console(width=width, record=True, file=open_nothing(), color_system=None)
    for renderable in renderables:
        console.print(renderable)
    return console.export_text()


def open_nothing() -> object:
    import io

    return io.StringIO()


def test_a_preview_names_formats_fallbacks_notes_and_choices(tmp_path: Path) -> None:
    text = drawn(tables.preview_tables(records.preview(tmp_path / "m.gguf"), choices=["--method nearest"]))

    for expected in (
        "Q6_K",
        "Q4_K",
        "6.562",
        "layer.0.odd.weight -> Q8_0: 96 columns",
        "Note: lm_head",
        "--method nearest",
    ):
        assert expected in text


def test_a_result_names_size_share_error_verification_card_and_hash(tmp_path: Path) -> None:
    card = tmp_path / "m.card.json"
    text = drawn(tables.record_tables(records.record(tmp_path / "m.gguf", card)), width=300)

    for expected in (
        str(card),
        "cd" * 32,
        "times smaller",
        "7.00%",
        "exact",
        "decoded again",
        "130 MB",
        "94.2% of the",
    ):
        assert expected in text


def test_only_the_worst_tensors_are_listed_and_exact_ones_are_not(tmp_path: Path) -> None:
    text = drawn(tables.record_tables(records.record(tmp_path / "m.gguf", tmp_path / "c")))
    worst = text.split("Largest errors")[1].split("Result")[0]

    assert worst.index("attn_q") < worst.index("token_embd") < worst.index("odd")
    assert "output_norm" not in worst


def test_many_fallbacks_are_cut_and_counted(tmp_path: Path) -> None:
    plan = records.preview(tmp_path / "m.gguf")
    odd = [dataclasses.replace(plan.tensors[2], name=f"odd.{n}") for n in range(25)]

    text = drawn(tables.preview_tables(dataclasses.replace(plan, tensors=tuple(odd))))

    assert "odd.19" in text
    assert "odd.20" not in text
    assert "and 5 more" in text


@pytest.mark.parametrize("width", [20, 60, 80, 200])
def test_no_width_breaks_a_table(width: int, tmp_path: Path) -> None:
    record = records.record(tmp_path / "m.gguf", tmp_path / "c")

    lines = drawn([*tables.preview_tables(record.preview), *tables.record_tables(record)], width).splitlines()

    assert max(len(line) for line in lines) <= width


def test_a_hostile_name_drives_neither_terminal_nor_markup(tmp_path: Path) -> None:
    plan = records.preview(tmp_path / "m.gguf")
    evil = dataclasses.replace(plan.tensors[2], name="[red]x[/red]\x1b]0;owned\x07", fallback="\x1b[2J")

    text = drawn(tables.preview_tables(dataclasses.replace(plan, tensors=(evil,), notes=("\x1b[31m",))))

    assert "\x1b" not in text
    assert "[red]x[/red]" in text


def test_an_inspection_lists_tensors_formats_and_metadata(pocket: Path) -> None:
    text = drawn(inspection_tables(inspect(pocket)))

    for expected in (
        "model.embed_tokens.weight",
        "4096 x 256",
        "BF16",
        "LlamaForCausalLM",
        "16.000",
        "8.40 MB",
        "100%",
    ):
        assert expected in text


def test_a_comparison_shows_figures_with_their_intervals() -> None:
    comparison = Comparison(
        original="a",
        quantized="b.gguf",
        text="t.txt",
        text_sha256="0" * 64,
        context=512,
        windows=9,
        tokens=2295,
        perplexity_original=28.5734,
        perplexity_quantized=29.25,
        perplexity_ratio=Estimate(1.0237, 0.001, 1.021, 1.026),
        kl_divergence_mean=0.0212,
        kl_divergence=Estimate(0.0212, 0.0005, 0.02, 0.0224),
        kl_divergence_median=0.01,
        kl_divergence_p99=0.2,
        kl_divergence_p999=0.4,
        kl_divergence_max=1.25,
        top1_agreement=0.93,
        top1=Estimate(0.93, 0.01, 0.91, 0.95),
        bytes_original=8_397_312,
        bytes_quantized=3_000_000,
        bits_per_weight=5.1,
        dtype="float32",
        protocol="windows",
        notes=("The context was shrunk.",),
        versions={},
    )

    text = drawn(tables.comparison_tables(comparison))

    for expected in ("28.5734", "x 1.0237 (95%: 1.0210 to 1.0260)", "0.02120", "93.00% (95%: 91.00% to 95.00%)"):
        assert expected in text
    for expected in ("8.40 MB", "3.00 MB", "35.7%", "Note: The context was shrunk.", "2295 tokens", "5.100"):
        assert expected in text
