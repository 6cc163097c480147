"""JSON as strict as a header deserves: one object, no key twice, and every failure a sentence about the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fewbits.checkpoints.limits import JSON_BYTES, JSON_VALUES
from fewbits.checkpoints.quoting import quoted
from fewbits.errors import CheckpointError


class _RepeatedKeyError(ValueError):
    """A JSON object names one key twice, so two readers could disagree about what it says."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _RepeatedKeyError(key)
            seen.add(key)
    return result


def parse_object(
    data: bytes, what: str, *, most_bytes: int = JSON_BYTES, most_values: int = JSON_VALUES
) -> dict[str, Any]:
    """The JSON object in `data` (UTF-8); raises CheckpointError, which calls the data `what`.

    More than `most_bytes`, or more than `most_values` values and containers, are refused before they are read.
    """
    # A comma follows each value but the last of its container; commas inside of texts only make the count larger.
    values = sum(data.count(sign) for sign in (b",", b"[", b"{"))
    if len(data) > most_bytes or values > most_values:
        raise CheckpointError(
            f"{what} has {len(data)} bytes or more and about {values} values, and at most {most_bytes} and "
            f"{most_values} are read: the file is damaged or unsafe."
        )
    try:
        value = json.loads(str(data, "utf-8"), object_pairs_hook=_unique)
    except _RepeatedKeyError as error:
        raise CheckpointError(
            f"{what} names the key {quoted(str(error))} twice; the file is damaged or unsafe."
        ) from None
    except RecursionError:
        raise CheckpointError(f"{what} nests deeper than any real one; the file is damaged or unsafe.") from None
    except ValueError as error:
        raise CheckpointError(f"{what} is not valid JSON ({error}); the file is damaged or is no such file.") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{what} holds {type(value).__name__} where a JSON object belongs; the file is damaged.")
    return value


def load_object(path: Path, *, most_bytes: int = JSON_BYTES, most_values: int = JSON_VALUES) -> dict[str, Any]:
    """The JSON object in the file `path`; raises CheckpointError when there is none, or a larger one than allowed."""
    try:
        with path.open("rb") as file:
            data = file.read(most_bytes + 1)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from None
    return parse_object(data, str(path), most_bytes=most_bytes, most_values=most_values)
