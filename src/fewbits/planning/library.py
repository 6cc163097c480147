"""The recipes that come with fewbits, and those in a user's files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from types import MappingProxyType

from fewbits.errors import RecipeError
from fewbits.planning.parsing import MOST_BYTES, parse_recipe, parse_rules
from fewbits.planning.recipe import Recipe
from fewbits.registry import Registry


@cache
def recipes() -> Registry[Recipe]:
    """The recipes that come with fewbits, by name."""
    folder = resources.files("fewbits.planning")
    texts = {e.name: e.read_text(encoding="utf-8") for e in (folder / "recipes").iterdir() if e.name.endswith(".toml")}
    common = parse_rules((folder / "common.toml").read_text(encoding="utf-8"), "common.toml")

    @cache
    def parsed(name: str) -> Recipe:
        if f"{name}.toml" not in texts:
            raise RecipeError(f"there is no recipe {name!r}")
        return parse_recipe(texts[f"{name}.toml"], f"{name}.toml", base=parsed, common=common, shipped=True)

    registry: Registry[Recipe] = Registry("recipe", RecipeError)
    for name in sorted(name.removesuffix(".toml") for name in texts):
        registry.add(name, parsed(name))
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
    known = _names().get(text.upper())
    if known is not None:
        return recipes().get(known)
    if text.lower().endswith(".toml") or Path(text).is_file():
        return _read(Path(text))
    return recipes().get(text)


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
    return recipes().get(_names().get(name.upper(), name))
