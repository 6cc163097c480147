"""TOML as strict as its specification: whole numbers of 64 bits, and nesting that no reader breaks at."""

from __future__ import annotations

import sys
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - Python 3.10
    import tomli as tomllib


def parse_toml(text: str, *, most_bytes: int) -> dict[str, Any]:
    """The table that `text` states; raises ValueError, saying in a few words why there is none.

    >>> parse_toml("a = 1", most_bytes=100)
    {'a': 1}
    """
    if len(text.encode("utf-8", "replace")) > most_bytes:
        raise ValueError(f"it is larger than {most_bytes} bytes")
    try:
        found = tomllib.loads(text)
        _require_64_bits(found)
    except RecursionError:
        raise ValueError("it nests too deep") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(str(error).rstrip(".")) from None
    except ValueError:  # Python's own limit of digits
        raise ValueError(_TOO_LONG) from None
    return found


_TOO_LONG = "it holds a whole number of more than 64 bits"


def _require_64_bits(value: Any) -> None:
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        raise ValueError(_TOO_LONG)
    if isinstance(value, (dict, list)):
        for each in value.values() if isinstance(value, dict) else value:
            _require_64_bits(each)
