"""Ways to spoil an input: bytes of any file, values of JSON, lines and words of TOML; all from one random generator."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

Mutation = Callable[[Random, bytes, Sequence[bytes]], bytes]
"""mutation(random, input, corpus)"""

NUMBERS = (0, 1, 2, 3, 4, 7, 8, 9, 31, 32, 64, 127, 128, 255, 256, 1 << 15, (1 << 16) - 1, (1 << 31) - 1, 1 << 31)
LARGE = (*NUMBERS, (1 << 32) - 1, 1 << 32, 1 << 60, (1 << 63) - 1, 1 << 63, (1 << 64) - 32, (1 << 64) - 1)
TEXTS = ("", "x", "..", "../../etc/passwd", "/etc/passwd", "\0", "\ud800", "é", "\U0001f600", "F32", "Q4_K", "nf4_g64")
LONGEST = 1 << 20
"""Bytes that an input may grow to."""


def flip(random: Random, data: bytes, _corpus: Sequence[bytes]) -> bytes:
    """Other bits in a few bytes."""
    out = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 4, 16))):
        if out:
            out[random.randrange(len(out))] ^= 1 << random.randrange(8)
    return bytes(out)


def number(random: Random, data: bytes, _corpus: Sequence[bytes]) -> bytes:
    """A number that is about to overflow, in the place of another."""
    width = random.choice((1, 2, 4, 8))
    if len(data) < width:
        return data
    place = random.randrange(len(data) - width + 1)
    value = random.choice(LARGE) % (1 << 8 * width)
    if random.random() < 0.3:
        value = (int.from_bytes(data[place : place + width], "little") + random.choice((-1, 1, 8, -8))) % (
            1 << 8 * width
        )
    return data[:place] + value.to_bytes(width, "little") + data[place + width :]


def cut(random: Random, data: bytes, _corpus: Sequence[bytes]) -> bytes:
    """The beginning alone, or with something left out."""
    if not data:
        return data
    start = random.randrange(len(data))
    stop = len(data) if random.random() < 0.4 else min(len(data), start + random.choice((1, 2, 4, 8, 32, 200)))
    return data[:start] + data[stop:]


def insert(random: Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    """Something between: random bytes, a repetition, or a piece of another input."""
    place, length = random.randrange(len(data) + 1), random.choice((1, 2, 4, 8, 24, 100))
    other = random.choice((data, random.choice(corpus)))
    start = random.randrange(len(other) + 1)
    piece = other[start : start + length] if random.random() < 0.7 else random.randbytes(length)
    return (data[:place] + piece * random.choice((1, 1, 1, 3, 50)) + data[place:])[:LONGEST]


def splice(random: Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    """The beginning of one input and the end of another."""
    other = random.choice(corpus)
    return (data[: random.randrange(len(data) + 1)] + other[random.randrange(len(other) + 1) :])[:LONGEST]


BYTES: tuple[Mutation, ...] = (flip, number, number, cut, insert, splice)


def json_value(random: Random, data: bytes, _corpus: Sequence[bytes]) -> bytes:
    """JSON with one value replaced, left out, repeated or moved; what is no JSON comes back as it is."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return data
    places = list(_containers(value, 0))
    if not places:
        return data
    _spoil(random, random.choice(places), places)
    return json.dumps(value).encode("utf-8", "surrogatepass")


def _containers(value: Any, depth: int) -> Any:
    if isinstance(value, (dict, list)) and depth < 20:
        if value:
            yield value
        for each in value.values() if isinstance(value, dict) else value[:50]:
            yield from _containers(each, depth + 1)


def _spoil(random: Random, container: Any, places: list[Any]) -> None:
    keys = list(container) if isinstance(container, dict) else list(range(len(container)))
    key = random.choice(keys)
    action = random.randrange(5)
    if action == 0:
        del container[key]
    elif action == 1 and isinstance(container, dict):
        container[random.choice((*TEXTS, *keys))] = container.pop(key)
    elif action == 2:
        container[key] = json.loads(json.dumps(random.choice(places)))
    else:
        container[key] = _leaf(random, container[key])


def _leaf(random: Random, old: Any) -> Any:
    if type(old) in (int, float) and random.random() < 0.4:
        return old + random.choice((-1, 1, 0.5, 1e300))
    leaves: tuple[Any, ...] = (None, True, False, [], {}, [[]], -1, 0.5, -1e300, 1e308, 10**40, *LARGE, *TEXTS)
    return random.choice(leaves)


def json_text(random: Random, data: bytes, _corpus: Sequence[bytes]) -> bytes:
    """JSON with a key twice, deep nesting, or a number that no float holds."""
    place = random.choice([m.start() for m in re.finditer(rb"[,{\[:]", data)] or [0]) + 1
    piece = random.choice((b'"a":1,"a":2,', b"[" * 5000, b'{"a":' * 5000, b"NaN", b"1e999", b"9" * 5000, b'"\\ud800"'))
    return data[:place] + piece + data[place:]


JSON: tuple[Mutation, ...] = (json_value, json_value, json_value, json_text, flip, cut, splice)


def toml_line(random: Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    """TOML with a line left out, repeated, moved, or one of another file."""
    lines = data.split(b"\n")
    place = random.randrange(len(lines))
    action = random.randrange(3)
    line = random.choice(random.choice(corpus).split(b"\n")) if action == 0 else lines[place]
    if action == 1:
        del lines[place]
    else:
        lines.insert(random.randrange(len(lines) + 1), line)
    return b"\n".join(lines)[:LONGEST]


def toml_value(random: Random, data: bytes, _corpus: Sequence[bytes]) -> bytes:
    """TOML with another value behind an equals sign."""
    found = list(re.finditer(rb"= *(.+)", data))
    if not found:
        return data
    match = random.choice(found)
    values = (b"1", b"-1", b"0.5", b"true", b'""', b'"x"', b"[]", b"{}", b"[1]", b'["x"]', b"[[]]", b"{a = 1}", b"nan")
    more = (
        b"1979-05-27",
        b"[" * 3000,
        b'"\\u0000"',
        b"9" * 5000,
        b"0x" + b"f" * 5000,
        b'{a = {b = "c"}}',
        b"1e400",
        b'["x", 1]',
    )
    return data[: match.start(1)] + random.choice((*values, *more)) + data[match.end(1) :]


TOML: tuple[Mutation, ...] = (toml_line, toml_value, toml_value, toml_value, flip, cut, splice)


def mutated(random: Random, mutations: Sequence[Mutation], corpus: Sequence[bytes]) -> bytes:
    """An input of the corpus, spoiled once or a few times."""
    data = random.choice(corpus)
    for _ in range(random.choice((1, 1, 1, 2, 3, 6))):
        data = random.choice(mutations)(random, data, corpus)
    return data
