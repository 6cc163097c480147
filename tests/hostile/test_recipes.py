"""Wrong recipes, overrides and importance matrices at the command line: one sentence, exit code 2, nothing written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hostile.test_cli import assert_refused, contents, fewbits
from references.imatrices import dat

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder for the output."""
    (tmp_path / "output").mkdir()
    return tmp_path / "output"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tensor", "blk.*.ffn_down"], ["'blk.*.ffn_down'", "PATTERN=FORMAT"]),
        (["--tensor", "blk.*.ffn_down=Q6_Q"], ["'Q6_Q'", "did you mean", "'Q6_K'"]),
        (["--tensor", "blk.*.ffn_dwn=Q6_K"], ["matches no tensor", "'blk.*.ffn_down'"]),
        (["--tensor", "blk.99.*=Q6_K"], ["matches no tensor", "Known: token_embd"]),
        (["--tensor", "*norm=Q6_K"], ["keeps in 16 or 32 bits"]),
        (["--tensor", "*=Q6_K", "--tensor", "*=Q5_K"], ["'*' is given twice"]),
        (["--tensor", "\x1b[2J\n=Q6_K"], ["matches no tensor", "\\x1b[2J"]),
        (["--to", "no/such.toml"], ["no/such.toml", "does not exist"]),
        (["--to", "no/such"], ["unknown recipe 'no/such'"]),
        (["--importance", "no/such.gguf"], ["no/such.gguf", "does not exist"]),
        (["--importance", "."], ["directory"]),
        (["--importance", str(GOLDEN / "manifest.json")], ["manifest.json", "no importance matrix"]),
    ],
    ids=lambda value: " ".join(value[:2]) if value[0].startswith("--") else "",
)
def test_wrong_arguments(arguments: list[str], words: list[str], pocket: Path, folder: Path) -> None:
    done = fewbits("quantize", pocket, "-o", folder / "o.gguf", *arguments)

    assert_refused(done, *words)
    assert contents(folder) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["no [[rule]]"]),
        ("[[rule]\n", ["mine.toml is no recipe", "line 1"]),
        ('extend = "Q4_K_M"\n[[rule]]\nmatch = "blk.*.ffn_down"\nformat = "Q6_Q"\n', ["line 4", "'Q6_Q'", "'Q6_K'"]),
        ('extend = "Q4_K_M"\n[[rule]]\nmatch = "blk.*.ffn_dwn"\nformat = "Q6_K"\n', ["line 2", "'blk.*.ffn_down'"]),
        ('extend = "mine"\n', ["line 1", "unknown recipe 'mine'"]),
        ('[[rule]]\nkinds = ["output"]\nformat = "Q6_K"\n', ["no rule for tensor"]),
        ('[[rule]]\nformat = "Q6_K"\nweight = 3\n', ["line 3", "'weight'"]),
        ('file_type = "MOSTLY_X"\n[[rule]]\nformat = "Q6_K"\n', ["line 1", "'MOSTLY_X'"]),
        ("x = " + "[" * 30_000, ["mine.toml is no recipe"]),
        ("# " + "x" * 100_000, ["larger than"]),
    ],
)
def test_wrong_recipes(text: str, words: list[str], pocket: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")

    done = fewbits("quantize", pocket, "-o", folder / "o.gguf", "--to", tmp_path / "mine.toml")

    assert_refused(done, "mine.toml" if "no rule for" not in words[0] else "mine", *words)
    assert contents(folder) == []


def test_a_recipe_that_is_no_text(pocket: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(b"\xff\xfe\x00")

    assert_refused(fewbits("quantize", pocket, "-o", folder / "o.gguf", "--to", tmp_path / "mine.toml"), "UTF-8")
    assert_refused(fewbits("quantize", pocket, "-o", folder / "o.gguf", "--to", folder / "x.toml"), "does not exist")


@pytest.mark.parametrize("end", [3, 10, 30, 2000])
def test_a_truncated_importance_matrix(end: int, pocket: Path, folder: Path, tmp_path: Path) -> None:
    for ending in ("gguf", "dat"):
        damaged = tmp_path / f"imatrix.{ending}"
        damaged.write_bytes((GOLDEN / f"pocket.imatrix.{ending}").read_bytes()[:end])

        assert_refused(fewbits("quantize", pocket, "-o", folder / "o.gguf", "--importance", damaged), damaged.name)
    assert contents(folder) == []


def test_an_importance_matrix_of_another_model(pocket: Path, folder: Path, tmp_path: Path) -> None:
    import numpy as np

    ones = np.ones(64, np.float32)
    (tmp_path / "i.dat").write_bytes(dat({"blk.0.attn_q.weight": (1, ones)}))
    assert_refused(
        fewbits("quantize", pocket, "-o", folder / "o.gguf", "--importance", tmp_path / "i.dat"), "another model"
    )
    (tmp_path / "j.dat").write_bytes(dat({"\x1b[2J": (1, ones)}))
    done = fewbits("quantize", pocket, "-o", folder / "o.gguf", "--importance", tmp_path / "j.dat")
    assert_refused(done, "another one", "\\x1b[2J")


def test_changes_are_in_the_preview_and_its_json(pocket: Path, folder: Path) -> None:
    arguments = ["quantize", pocket, "-o", folder / "o.gguf", "--dry-run", "--tensor", "blk.*.ffn_down=q6_k"]
    arguments += ["--importance", GOLDEN / "pocket.imatrix.dat"]

    tables, as_json = fewbits(*arguments), fewbits(*arguments, "--json")

    assert "blk.*.ffn_down=Q6_K (4 tensors)" in tables.stdout
    assert "measured on 8 chunks of manual.txt" in " ".join(tables.stdout.split())
    preview = json.loads(as_json.stdout)
    assert preview["overrides"] == ["blk.*.ffn_down=Q6_K"]
    assert preview["importance"]["entries"] == 28
    assert contents(folder) == []
