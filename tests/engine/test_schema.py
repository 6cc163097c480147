"""JSON of a schema: whatever is chosen among the allowed tokens, the text is what an independent validator accepts."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from fewbits.engine.sampling import Sampling
from fewbits.engine.schema import JSONSchema, parse_schema, read_schema
from fewbits.engine.stream import TextStream
from fewbits.engine.vocabulary import Vocabulary, read_vocabulary
from fewbits.engine.writing import COUNT, END, Ask, Writer
from fewbits.errors import EngineError
from references.fake_engine import FakeModel

TEXT = {"type": "string", "maxLength": 12}
NODE = {"next": {"$ref": "#/$defs/node"}, "v": {"const": "é🦊"}}
SCHEMAS: dict[str, dict[str, Any]] = {
    "object": {
        "type": "object",
        "properties": {
            "name": TEXT,
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "ok": {"type": "boolean"},
        },
        "required": ["name", "age"],
        "additionalProperties": False,
    },
    "enum": {"enum": ["red", "green", 7, None, {"a": [1, 2]}]},
    "array": {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 4},
    "number": {"type": "array", "items": {"type": "number", "minimum": -2.5, "maximum": 3}, "maxItems": 3},
    "nested": {
        "type": "object",
        "properties": {"a": {"type": "object", "properties": {"b": {"type": "array", "items": TEXT, "maxItems": 2}}}},
        "required": ["a"],
        "additionalProperties": {"type": "null"},
    },
    "reference": {
        "$defs": {"node": {"type": "object", "properties": NODE, "additionalProperties": False}},
        "anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}],
    },
    "pattern": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
    "tuple": {"type": "array", "prefixItems": [TEXT, {"type": "null"}], "minItems": 2, "items": False},
}
CLOSING = ('"', "}", "]", ",")


@pytest.fixture(scope="module")
def tokens(pocket: Path) -> Vocabulary:
    return read_vocabulary(pocket)


def allowed_tokens(mask: np.ndarray) -> np.ndarray:
    return np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))


def walk(schema: JSONSchema, tokens: Vocabulary, random: np.random.Generator) -> str:
    """A text of tokens chosen at random; now and then one that closes what is open, so that it ends."""
    constraint, stream = schema.constraint(tokens, 4096), TextStream()
    closes = np.array([tokens.piece(t).decode("utf-8", "replace").startswith(CLOSING) for t in range(4096)])
    for _ in range(2000):
        if constraint.finished:
            break
        choices = allowed_tokens(constraint.allowed())
        assert choices.size
        closing = choices[closes[choices]]
        token = int(random.choice(closing if closing.size and random.random() < 0.3 else choices))
        if token in tokens.ends:
            assert constraint.complete
            break
        constraint.take(token)
        stream.add(tokens.piece(token))
    assert constraint.complete
    return stream.text


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_any_choice_among_the_allowed_tokens_gives_json_of_the_schema(tokens: Vocabulary, name: str) -> None:
    schema = parse_schema(SCHEMAS[name])
    seen = set()
    for seed in range(6):
        text = walk(schema, tokens, np.random.default_rng(seed))
        jsonschema.validate(json.loads(text), SCHEMAS[name], jsonschema.Draft202012Validator)
        seen.add(text)
    assert len(seen) > 2  # the choice was a choice


def test_the_check_would_see_a_text_that_is_not_of_the_schema() -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"name": "x"}, SCHEMAS["object"], jsonschema.Draft202012Validator)


def test_no_more_than_its_end_may_follow_what_is_complete(tokens: Vocabulary) -> None:
    constraint = parse_schema({"const": "a"}).constraint(tokens, 4096)
    for token in tokens.encode('"a"'):
        assert token in allowed_tokens(constraint.allowed())
        constraint.take(token)

    assert (constraint.complete, constraint.finished) == (True, True)
    assert set(allowed_tokens(constraint.allowed())) == tokens.ends


def test_white_space_does_not_go_on_for_ever(tokens: Vocabulary) -> None:
    constraint = parse_schema({"type": "array", "items": {"type": "integer"}, "minItems": 1}).constraint(tokens, 4096)
    for token in tokens.encode("["):
        constraint.take(token)
    newline = tokens.encode("\n")[0]

    taken = 0
    while newline in allowed_tokens(constraint.allowed()):
        constraint.take(newline)
        taken += 1
    assert 1 < taken <= 40


def test_a_model_writes_json_of_a_schema_and_stops(tokens: Vocabulary) -> None:
    schema = parse_schema(SCHEMAS["object"])
    for seed in range(4):
        writer = Writer(FakeModel(tokens.path, []).session(context=512), tokens, 4096)
        sampler = Sampling(seed=seed, top_k=0, top_p=1.0, min_p=0.0).sampler()
        ask = Ask(prompt=[5, 6], count=500, sampler=sampler, constraint=schema.constraint(tokens, 4096))

        result = writer.write(ask)

        assert (result.ended, result.complete) == (END, True)
        jsonschema.validate(json.loads(result.text), SCHEMAS["object"])


def test_json_that_is_cut_off_is_said_to_be(tokens: Vocabulary) -> None:
    writer = Writer(FakeModel(tokens.path, []).session(context=512), tokens, 4096)
    schema = parse_schema(SCHEMAS["object"])
    ask = Ask(prompt=[5], count=2, sampler=Sampling(seed=1).sampler(), constraint=schema.constraint(tokens, 4096))

    result = writer.write(ask)

    assert (result.ended, result.complete, len(result.tokens)) == (COUNT, False, 2)


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "strin"}, r"at #: Invalid type: strin"),
        ({"properties": {"a": {"items": {"not": {}}}}}, r'at #/properties/a/items: Unimplemented keys: \["not"\]'),
        ({"anyOf": [{"type": "null"}, {"minimum": "x"}]}, r"at #/anyOf/1: Expected f64 for 'minimum'"),
        (
            {"$defs": {"d": {"pattern": "(("}}, "items": {"$ref": "#/$defs/d"}},
            r"at #/\$defs/d: regex .+ unclosed group",
        ),
        ({"$ref": "#/$defs/no"}, r"at #: Pointer '/\$defs/no' does not exist"),
        ({"properties": {"b": {"type": "array", "uniqueItems": True}}}, r"at #/properties/b: Unimplemented"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, r"at #: Unsatisfiable schema"),
        (True, r"a JSON schema is an object here, not True"),
        ([], r"a JSON schema is an object here, not \[\]"),
    ],
)
def test_a_schema_that_cannot_be_held_is_refused_with_its_place(schema: Any, expected: str) -> None:
    with pytest.raises(EngineError, match=rf"^the JSON schema: {expected}.*\.$"):
        parse_schema(schema)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"type":\n  "object",}', r"no JSON: line 2, column 12: "),
        (b"\xff", r"not UTF-8 text \(byte 0\)"),
        (b"[" * 100_000, r"nests too deeply"),
        (b" " * (1 << 20) + b"{}", r"at most 1048576 are read"),
        (b'{"type": "strin"}', r"at #: Invalid type"),
    ],
)
def test_a_file_that_holds_no_schema_is_refused(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "s.json"
    path.write_bytes(content)

    with pytest.raises(EngineError, match=rf"s\.json: .*{expected}"):
        read_schema(path)
    with pytest.raises(EngineError, match="there is no such file"):
        read_schema(tmp_path / "none.json")


def test_without_the_library_the_option_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)

    with pytest.raises(EngineError, match=r"needs llguidance, .+: pip install 'fewbits\[schema\]'"):
        parse_schema({"type": "object"})


def test_a_vocabulary_that_ends_nothing_is_refused(tokens: Vocabulary) -> None:
    endless = Vocabulary(tokens.path, tokens.metadata, frozenset(), tokens.tokenizer_file)

    with pytest.raises(EngineError, match="no token ends a text"):
        parse_schema({"type": "null"}).constraint(endless, 4096)
