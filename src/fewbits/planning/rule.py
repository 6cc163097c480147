"""Rules: which sites get which format, stated by kinds, names, layers and facts of the model."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType

from fewbits.sites import Model, Site

Place = Callable[[int, int], bool]


def _more_bits(place: int, places: int) -> bool:
    """The first and last eighth, and every third layer between: those that llama.cpp spends more bits on."""
    eighth = places // 8
    return place < eighth or place >= 7 * places // 8 or (place - eighth) % 3 == 2


LAYERS: Mapping[str, Place] = MappingProxyType(
    {
        "all": lambda *_: True,
        "more_bits": _more_bits,
        "first_sixteenth": lambda place, places: place < places // 16,
        "first_eighth": lambda place, places: place < places // 8,
        "middle": lambda place, places: places // 8 <= place < 7 * places // 8,
        "first_two": lambda place, *_: place < 2,
        "first_four": lambda place, *_: place < 4,
    }
)
"""Which layers a rule is for: place and number of places (see `Site.place`) -> yes or no."""

BY_NUMBER = "first_eighth_by_number"
"""The first eighth as counted tensor by tensor, also where a layer has several: llama.cpp's IQ1 and IQ2 mixes do so."""


def _no_model(_: Model) -> bool:
    return False


_SEVENTY: Mapping[str, Callable[[Model], bool]] = MappingProxyType(
    {
        "llama": lambda model: model.layers == 80 and model.heads != model.key_heads and model.experts != 8,
        "qwen2": lambda model: model.layers == 80,
        "deci": lambda model: model.layers == 80,
        "olmo": lambda model: model.layers == 80,
        "jais2": lambda model: model.layers == 68,
    }
)

MODELS: Mapping[str, Callable[[Model], bool]] = MappingProxyType(
    {
        "all": lambda _: True,
        # Llama 2/3 70B and their kin: many heads share one value matrix, so bits there are cheap.
        "seventy_billion": lambda model: _SEVENTY.get(model.architecture, _no_model)(model),
    }
)
"""Which models a rule is for; "seventy_billion" are those that llama.cpp takes for models of 70 billion parameters."""

_SIGNS: Mapping[str, Callable[[int, int], bool]] = MappingProxyType(
    {"": operator.eq, ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
)
_COMPARISON = re.compile(r"\s*(>=|<=|>|<|)\s*(\d{1,9})\s*")
_RANGES = re.compile(r"\s*\d{1,9}\s*(-\s*\d{1,9}\s*)?(,\s*\d{1,9}\s*(-\s*\d{1,9}\s*)?)*")


def is_comparison(text: str) -> bool:
    """Whether `text` compares a number: "8", ">=4".

    >>> is_comparison(">=4"), is_comparison("many")
    (True, False)
    """
    return _COMPARISON.fullmatch(text) is not None


def is_choice_of_layers(text: str) -> bool:
    """Whether `text` names or lists layers: "more_bits", "0-3,31"."""
    return text in LAYERS or text == BY_NUMBER or _RANGES.fullmatch(text) is not None


def _holds(text: str, number: int) -> bool:
    found = _COMPARISON.fullmatch(text)
    return not text or (found is not None and _SIGNS[found[1]](number, int(found[2])))


def _in_ranges(text: str, layer: int) -> bool:
    ends = [[int(end) for end in part.split("-")] for part in text.split(",")]
    return any(end[0] <= layer <= end[-1] for end in ends)


def names(pattern: str, name: str) -> bool:
    """Whether the glob `pattern` means the tensor `name`, whose ending ".weight" may be left out.

    >>> names("blk.*.ffn_down", "blk.3.ffn_down.weight"), names("blk.*.ffn_down", "blk.3.ffn_down_exps.weight")
    (True, False)
    """
    return fnmatchcase(name, pattern) or fnmatchcase(name.removesuffix(".weight"), pattern)


@dataclass(frozen=True)
class Rule:
    """Sites that everything stated here is true of get `format`; what is empty or None is true of all."""

    format: str
    kinds: frozenset[str] = frozenset()
    match: tuple[str, ...] = ()
    """Globs on the tensor's name; one of them has to match."""
    layers: str = "all"
    models: str = "all"
    architectures: frozenset[str] = frozenset()
    experts: str = ""
    """A comparison with the number of experts: "8", ">=4"."""
    group: str = ""
    """A comparison with the number of query heads that share a head of keys and values."""
    stacked: bool | None = None
    """Whether the tensor holds several matrices, one per expert."""
    importance: bool | None = None
    """Whether an importance matrix is given."""
    nominal_fits: bool | None = None
    """Whether the width is a multiple of the span of the recipe's nominal format."""
    activation: str = ""
    """How inputs of layers' matrices are rounded at run time; "" where they are not."""
    exact: bool = False
    """The user named these tensors: a format that does not fit them is refused, not replaced."""
    origin: str = ""
    """Where the rule stands, for messages and the record: "mine.toml, line 7", "--tensor 'blk.*.ffn_down=Q6_K'"."""

    def matches(self, site: Site, *, importance: bool = False, nominal_fits: bool = True) -> bool:
        """Whether this rule speaks of `site`.

        `importance` says whether there is an importance matrix, `nominal_fits` whether the recipe's nominal format
        could store the site.
        """
        return (
            self._means(site)
            and self._knows_layer(site)
            and self._knows_model(site.model)
            and self.stacked in (None, site.stacked)
            and self.importance in (None, importance)
            and self.nominal_fits in (None, nominal_fits)
        )

    def _means(self, site: Site) -> bool:
        # Without an output matrix the embedding is one, and follows its rules.
        kind = "output" if site.kind == "token_embd" and site.model.tied else site.kind
        named = not self.match or any(names(pattern, site.name) for pattern in self.match)
        return named and (not self.kinds or kind in self.kinds)

    def _knows_layer(self, site: Site) -> bool:
        if self.layers == BY_NUMBER:
            return site.ordinal < site.model.layers // 8
        if self.layers in LAYERS:
            return LAYERS[self.layers](*site.place)
        return "blk." in site.name and _in_ranges(self.layers, site.layer)

    def _knows_model(self, model: Model) -> bool:
        return (
            MODELS[self.models](model)
            and (not self.architectures or model.architecture in self.architectures)
            and _holds(self.experts, model.experts)
            and _holds(self.group, model.group)
        )
