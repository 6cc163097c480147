"""Types of all tensors of a model in one line that a person can read and compare."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

_LAYER = re.compile(r"blk\.(\d+)\.")


def condensed(types: Mapping[str, str]) -> str:
    """The most common type, then what is not of that type, with its layers.

    >>> condensed({"output.weight": "Q6_K"} | {f"blk.{n}.x.weight": "Q5_K" if n % 3 else "Q4_K" for n in range(8)})
    'Q5_K but Q4_K: x@0-6/3; Q6_K: output'
    """
    counts = Counter(types.values())
    common = max(sorted(counts), key=lambda kind: counts[kind])
    parts: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for name, kind in types.items():
        layer = _LAYER.search(name)
        part = _LAYER.sub("", name, count=1).removesuffix(".weight")
        parts[part][kind].append(int(layer[1]) if layer else -1)
    odd: dict[str, list[str]] = defaultdict(list)
    for part, kinds in parts.items():
        for kind, layers in kinds.items():
            if kind != common:
                odd[kind].append(part if len(kinds) == 1 else f"{part}@{','.join(_runs(sorted(layers)))}")
    rest = "; ".join(f"{kind}: {' '.join(sorted(odd[kind]))}" for kind in sorted(odd))
    return f"{common} but {rest}" if rest else common


def _runs(layers: list[int]) -> Iterator[str]:
    """Layers as runs of equal steps."""
    while layers:
        step = layers[1] - layers[0] if len(layers) > 1 else 1
        length = next((n for n in range(1, len(layers)) if layers[n] != layers[0] + n * step), len(layers))
        if length == 2 and step > 1:
            length = 1
        first, last = layers[0], layers[length - 1]
        yield f"{first}" if length == 1 else f"{first}-{last}" + (f"/{step}" if step > 1 else "")
        layers = layers[length:]
