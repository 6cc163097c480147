"""Which tensors are poor without an importance matrix, as data."""

from __future__ import annotations

import sys
from functools import cache
from importlib import resources
from typing import Any

from fewbits.sites import Site

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - Python 3.10
    import tomli as tomllib


@cache
def _data() -> dict[str, Any]:
    text = (resources.files("fewbits.planning") / "importance.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def wants_importance(recipe: str, format_name: str, site: Site) -> bool:
    """Whether `site` in `format_name` of `recipe` is poor unless errors are weighed by importance."""
    if site.kind in {"token_embd", "output", "kept"}:
        return False
    data = _data()
    return format_name in data["formats"] or format_name in data["recipes"].get(recipe, ())
