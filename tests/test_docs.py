"""What the documents promise exists: commands, options, links, keys, words."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

import fewbits
from fewbits.cli.commands import COMMANDS, cli

ROOT = Path(__file__).parent.parent
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_to_a_file_leads_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8"))
    broken = [link for link in links if "://" not in link and not (document.parent / link).exists()]

    assert broken == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_in_a_document_exists_with_its_options(document: Path) -> None:
    for line in re.findall(r"fewbits (?:[a-z]+)(?: [^\n`#]*)?", " ".join(code_of(document))):
        name = line.split()[1]
        if name not in COMMANDS:
            assert name in fewbits.__all__, line
            continue
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        known = {option for parameter in command.params for option in parameter.opts}
        assert set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", line)) <= known, line


def test_every_make_target_in_a_document_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    named = {t for document in DOCUMENTS for t in re.findall(r"make ([a-z]+)", " ".join(code_of(document)))}

    assert named <= targets


def test_the_readme_shows_each_command_and_each_call() -> None:
    calls = {name: name for name in COMMANDS} | {"formats": "formats.describe"}
    for name in COMMANDS:
        assert f"fewbits {name} " in README
        assert f"fewbits.{calls[name]}(" in README


def test_the_readme_names_the_keys_of_compare() -> None:
    from fewbits.evaluation.compare import Comparison

    keys = README.split("`compare --json` has ")[1].split("with errors")[0]
    named = re.findall(r"`(\w+)`", keys)

    assert len(named) == 9
    assert [key for key in named if key not in Comparison.__dataclass_fields__ and key != "top1_agreement"] == []


def test_the_readme_names_every_recipe_and_architecture() -> None:
    models = sorted(path.stem for path in (ROOT / "src/fewbits/models").glob("*.toml"))

    assert "(docs/recipes.md)" in README  # which names them all: tests/planning/test_document.py
    assert [name for name in models if name not in README.lower()] == []


def test_the_changelog_has_an_entry_for_this_version() -> None:
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), flags=re.MULTILINE)

    assert version is not None
    assert f"## [{version[1]}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_glossary_has_the_words_of_the_house() -> None:
    text = (ROOT / "docs/glossary.md").read_text(encoding="utf-8")
    words = {"group", "span", "vector", "layer", "chunk", "tile", "site", "recipe", "plan", "dialect", "slab"}
    words |= {"format", "method", "transform", "checkpoint"}

    assert {word for word in words if f"| {word} |" not in text} == set()


def test_the_house_has_a_line_for_every_room() -> None:
    text = (ROOT / "docs/design/0002-house.md").read_text(encoding="utf-8")
    package = ROOT / "src/fewbits"
    rooms = {path.stem for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}

    assert {room for room in rooms if not room.startswith("__") and f"`{room}`" not in text} == set()


def test_no_name_of_ours_says_block() -> None:
    pattern = re.compile(
        r"(?:def|class) \w*block\w*|^\s*\w*block\w* *(?::[^=]+)?= ", flags=re.IGNORECASE | re.MULTILINE
    )
    found = [
        f"{path.relative_to(ROOT)}: {match[0].strip()}"
        for folder in ("src", "native", "bench", "scripts")
        for path in sorted((ROOT / folder).rglob("*.*"))
        if path.suffix in {".py", ".cpp", ".h"}
        for match in pattern.finditer(path.read_text(encoding="utf-8"))
    ]

    assert found == []


def test_every_dependency_has_its_reason() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    reasons = (ROOT / "docs/design/0001-dependencies.md").read_text(encoding="utf-8")
    named = re.findall(r'^ *"([a-z_-]+)[><=]', project.split("[tool.")[0], flags=re.MULTILINE)
    named += re.findall(r'"([a-z-]+)[><=]', project.split("requires = ")[1].split("\n")[0])

    assert len(named) > 12
    assert [name for name in named if name not in reasons] == []


def code_of(document: Path) -> list[str]:
    """The fenced and inline code of a document, with comments of shell lines left out."""
    text = document.read_text(encoding="utf-8")
    fenced = re.findall(r"```\w*\n(.*?)```", text, flags=re.DOTALL)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return [line.split("#")[0] + "\n" for part in [*fenced, *inline] for line in part.splitlines()]
