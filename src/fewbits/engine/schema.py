"""Output that is JSON of a given schema: at each step, the tokens after which it can still become that.

The grammar is llguidance's (the extra `schema`). What it cannot hold a text to (`not`, `uniqueItems`) is refused with
its place, never left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import numpy as np

from fewbits.checkpoints.quoting import quoted
from fewbits.engine.sampling import Mask
from fewbits.engine.vocabulary import Vocabulary
from fewbits.errors import EngineError

MOST_BYTES = 1 << 20
"""Of a schema's file."""

_WHITE_SPACE = r"[ \n]{1,40}"
"""What may stand between the parts of JSON: enough to indent it, and never without end, as small models like it."""

_OPTIONS: Mapping[str, Any] = MappingProxyType({"whitespace_pattern": _WHITE_SPACE, "lenient": False})

_LONGEST = 200
"""Characters of a message."""

_NAMED = ("$defs", "definitions", "properties", "patternProperties")
_LISTED = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")


class Constraint:
    """One text that is held to a schema while it is written, token by token."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    @property
    def complete(self) -> bool:
        """Whether the text is JSON of the schema as it stands; more may follow all the same."""
        return bool(self._matcher.is_accepting())

    @property
    def finished(self) -> bool:
        """Whether nothing can follow."""
        return bool(self._matcher.is_stopped())

    def allowed(self) -> Mask:
        """The tokens that may come next, one bit each; those that end a text are among them once it is complete."""
        mask = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint32)
        self._check()
        return mask

    def take(self, token: int) -> None:
        """Go on with `token`, one of those allowed."""
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise EngineError(
                f"the JSON schema is too much for one token ({_brief(self._matcher.get_error())}); make it simpler."
            )


@dataclass(frozen=True)
class JSONSchema:
    """A schema that was checked; `where` is what an error message calls it."""

    where: str
    schema: Mapping[str, Any]
    grammar: str

    def constraint(self, vocabulary: Vocabulary, rows: int) -> Constraint:
        """A text in the making, in tokens of a model whose output has `rows` rows; EngineError where none can end."""
        library, ends = _library(), sorted(end for end in vocabulary.ends if end < rows)
        if not ends:
            raise EngineError(
                f"{vocabulary.path}: no token ends a text, so that JSON of a schema would go on for ever."
            )
        tokenizer = library.LLTokenizer(
            library.TokenizerWrapper(_Tokens(vocabulary, rows, ends)),
            eos_token=ends,
            slices=library.LLTokenizer.json_slices(),
        )
        matcher = library.LLMatcher(tokenizer, self.grammar, log_level=0)
        if matcher.is_error():
            raise EngineError(f"{self.where}: {_brief(matcher.get_error())}; make the schema simpler.")
        return Constraint(matcher)


class _Tokens:
    """A vocabulary as llguidance asks for one."""

    def __init__(self, vocabulary: Vocabulary, rows: int, ends: list[int]) -> None:
        self._vocabulary = vocabulary
        self.tokens = [vocabulary.piece(token) for token in range(rows)]
        self.special_token_ids = [token for token, piece in enumerate(self.tokens) if not piece]
        self.eos_token_id, self.bos_token_id = ends[0], None

    def __call__(self, text: str) -> list[int]:
        return self._vocabulary.encode(text)


def read_schema(path: str | Path) -> JSONSchema:
    """The JSON schema in a file; EngineError where it is none, with line and column or the place in the schema."""
    path = Path(path)
    if not path.is_file():
        raise EngineError(f"{path}: there is no such file with a JSON schema.")
    raw = path.read_bytes()
    if len(raw) > MOST_BYTES:
        raise EngineError(f"{path}: a JSON schema of {len(raw)} bytes; at most {MOST_BYTES} are read.")
    try:
        return parse_schema(json.loads(raw.decode("utf-8")), where=str(path))
    except UnicodeDecodeError as error:
        raise EngineError(f"{path}: not UTF-8 text (byte {error.start}); convert it to UTF-8 first.") from None
    except json.JSONDecodeError as error:
        raise EngineError(f"{path}: no JSON: line {error.lineno}, column {error.colno}: {error.msg}.") from None
    except ValueError:  # Python reads whole numbers of 4,300 digits at most
        raise EngineError(f"{path}: a whole number of the JSON schema has too many digits; make it smaller.") from None
    except RecursionError:
        raise EngineError(f"{path}: the JSON schema nests too deeply; make it simpler.") from None


def parse_schema(schema: object, *, where: str = "the JSON schema") -> JSONSchema:
    """`schema` as something that a text can be held to; EngineError with its place where it cannot.

    >>> parse_schema({"type": "object", "properties": {"age": {"type": "number", "not": {}}}})
    Traceback (most recent call last):
    fewbits.errors.EngineError: the JSON schema: at #/properties/age: Unimplemented keys: ["not"].
    """
    if not isinstance(schema, dict):
        raise EngineError(f"{where}: a JSON schema is an object here, not {quoted(schema)}.")
    fault = _fault(schema)
    if fault is not None:
        place = _place(_at(schema, fault.place), schema, fault, fault.place)
        raise EngineError(f"{where}: at {place}: {fault.words}.")
    return JSONSchema(where, schema, _grammar(schema))


def _library() -> ModuleType:
    try:
        import llguidance
    except ImportError:
        raise EngineError(
            "output by a JSON schema needs llguidance, which is not installed: pip install 'fewbits[schema]'."
        ) from None
    return llguidance


def _grammar(schema: Mapping[str, Any]) -> str:
    made: str = _library().LLMatcher.grammar_from_json_schema(dict(schema), overrides=dict(_OPTIONS))
    return made


@dataclass(frozen=True)
class _Fault:
    words: str
    place: str
    """What the library says of it: the definition that it was in, or all of the schema."""


def _fault(schema: Mapping[str, Any]) -> _Fault | None:
    """What is wrong with a schema, in the library's words; None where nothing is."""
    try:
        failed, messages = _library().LLMatcher.validate_grammar_with_warnings(_grammar(schema))
    except ValueError as error:
        failed, messages = True, [str(error)]
    if not failed:
        return None
    words, _, place = messages[0].partition(" while processing json-schema:///")
    return _Fault(_brief(words), place.strip() or "#")


