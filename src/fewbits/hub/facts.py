"""What a model card needs of a card's or a comparison's JSON, each value of the type that it should be.

The files may come from anywhere: a repository can hold cards that somebody else wrote.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from fewbits.checkpoints.quoting import quoted
from fewbits.errors import HubError
from fewbits.reporting.record import SCHEMA

KEPT = "kept"
"""The method of tensors that are stored as they were."""

_LONGEST = 200
"""Characters of a text that are taken over."""


@dataclass(frozen=True)
class FormatFact:
    """All tensors of one format."""

    format: str
    tensors: int
    parameters: int
    bits_per_weight: float
    relative_rms: float | None


@dataclass(frozen=True)
class CalibrationFact:
    """The text that codes were chosen by, and how many of them the guard kept."""

    sha256: str
    tokens: int
    kept: int
    solved: int


@dataclass(frozen=True)
class CardFacts:
    """One finished quantization, as its card tells it."""

    name: str
    """Of the output, without its folder."""
    recipe: str
    nominal_format: str
    architecture: str
    parameters: int
    bytes_in: int
    bytes_out: int
    bits_per_weight: float
    share_not_nominal: float
    formats: tuple[FormatFact, ...]
    methods: tuple[str, ...]
    fallbacks: int
    output_sha256: str
    version: str
    importance: str | None
    rotation: str | None
    calibration: CalibrationFact | None
    repository: str | None
    """Where the source came from, and its commit; None for a path of some machine."""
    commit: str | None
    source: str
    """What was asked for: a hub id or a path."""
    license: Mapping[str, str]


@dataclass(frozen=True)
class Quality:
    """What a comparison measured, as rows of (what, original, quantized)."""

    rows: tuple[tuple[str, str, str], ...]
    text: str
    protocol: str


def _is_number(value: object) -> TypeGuard[float]:
    return type(value) in (int, float) and abs(value) < 1e300  # type: ignore[arg-type]


class _Reader:
    """Takes values out of JSON by the names of their keys; raises HubError where one is not what it should be."""

    def __init__(self, where: str) -> None:
        self._where = where

    def _refuse(self, key: str, value: object) -> HubError:
        return HubError(
            f"{self._where} has {key} = {quoted(value)}, and quantize writes no such thing; it is damaged, or written "
            "by another version."
        )

    def text(self, data: Mapping[str, Any], key: str) -> str:
        """The text under `key`, cut where it is longer than any name is."""
        value = data.get(key)
        if not isinstance(value, str):
            raise self._refuse(key, value)
        return value[:_LONGEST]

    def optional(self, data: Mapping[str, Any] | None, key: str) -> str | None:
        """The same; None where there is none."""
        return None if data is None or data.get(key) is None else self.text(data, key)

    def count(self, data: Mapping[str, Any], key: str) -> int:
        """The whole number under `key`, none below zero."""
        value = data.get(key)
        if type(value) is not int or not 0 <= value < 2**63:
            raise self._refuse(key, value)
        return value

    def number(self, data: Mapping[str, Any], key: str) -> float:
        """The number under `key`."""
        value = data.get(key)
        if not _is_number(value):
            raise self._refuse(key, value)
        return float(value)

    def object(self, data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
        """The JSON object under `key`."""
        value = data.get(key)
        if not isinstance(value, dict):
            raise self._refuse(key, value)
        return value

    def maybe_object(self, data: Mapping[str, Any], key: str) -> Mapping[str, Any] | None:
        """The same; None where there is none."""
        return None if data.get(key) is None else self.object(data, key)

    def objects(self, data: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
        """The list of JSON objects under `key`."""
        value = data.get(key)
        if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
            raise self._refuse(key, value)
        return value

    def digest(self, data: Mapping[str, Any], key: str) -> str:
        """The SHA-256 under `key`, in hexadecimal."""
        value = data.get(key)
        if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{64}", value):
            raise self._refuse(key, value)
        return value


def facts_of(raw: Mapping[str, Any], where: str) -> CardFacts:
    """What the card `raw` says; raises HubError, which calls it `where`, when it is no card of this version."""
    read = _Reader(where)
    if raw.get("schema") != SCHEMA:
        raise HubError(f"{where} is no card of schema {SCHEMA}, the one that this fewbits writes; quantize again.")
    preview = read.object(raw, "preview")
    hub = read.maybe_object(preview, "hub")
    stated = read.object(hub, "license") if hub else {}
    return CardFacts(
        name=re.split(r"[/\\]", read.text(preview, "output"))[-1],
        recipe=read.text(preview, "recipe"),
        nominal_format=read.text(preview, "nominal_format"),
        architecture=read.text(preview, "architecture"),
        parameters=read.count(preview, "parameters"),
        bytes_in=read.count(preview, "bytes_in"),
        bytes_out=read.count(preview, "bytes_out"),
        bits_per_weight=read.number(preview, "bits_per_weight"),
        share_not_nominal=read.number(preview, "share_not_nominal"),
        formats=tuple(_format(read, each) for each in read.objects(raw, "formats")),
        methods=tuple(sorted({read.text(t, "method") for t in read.objects(raw, "tensors")} - {KEPT})) or (KEPT,),
        fallbacks=len(read.objects(preview, "fallbacks")),
        output_sha256=read.digest(raw, "output_sha256"),
        version=read.text(read.object(raw, "versions"), "fewbits"),
        importance=read.optional(read.maybe_object(preview, "importance"), "text"),
        rotation=read.optional(read.maybe_object(preview, "rotation"), "name"),
        calibration=_calibration(read, preview, raw),
        repository=read.optional(hub, "repository"),
        commit=read.optional(hub, "commit"),
        source=read.text(preview, "source"),
        license={key: read.text(stated, key) for key in ("license", "license_name", "license_link") if key in stated},
    )


def _format(read: _Reader, raw: Mapping[str, Any]) -> FormatFact:
    error = None if raw.get("relative_rms") is None else read.number(raw, "relative_rms")
    name, bits = read.text(raw, "format"), read.number(raw, "bits_per_weight")
    return FormatFact(name, read.count(raw, "tensors"), read.count(raw, "parameters"), bits, error)


def _calibration(read: _Reader, preview: Mapping[str, Any], raw: Mapping[str, Any]) -> CalibrationFact | None:
    plan, result = read.maybe_object(preview, "calibration"), read.maybe_object(raw, "calibration")
    if plan is None or result is None:
        return None
    sha256 = read.digest(read.object(plan, "text"), "sha256")
    return CalibrationFact(
        sha256, read.count(plan, "tokens"), read.count(result, "kept"), read.count(result, "tensors")
    )


_Row = tuple[str, str | None, str | None, Callable[[float], str]]
"""What, key of the original's figure, key of the quantized one's, how it is written."""

_ROWS: tuple[_Row, ...] = (
    ("perplexity", "perplexity_original", "perplexity_quantized", lambda n: f"{n:.4f}"),
    ("KL divergence, mean (nats per token)", None, "kl_divergence_mean", lambda n: f"{n:.5f}"),
    ("KL divergence, 99% of the tokens are below", None, "kl_divergence_p99", lambda n: f"{n:.5f}"),
    ("same most likely token", None, "top1_agreement", lambda n: f"{n:.2%}"),
    ("cosine of embeddings, mean", None, "embedding_cosine_mean", lambda n: f"{n:.6f}"),
    ("cosine of states, mean", None, "token_cosine_mean", lambda n: f"{n:.6f}"),
    ("squared error of states, relative", None, "state_error_mean", lambda n: f"{n:.6f}"),
    ("same nearest window", None, "nearest_agreement", lambda n: f"{n:.2%}"),
    ("bytes", "bytes_original", "bytes_quantized", lambda n: f"{n:.0f}"),
)


def quality_of(raw: Mapping[str, Any], where: str, size: int | None = None) -> Quality:
    """What `fewbits compare --json` printed; raises HubError where it is something else.

    `size` are the bytes of the weights that it has to be about; None where they are not at hand.
    """
    read = _Reader(where)
    if size is not None and read.count(raw, "bytes_quantized") != size:
        raise HubError(
            f"{where} compares a model of {raw['bytes_quantized']} bytes, and this one has {size}; compare this one, "
            "with --json."
        )
    rows = tuple(_row(read, raw, row) for row in _ROWS if _measured(raw, row[2]))
    tokens, windows, context = (read.count(raw, key) for key in ("tokens", "windows", "context"))
    text = re.split(r"[/\\]", read.text(raw, "text"))[-1]
    said = f"{text} (SHA-256 {read.digest(raw, 'text_sha256')}), {tokens} tokens in {windows} windows of {context}"
    protocol = raw.get("protocol")
    return Quality(rows, said, protocol[: 3 * _LONGEST] if isinstance(protocol, str) else "")


def _measured(raw: Mapping[str, Any], key: str | None) -> bool:
    """Whether the comparison has this figure; one that is no number (infinity became null) is left out."""
    return _is_number(raw.get(key or ""))


def _row(read: _Reader, raw: Mapping[str, Any], row: _Row) -> tuple[str, str, str]:
    what, before, after, shown = row
    first, second = ("" if key is None else shown(read.number(raw, key)) for key in (before, after))
    return what, first, second
