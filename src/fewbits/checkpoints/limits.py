"""How much of anything a file may hold before it is read: far above what any model has, far below what would hurt.

A file that says more is refused after a look at counts and lengths, within a second and 100 MB, whatever its own size.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

JSON_BYTES = 16_000_000
"""Of a header or a JSON file. The header of 100,000 tensors has about 12 MB; one character beyond Unicode's first 65536
makes Python hold each character of a string in four bytes."""

JSON_VALUES = 1 << 20
"""Values and containers in it: Python needs 56 bytes and more for each, however short it is written."""

TOKENIZER_BYTES = 64_000_000
TOKENIZER_VALUES = 1 << 22
"""The same for tokenizer.json, of which real ones have 33 MB and two million values."""

METADATA_KEYS = 1 << 14
"""Of a GGUF file; models have some dozens."""

TENSORS = 1 << 15
"""Of a GGUF file, whose experts are stacked, or of an importance matrix; models have some thousands."""

ARRAY_NUMBERS = 1 << 21
"""In all arrays of a GGUF file's metadata; a vocabulary of 262,144 tokens has twice as many numbers as tokens."""

ARRAY_TEXTS = 1 << 21
"""The same of texts: tokens and merges."""

ARRAY_TEXT_BYTES = 1 << 26
TEXT_BYTES = 1 << 20
"""Of one text in an array: a token."""

METADATA_TEXT_BYTES = 1 << 24
"""Of all texts of a GGUF file's metadata that stand alone: names, templates, licences."""

SENTENCEPIECE_BYTES = 16_000_000
PIECES = 1 << 19
"""Of a SentencePiece model; real ones have up to 262,144."""

ONNX_GRAPH_BYTES = 1 << 27
"""Of an ONNX file beside its tensors' data: exporters write some kilobytes per node, where it came from included."""

ONNX_FIELDS = 1 << 19
"""Protobuf's fields in it; the graph of a large language model has some hundred thousand."""

ONNX_TEXT_BYTES = 1 << 24
"""Of one text in it: a name, a description, an entry of its metadata."""

ONNX_PACKED_BYTES = 1 << 24
"""Of whole numbers that take one byte in the file and eight in memory."""


def countless(shape: Iterable[int]) -> bool:
    """Whether elements, or those of a part, are more than a signed number of 64 bits counts.

    >>> countless((2**32, 2**32)), countless((2**32, 2**32, 0)), countless((2**31, 2**31, 0))
    (True, True, False)
    """
    return prod(n or 1 for n in shape) >= 1 << 63
