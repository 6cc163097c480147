"""docs/recipes.md says what the recipes say, and its example is one."""

from __future__ import annotations

import re

from scripts.recipes_document import DOCUMENT, document

from fewbits import planning
from fewbits.planning.library import get_shipped
from fewbits.planning.parsing import parse_recipe


def test_the_document_is_up_to_date() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == document(), "run scripts/recipes_document.py"


def test_the_document_names_every_recipe_once() -> None:
    rows = re.findall(r"^\| `(\w+)`", document(), flags=re.MULTILINE)
    assert sorted(name for name in rows if name in planning.recipes()) == sorted(planning.recipes())


def test_the_example_is_a_recipe() -> None:
    example = re.search(r"```toml\n(.*?)```", document(), flags=re.DOTALL)
    assert example is not None
    recipe = parse_recipe(example[1], "example.toml", base=get_shipped)
    assert len(recipe.rules) == 2 + len(planning.get("Q4_K_M").rules)


def test_a_row_is_what_the_sizes_add_up_to() -> None:
    # Llama 3 8B in Q4_K_S by hand: output Q6_K, 4 value and 4 down matrices Q5_K, 65 norms F32, the rest Q4_K.
    table, value, down = 128256 * 4096, 1024 * 4096, 14336 * 4096
    weights = 2 * table + 32 * (2 * 4096 * 4096 + 2 * value + 3 * down) + 65 * 4096
    bits = 4.5 * (weights - 65 * 4096) + (6.5625 - 4.5) * table + 4 * (value + down) + 32 * 65 * 4096
    assert f"| `Q4_K_S` | {bits / weights:.3f} | {bits / 8e9:.2f} |" in document()
