"""The recipes that come with fewbits, and those in a user's files."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache, partial
from importlib import resources
from pathlib import Path
from types import MappingProxyType

from fewbits import formats
from fewbits.errors import RecipeError
from fewbits.planning.parsing import MOST_BYTES, parse_recipe, parse_rules
from fewbits.planning.recipe import Recipe
from fewbits.registry import Registry


@cache
def recipes() -> Registry[Recipe]:
    """The mixes of llama.cpp that come with fewbits, by name."""
    return _shipped("recipes", "recipe")


@cache
def algorithms() -> Registry[Recipe]:
    """Known algorithms by name, as recipes: a format, how codes are chosen, how inputs are rounded."""
    return _shipped("algorithms", "algorithm")


def _shipped(inside: str, kind: str) -> Registry[Recipe]:
    """The recipes in a folder beside this file."""
    folder = resources.files("fewbits.planning")
    texts = {e.name: e.read_text(encoding="utf-8") for e in (folder / inside).iterdir() if e.name.endswith(".toml")}
    common = parse_rules((folder / "common.toml").read_text(encoding="utf-8"), "common.toml")

    @cache
    def parsed(name: str) -> Recipe:
        if f"{name}.toml" not in texts:
            raise RecipeError(f"there is no recipe {name!r}")
        return parse_recipe(texts[f"{name}.toml"], f"{name}.toml", base=parsed, common=common, shipped=True)

    registry: Registry[Recipe] = Registry(kind, RecipeError)
    for name in sorted(name.removesuffix(".toml") for name in texts):
        registry.add_later(name, partial(parsed, name))
    return registry


@cache
def _names() -> Mapping[str, str]:
    """Names and aliases in upper case -> name."""
    aliases = {alias: name for name in recipes() for alias in recipes().get(name).aliases}
    return MappingProxyType({known.upper(): name for known, name in {**aliases, **{n: n for n in recipes()}}.items()})


def get(name: str | os.PathLike[str]) -> Recipe:
    """The recipe called `name`, in any case, or the one in the TOML file `name`.

    Raises RecipeError, naming the nearest known names, or the line of the file that is wrong.
    """
    text = os.fspath(name)
    known = text.upper() if text.upper() in recipes() else _names().get(text.upper())
    if known is not None:
        return recipes().get(known)
    if text.lower() in algorithms():
        return algorithms().get(text.lower())
    if text.lower().endswith(".toml") or Path(text).is_file():
        return _read(Path(text))
    return _of_one_format(text) or recipes().get(text)


_FAMILY = re.compile(r"[a-z]+\d+(_.*)?")
"""What looks like the name of a family's member, and is refused as such."""

_ONE_FORMAT = """
name = "{name}"
nominal = "{name}"
description = "{name} for every matrix, but for the embedding and the output matrix in {ends}."
[[rule]]
kinds = ["token_embd", "output"]
format = "{ends}"
[[rule]]
format = "{name}"
"""


def _of_one_format(text: str) -> Recipe | None:
    """The recipe of a format: its name is one, with eight bits where every token's probability passes through."""
    if text not in formats.FORMATS and not _FAMILY.fullmatch(text):
        return None
    name = formats.get(text).name
    ends = "Q8_0" if name in formats.ROWS else "int8_row_sym"
    stated = _ONE_FORMAT.format(name=name, ends=ends)
    return replace(parse_recipe(stated, f"the recipe {name}", base=get_shipped), source="")


def _read(path: Path) -> Recipe:
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1).decode("utf-8")
    except FileNotFoundError:
        raise RecipeError(f"{path} does not exist; give a recipe's name or a TOML file that states one.") from None
    except UnicodeDecodeError:
        raise RecipeError(f"{path} is no text in UTF-8, and so no recipe.") from None
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror or error}.") from None
    return parse_recipe(text, str(path), base=get_shipped)


def get_shipped(name: str) -> Recipe:
    """The recipe called `name` among those that come with fewbits; a user's file extends these, not another file."""
    if name.lower() in algorithms():
        return algorithms().get(name.lower())
    return recipes().get(_names().get(name.upper(), name))