def _at(schema: Mapping[str, Any], place: str) -> Mapping[str, Any]:
    """The part of a schema at a place such as #/$defs/node; all of it where that leads nowhere."""
    part: Any = schema
    for name in place.split("/")[1:]:
        part = part.get(name) if isinstance(part, dict) else None
    return part if isinstance(part, dict) else schema


def _place(schema: Mapping[str, Any], root: Mapping[str, Any], fault: _Fault, at: str) -> str:
    """The innermost part of a schema that has the same fault on its own: the library does not always say where."""
    shared = {key: root[key] for key in ("$defs", "definitions") if key in root}
    for name, part in _parts(schema):
        own = _fault({**shared, **part})
        if own is not None and own.words == fault.words:
            return _place(part, root, fault, f"{at}/{name}")
    return at


def _parts(schema: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(place, schema) of the schemas right inside of one."""
    found: list[tuple[str, object]] = []
    for key in (*_NAMED, *_LISTED):  # definitions first: a reference to one has the same fault
        inner = schema.get(key)
        pairs = inner.items() if isinstance(inner, dict) else enumerate(inner) if isinstance(inner, list) else ()
        found.extend((f"{key}/{name}", each) for name, each in pairs)
    found.extend((key, schema[key]) for key in _SINGLE if key in schema)
    return ((name, each) for name, each in found if isinstance(each, dict))


def _brief(text: str) -> str:
    """The library's words on one line of some length."""
    joined = " ".join(text.split()).rstrip(".:") or "it is refused"
    return joined if len(joined) <= _LONGEST else f"{joined[: _LONGEST - 3]}..."
