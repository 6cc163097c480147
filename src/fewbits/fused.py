"""Matrices that readers put together before they multiply: queries, keys and values; gate and up.

What a format stores once per tensor vLLM wants to be the same for all of them, and takes one of several otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from fewbits.formats import Format

_PARTS = re.compile(r"(?:(attn)_[qkv]|(ffn)_(?:gate|up))(?=[._])")


def is_fused(format: Format) -> bool:
    """Whether what a tensor shares has to be the same for matrices that are put together."""
    return bool(getattr(format, "fused", False))


def put_together(name: str, names: Iterable[str]) -> list[str]:
    """Those of `names`, tensors of the target, that are put together with `name`, itself among them.

    >>> put_together("blk.0.attn_k.weight", ["blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.1.attn_q.weight"])
    ['blk.0.attn_q.weight', 'blk.0.attn_k.weight']
    """
    return [each for each in names if _whole(each) == _whole(name)]


def _whole(name: str) -> str:
    return _PARTS.sub(lambda found: found[1] or found[2], name)
