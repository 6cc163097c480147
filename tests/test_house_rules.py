"""The rules of the house that a machine can check: short functions, short files, no drawer named utils."""

from __future__ import annotations

import ast
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(path for folder in ("src", "bench", "scripts") for path in (ROOT / folder).rglob("*.py"))
NATIVE = sorted(path for path in (ROOT / "native").rglob("*.*") if path.suffix in {".cpp", ".h"})


def function_lengths() -> dict[str, int]:
    """Lines of each function, from `def` to its end, docstring included; methods of protocols count too."""
    return {
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_functions_are_short() -> None:
    lengths = function_lengths()
    long = [name for name, lines in lengths.items() if lines > 30]

    assert [name for name, lines in lengths.items() if lines > 60] == []
    assert len(long) <= len(lengths) / 10, long
    assert median(lengths.values()) <= 10


@pytest.mark.parametrize("limit", [400])
def test_files_are_short(limit: int) -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in [*FILES, *NATIVE]}

    assert {str(path.relative_to(ROOT)): lines for path, lines in lengths.items() if lines > limit} == {}


def test_no_drawer_for_what_has_no_place() -> None:
    drawers = {"utils", "util", "helpers", "misc", "common", "tools"}

    assert [str(path.relative_to(ROOT)) for path in [*FILES, *NATIVE] if path.stem in drawers] == []


def test_every_public_function_says_what_it_does() -> None:
    silent = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and ast.get_docstring(node) is None
        and not is_nested_or_plain(path, node)
    ]

    assert silent == []


def is_nested_or_plain(path: Path, node: ast.FunctionDef | ast.ClassDef) -> bool:
    """Functions inside functions explain themselves by their place; `main` of a script by its file's docstring.

    An overload only states types: what it does is said where it is done.
    """
    if any(isinstance(decorator, ast.Name) and decorator.id == "overload" for decorator in node.decorator_list):
        return True
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {
        inner.lineno
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef)
        for inner in ast.walk(outer)
        if inner is not outer and isinstance(inner, ast.FunctionDef | ast.ClassDef)
    }
    return node.lineno in inside or path.parts[-2] in {"bench", "scripts"}
