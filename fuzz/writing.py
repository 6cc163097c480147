"""What the engine reads beside weights: the tokens of a file as text, and JSON schemas."""

from __future__ import annotations

import json
from pathlib import Path

from fewbits.checkpoints.base import Value
from fewbits.engine.vocabulary import Vocabulary


def read_tokens(path: Path) -> None:
    """A file's tokens as bytes, and a text as tokens."""
    from fewbits.engine.vocabulary import read_vocabulary

    vocabulary = read_vocabulary(path)
    for token in range(min(len(vocabulary.tokens), 500)):
        vocabulary.piece(token)
    assert all(isinstance(each, int) for each in (*vocabulary.ends, *vocabulary.encode("ab c")))
    assert isinstance(vocabulary.special_text("bos"), str)


def schema_seeds() -> list[bytes]:
    """Schemas with every keyword that is looked into, and one of each kind of leaf."""
    leaves = [
        {"type": "string", "maxLength": 3, "pattern": "^a+$"},
        {"type": "number", "minimum": 1},
        {"enum": [1, "x"]},
    ]
    whole = {"$defs": {"a": leaves[0]}, "type": "object", "properties": {"b": {"$ref": "#/$defs/a"}, "c": leaves[1]}}
    listed = {"type": "array", "prefixItems": leaves, "items": {"anyOf": leaves}, "maxItems": 4}
    return [json.dumps(each).encode() for each in (whole, listed, {"allOf": [whole], "required": ["b"]}, leaves[2])]


def read_schema_file(path: Path) -> None:
    """A schema, and the first steps of a text that is held to it."""
    from fewbits.engine.schema import read_schema

    constraint = read_schema(path).constraint(_BYTES, len(_BYTES.tokens))
    for token in b'{"b":"a"':
        if not constraint.allowed()[token // 32] >> (token % 32) & 1:
            break
        constraint.take(token)


_BYTES = Vocabulary(
    Path("bytes"),
    {
        "tokenizer.ggml.model": Value("llama", "string"),
        "tokenizer.ggml.tokens": Value([*(chr(n) for n in range(128)), "</s>"], "array:string"),
        "tokenizer.ggml.scores": Value([0.0] * 129, "array:float32"),
        "tokenizer.ggml.token_type": Value([*[1] * 128, 3], "array:int32"),
    },
    frozenset({128}),
)
"""A vocabulary of ASCII's characters and an end."""
