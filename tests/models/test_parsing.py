"""Architectures of the user's own: found, used, and refused with the line that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from fewbits.errors import CheckpointError
from fewbits.models import add_architecture, architectures, known
from fewbits.models.parsing import read_architecture

EXAMPLE = Path(__file__).parents[2] / "examples" / "architectures" / "seed_oss.toml"
TEXT = EXAMPLE.read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def only_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that another test added, and nothing left behind."""
    monkeypatch.setattr(known, "_given", {})
    monkeypatch.delenv(known.DIRECTORY, raising=False)


def test_a_file_makes_an_architecture_known() -> None:
    assert "seed_oss" not in {each.name for each in architectures()}
    found = add_architecture(EXAMPLE)
    assert found in architectures()
    assert known.for_config({"architectures": ["SeedOssForCausalLM"]}) is found


def test_a_directory_makes_all_of_its_files_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(known.DIRECTORY, str(EXAMPLE.parent))
    assert known.for_gguf("seed_oss").classes == ("SeedOssForCausalLM",)


def test_ones_own_takes_the_place_of_ours(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(TEXT.replace('name = "seed_oss"', 'name = "llama"', 1))
    add_architecture(tmp_path / "mine.toml")
    assert [each.gguf for each in architectures() if each.name == "llama"] == ["seed_oss"]


def line_of(text: str, part: str) -> int:
    return next(n for n, line in enumerate(text.splitlines(), 1) if part in line)


# What stands there -> what it becomes, and what the sentence says.
FAULTS = [
    ('shape = ["hidden", "ffn"]', 'shape = ["hidden", "ffn"], view = ["ffn + fnn"]', "says 'fnn', which is not known"),
    (
        'shape = ["hidden", "ffn"]',
        'shape = ["hidden", "ffn"], view = ["ffn : ffn"], take = 2',
        "takes part 2 of a side",
    ),
    ('shape = ["hidden", "ffn"]', 'shape = ["hidden", "ffn"], view = ["ffn"], take = "0"', "which is of another kind"),
    (
        'shape = ["hidden", "ffn"]',
        'shape = ["hidden", "ffn"], only = "some"',
        "says 'some', which is not known; known:",
    ),
    ("[defaults]", "[sparse]\nlast = 3\n[defaults]", "says 'last', which is not known; known: first, step, listed"),
    ('norm = "rms"', 'norm = "rmsnorm"', "says 'rmsnorm', which is not known; known: rms, layer"),
    ('norm = "rms"', "norm = 3", "norm has to be a text, and is 3"),
    ("[engine]", '[engine]\nnorm = "rms"\nactivation = "x"\n[told_by]', "there is no gate, which every network needs"),
    ("[engine]", "[engine]\ngates = 1", "says 'gates', which is not known; known: norm"),
    ('gate = "own"', 'scores = 0.5\ngate = "own"', "scores has to be { key, power }, and is 0.5"),
    ('gate = "own"', 'scores = { key = "x", power = "y" }\ngate = "own"', "scores has to be { key, power }"),
    ('before_attention = ["attn_norm"]', 'before_attention = "attn_norm"', "has to be a list of texts"),
    ("[defaults]", '[[needed]]\nkey = "x"\n[defaults]', "what is needed has key, value, where"),
    ('gguf = "seed_oss"', "gguf = 7", "gguf has to be a text, and is 7"),
    ('classes = ["SeedOssForCausalLM"]', 'classes = "SeedOss"', "classes has to be a list of texts"),
    ('rope_types = ["default"]', 'rope_kinds = ["default"]', "rope_kinds is no fact that is known"),
    ("mlp_bias = [false]", "mlp_bias = false", "mlp_bias has to be a list of the values"),
    ('["vocab_size", "uint32"]', '["vocab_size", "uint31"]', "says 'uint31', which is not known; known: uint32"),
    ('["vocab_size", "uint32"]', '["vocab_size", "uint32", "maybe"]', "has to be .configuration key, type"),
    ('shape = ["vocab", "hidden"] }', 'shape = ["vocab", "hiden"] }', "says 'hiden', which is not known; known: vocab"),
    ('shape = ["hidden", "ffn"]', 'shape = ["hidden", "ffn"], order = "rop"', "says 'rop', which is not known"),
    ('shape = ["hidden", "ffn"]', 'shape = ["hidden", "ffn"], add = "1"', "has add = '1', which is of another kind"),
    ('shape = ["hidden", "ffn"]', 'shape = ["hidden", "ffn"], adds = 1.0', "says 'adds', which is not known"),
    ('source = "model.norm.weight", ', "", "has to be a table with source and shape"),
    ('source = "model.norm.weight"', 'source = "model.{layer}.weight"', "have to name the layer both, or neither"),
    (
        'shape = ["hidden", "ffn"]',
        'shape = ["hidden", "ffn"], sources = "x"',
        "has sources = 'x', which is of another kind",
    ),
    (
        'shape = ["hidden", "ffn"]',
        'shape = ["hidden", "ffn"], sources = { a = "x" }',
        "name the layer both, or neither",
    ),
    ('kind = "rows"', 'kind = "row"', "says 'row', which is not known; known: norm, rows, heads"),
    ('head = "lm_head.weight"', "head = 1", "head has to be a text"),
]


SETTLED = [
    ('[[settled]]\nkey = "a"\nvalue = 1\n', "what is settled has key, value, and where"),
    ('[[settled]]\nkey = "a"\nvalue = 1\nwhere = {}\n', "what is settled has key, value, and where"),
    ("[[settled]]\nkey = 1\nvalue = 1\nwhere = { b = 1 }\n", "key has to be a text"),
]


@pytest.mark.parametrize(("added", "sentence"), SETTLED)
def test_what_is_settled_wrongly_is_named(added: str, sentence: str) -> None:
    with pytest.raises(CheckpointError, match=rf"^mine\.toml, line \d+: .*{sentence}"):
        read_architecture(TEXT + added, "mine.toml")


def test_what_other_values_decide() -> None:
    text = TEXT + '[[settled]]\nkey = "a"\nvalue = 1\nwhere = { b = true, c = [2] }\n'
    text += '[[settled]]\nkey = "d"\nvalue = 2\nwhere = { a = 1 }\n'
    found = read_architecture(text, "mine.toml")
    for given, settled in (({"b": True, "c": [2], "a": 0}, {"a": 1, "d": 2}), ({"b": True}, {}), ({"a": 1}, {"d": 2})):
        values = dict(given)
        found.settle(values)
        assert values == {**given, **settled}


@pytest.mark.parametrize(("part", "wrong", "sentence"), FAULTS, ids=lambda value: str(value)[:30])
def test_the_line_that_is_wrong_is_named(part: str, wrong: str, sentence: str) -> None:
    text = TEXT.replace(part, wrong, 1)
    assert text != TEXT
    with pytest.raises(CheckpointError, match=rf"^mine\.toml, line {line_of(TEXT, part)}: .*{sentence}") as caught:
        read_architecture(text, "mine.toml")
    assert str(caught.value).count("\n") == 0


def test_what_is_missing_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"mine\.toml, line 1: there is no name"):
        read_architecture(TEXT.replace('name = "seed_oss"', "", 1), "mine.toml")


