"""What the user named: overrides from the command line, and the check that every pattern means something."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping

from fewbits import formats
from fewbits.errors import RecipeError
from fewbits.planning.parsing import nearest_format
from fewbits.planning.rule import Rule, names
from fewbits.sites import Site

_LAYER = re.compile(r"blk\.\d+\.")


def parse_overrides(tensors: Mapping[str, str] | Iterable[str]) -> tuple[Rule, ...]:
    """Rules of "PATTERN=FORMAT" texts, or of pattern -> format; raises RecipeError where one is neither or unknown.

    >>> [rule.format for rule in parse_overrides(["blk.*.ffn_down=q6_k"])]
    ['Q6_K']
    """
    if isinstance(tensors, str):
        tensors = [tensors]
    texts = [f"{p}={f}" for p, f in tensors.items()] if isinstance(tensors, Mapping) else list(tensors)
    rules = tuple(_override(text) for text in texts)
    patterns = [rule.match[0] for rule in rules]
    for rule in rules:
        if patterns.count(rule.match[0]) > 1:
            raise RecipeError(f"the pattern {rule.match[0]!r} is given twice; say one format for it.")
    return rules


def _override(text: str) -> Rule:
    pattern, equals, name = text.rpartition("=")
    pattern, name = pattern.strip(), name.strip()
    if not (pattern and equals and name):
        raise RecipeError(f"the override {text!r} is not PATTERN=FORMAT; 'blk.*.ffn_down=Q6_K' is an example.")
    known = {n.upper(): n for n in formats.ROWS}
    format_name = known.get(name.upper(), name)
    if format_name not in formats.FORMATS:
        raise RecipeError(f"the override {text!r} has the unknown format {name!r}{nearest_format(name)}")
    return Rule(format_name, match=(pattern,), exact=True, origin=f"the override '{pattern}={format_name}'")


def require_meaning(rules: Iterable[Rule], sites: Iterable[Site]) -> None:
    """Refuse a rule of the user's whose patterns match no tensor, or only tensors that no recipe changes."""
    sites = list(sites)
    for rule in rules:
        if not (rule.origin and rule.match):
            continue
        matched = [site for site in sites if any(names(pattern, site.name) for pattern in rule.match)]
        if not matched:
            raise RecipeError(f"{rule.origin} matches no tensor of this model{_near(rule.match, sites)}")
        if all(site.kind == "kept" for site in matched):
            raise RecipeError(
                f"{rule.origin} matches only tensors that every recipe keeps in 16 or 32 bits, {matched[0].name} for "
                "instance; name matrices."
            )


def _near(patterns: tuple[str, ...], sites: list[Site]) -> str:
    """The end of a sentence: names like the pattern, with a star for the layer where the pattern has one too."""
    if any(names(pattern, "output.weight") for pattern in patterns) and sites and sites[0].model.tied:
        return "; its embedding, token_embd, is its output matrix."
    full = [site.name.removesuffix(".weight") for site in sites if site.kind != "kept"]
    known = list(dict.fromkeys(_LAYER.sub("blk.*.", name) for name in full))
    near = difflib.get_close_matches(patterns[0], known if "*" in patterns[0] else full, n=2, cutoff=0.5)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
    return f"{hint} Known: {', '.join(known[:40])}."
