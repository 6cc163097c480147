"""Read recipes from TOML, strictly: whatever is wrong is refused with its line, and the nearest of what is known."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from reprlib import repr as shown
from typing import Any

from fewbits import formats
from fewbits.activations import ACTIVATIONS
from fewbits.errors import RecipeError
from fewbits.planning.recipe import Recipe
from fewbits.planning.rule import BY_NUMBER, LAYERS, MODELS, Rule, is_choice_of_layers, is_comparison
from fewbits.planning.toml_lines import line_of
from fewbits.sites import KINDS
from fewbits.tomlfile import parse_toml

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - Python 3.10
    import tomli as tomllib

MOST_RULES = 256
MOST_BYTES = 1 << 16

_KEYS = ("name", "nominal", "file_type", "description", "method", "dialect", "aliases", "extend", "common", "rule")
_RULE_KEYS = (
    "format",
    "kinds",
    "match",
    "layers",
    "models",
    "architectures",
    "experts",
    "group",
    "stacked",
    "importance",
    "nominal_fits",
    "activation",
    "exact",
)


@dataclass(frozen=True)
class Text:
    """The text of a recipe and the name of its file: what a complaint has to point at."""

    text: str
    where: str

    def complain(self, message: str, *path: str | int, item: str | None = None) -> RecipeError:
        """An error that names the line which states `path`, and `item` in it."""
        return RecipeError(f"{self.at(*path, item=item)} {message}")

    def at(self, *path: str | int, item: str | None = None) -> str:
        """The file, and the line which states `path`."""
        line = line_of(self.text, path, item) if path else None
        return f"{self.where}, line {line}," if line else self.where


def parse_recipe(
    text: str,
    where: str,
    *,
    base: Callable[[str], Recipe],
    common: tuple[Rule, ...] = (),
    shipped: bool = False,
) -> Recipe:
    """The recipe that TOML `text` states; raises RecipeError naming `where`, the line and what is near.

    `base` finds the recipe that `extend` names; `common` are the rules that `common = true` puts first. A recipe that
    is not `shipped` may leave its name and what its base says unsaid.
    """
    here = Text(text, where)
    raw = _load(here)
    _require_known(here, "key", raw, _KEYS)
    extended = _text(here, raw, "extend", default="")
    inherited = _base(here, extended, base) if extended else None
    stated = raw.get("rule", [] if inherited else None)
    if not isinstance(stated, list) or not all(isinstance(rule, dict) for rule in stated) or not (stated or inherited):
        raise here.complain("states no [[rule]]; end it with a rule for every matrix.", "rule")
    if len(stated) > MOST_RULES:
        raise here.complain(f"has {len(stated)} rules, and {MOST_RULES} are the most that are read.")
    rules = tuple(_rule(here, rule, number, shipped) for number, rule in enumerate(stated))
    first = common if _flag(here, raw, "common") else ()
    texts = _texts(here, raw, inherited, rules, shipped)
    if not shipped:
        _require_format(here, texts["nominal"], "nominal")
        if "file_type" in raw and texts["file_type"] not in (known := file_types()):
            raise here.complain(
                f"has the unknown file type {shown(texts['file_type'])}{nearest(texts['file_type'][:80], known)}",
                "file_type",
            )
    return Recipe(
        name=texts["name"],
        nominal=texts["nominal"],
        file_type=texts["file_type"],
        description=texts["description"],
        rules=(*first, *rules, *(inherited.rules if inherited else ())),
        aliases=_list(here, raw, "aliases"),
        source="" if shipped else where,
        method=_text(here, raw, "method", default=inherited.method if inherited else ""),
        dialect=_text(here, raw, "dialect", default=inherited.dialect if inherited else ""),
    )


def file_types() -> list[str]:
    """llama.cpp's names of mixes, as our own recipes state them."""
    folder = resources.files("fewbits.planning") / "recipes"
    loaded = [tomllib.loads(e.read_text(encoding="utf-8")) for e in folder.iterdir() if e.name.endswith(".toml")]
    return sorted({raw["file_type"] for raw in loaded if raw.get("file_type")})


def parse_rules(text: str, where: str) -> tuple[Rule, ...]:
    """The rules of a TOML text that holds nothing else."""
    here = Text(text, where)
    return tuple(_rule(here, rule, number, shipped=True) for number, rule in enumerate(_load(here)["rule"]))


def _load(here: Text) -> dict[str, Any]:
    try:
        return parse_toml(here.text, most_bytes=MOST_BYTES)
    except ValueError as error:
        raise here.complain(f"is no recipe: {error}; docs/recipes.md shows what one looks like.") from None


def _base(here: Text, name: str, base: Callable[[str], Recipe]) -> Recipe:
    try:
        return base(name)
    except RecipeError as error:
        raise here.complain(f"extends something else: {error}", "extend") from None