def test_what_is_no_toml_is_named_by_its_line() -> None:
    with pytest.raises(CheckpointError, match=r"mine\.toml is no TOML: .*line 2"):
        read_architecture('name = "a"\ngguf = = 1\n', "mine.toml")


@pytest.mark.parametrize("kind", ["missing", "binary", "folder"])
def test_files_that_cannot_be_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    if kind == "binary":
        path.write_bytes(b"\xff\xfe")
    elif kind == "folder":
        path.mkdir()
    with pytest.raises(CheckpointError, match="cannot be read"):
        add_architecture(path)


def test_a_variable_that_names_no_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(known.DIRECTORY, str(tmp_path / "nothing"))
    with pytest.raises(CheckpointError, match=r"FEWBITS_ARCHITECTURES names .*, which is no directory"):
        architectures()


MORE_FAULTS = [
    ("scores_yarn = 1", "scores_yarn has to be true or false, and is 1"),
    ("repeats = { kinds = 3 }", "kinds has to be a list, and is 3"),
    ('silent_in = { rank = ["x"] }', "rank has to be a list of counts"),
    ("nested = { Seed = 3 }", "Seed has to be a text, and is 3"),
]


@pytest.mark.parametrize(("line", "sentence"), MORE_FAULTS)
def test_tables_of_another_kind_are_refused(line: str, sentence: str) -> None:
    with pytest.raises(CheckpointError, match=sentence):
        read_architecture(f"{line}\n{TEXT}", "mine.toml")