def _texts(
    here: Text, raw: Mapping[str, Any], base: Recipe | None, rules: tuple[Rule, ...], shipped: bool
) -> dict[str, str]:
    """Name, nominal format, file type and description; a user's recipe may leave each of them to us."""
    nominal = base.nominal if base else rules[-1].format
    file_type = base.file_type if base else ""
    if shipped:
        missing = next((key for key in ("name", "description") if key not in raw), None)
        missing = missing or next((k for k in ("nominal", "file_type") if k not in raw and not base), None)
        if missing:
            raise here.complain(f"has no {missing}.")
    stem = here.where.replace("\\", "/").rsplit("/", 1)[-1].removesuffix(".toml")
    return {
        "name": _text(here, raw, "name", default=stem),
        "nominal": _text(here, raw, "nominal", default=nominal),
        "file_type": _text(here, raw, "file_type", default=file_type),
        "description": _text(here, raw, "description", default=""),
    }


def _rule(here: Text, raw: Mapping[str, Any], number: int, shipped: bool) -> Rule:
    at = ("rule", number)
    _require_known(here, "key of a rule", raw, _RULE_KEYS, *at)
    match = _list(here, raw, "match", *at)
    exact = _flag(here, raw, "exact", *at)
    rule = Rule(
        format=_text(here, raw, "format", *at),
        kinds=frozenset(_list(here, raw, "kinds", *at)),
        match=match,
        layers=_text(here, raw, "layers", *at, default="all"),
        models=_text(here, raw, "models", *at, default="all"),
        architectures=frozenset(_list(here, raw, "architectures", *at)),
        experts=_comparison(here, raw, "experts", *at),
        group=_comparison(here, raw, "group", *at),
        stacked=_flag(here, raw, "stacked", *at),
        importance=_flag(here, raw, "importance", *at),
        nominal_fits=_flag(here, raw, "nominal_fits", *at),
        activation=_text(here, raw, "activation", *at, default=""),
        exact=(bool(match) and not shipped) if exact is None else exact,
        origin=here.at(*at).rstrip(",") if not shipped else "",
    )
    _require_known(here, "kind of tensor", sorted(rule.kinds), (*KINDS, "other"), *at, "kinds")
    _require_known(here, "rounding of activations", filter(None, [rule.activation]), ACTIVATIONS, *at, "activation")
    _require_known(here, "choice of models", [rule.models], MODELS, *at, "models")
    if not is_choice_of_layers(rule.layers):
        _require_known(here, "choice of layers", [rule.layers], (*LAYERS, BY_NUMBER, "0-3,31"), *at, "layers")
    if not shipped:  # which formats our own recipes name is tested; a recipe stays known while one of them is not
        _require_format(here, rule.format, *at, "format")
    return rule


def _text(here: Text, raw: Mapping[str, Any], key: str, *at: str | int, default: str | None = None) -> str:
    value = raw.get(key, default)
    if value is None:
        raise here.complain(f"has no {key}.", *at)
    if not isinstance(value, str):
        raise here.complain(f"has {key} = {shown(value)}, which should be a text in quotes.", *at, key)
    return value


def _comparison(here: Text, raw: Mapping[str, Any], key: str, *at: str | int) -> str:
    value = raw.get(key, "")
    text = str(value) if isinstance(value, (int, str)) and not isinstance(value, bool) else ""
    if value == "" or is_comparison(text):
        return text
    raise here.complain(
        f'has {key} = {shown(value)}, which should be a number or a comparison such as ">=4".', *at, key
    )


def _flag(here: Text, raw: Mapping[str, Any], key: str, *at: str | int) -> bool | None:
    value = raw.get(key)
    if value is None or isinstance(value, bool):
        return value
    raise here.complain(f"has {key} = {shown(value)}, which should be true or false.", *at, key)


def _list(here: Text, raw: Mapping[str, Any], key: str, *at: str | int) -> tuple[str, ...]:
    """A list of texts; for `match` one text will do."""
    value = raw.get(key, [])
    if key == "match" and isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise here.complain(f"has {key} = {shown(value)}, which should be a list of texts.", *at, key)
    return tuple(value)


def _require_known(here: Text, what: str, names: Iterable[str], known: Iterable[str], *at: str | int) -> None:
    """Refuse the first of `names` that is not known, with the nearest of those that are."""
    known = list(known)
    for name in names:
        if name not in known:
            said = at if at and isinstance(at[-1], str) else (*at, name)
            raise here.complain(f"has the unknown {what} {shown(name)}{nearest(name[:80], known)}", *said, item=name)


def _require_format(here: Text, name: str, *at: str | int) -> None:
    if name not in formats.FORMATS:
        raise here.complain(f"has the unknown format {shown(name)}{nearest_format(name)}", *at)


def nearest_format(name: str) -> str:
    """The end of a sentence about an unknown format.

    >>> nearest_format("IQ4_NX")
    "; did you mean 'IQ4_XS' or 'IQ4_NL'? `fewbits formats` lists all."
    """
    near = difflib.get_close_matches(name[:80], formats.FORMATS, n=2, cutoff=0.5)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
    return f"{hint} `fewbits formats` lists all."


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: what is near, then all that is known.

    >>> nearest("Q4_J", ["Q4_K", "F16"])
    "; did you mean 'Q4_K'? Known: Q4_K, F16."
    """
    known = list(known)
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
    return f"{hint} Known: {', '.join(known)}."
