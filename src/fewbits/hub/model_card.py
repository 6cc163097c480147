"""README.md of an uploaded model: front matter for the hub, and what the cards of its files say, for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fewbits.errors import CheckpointError
from fewbits.hub.facts import CardFacts, Quality
from fewbits.models import architectures
from fewbits.reporting import figures

MARK = "<!-- Written by fewbits from the cards of these files; the next `fewbits push` writes it again. -->"
"""Says that the README may be replaced: one without it is somebody's own."""


@dataclass(frozen=True)
class Section:
    """One file of the repository, and what is known of it."""

    card: CardFacts
    quality: Quality | None = None


def model_card(
    repository: str, sections: Iterable[Section], *, base_model: str | None, license: Mapping[str, str], library: str
) -> str:
    """README.md for `repository` with one section per file, the one that is uploaded now first."""
    every = list(sections)
    first = every[0].card
    matter = front_matter(repository, first, base_model=base_model, license=license, library=library)
    head = [f"# {_plain(repository.rsplit('/', maxsplit=1)[-1])}", "", MARK, "", _origin(first, base_model)]
    return "\n".join([matter, *head, *(line for section in every for line in _section(section)), ""])


def front_matter(
    repository: str, card: CardFacts, *, base_model: str | None, license: Mapping[str, str], library: str
) -> str:
    """The YAML between two lines of dashes, by the keys that the hub knows."""
    from huggingface_hub import ModelCardData

    stated: dict[str, Any] = dict(license)
    if base_model is not None:
        stated |= {"base_model": base_model, "base_model_relation": "quantized"}
    task = _task(card.architecture)
    stated |= {"quantized_by": repository.split("/", maxsplit=1)[0], "library_name": library}
    stated |= {"pipeline_tag": task} if task else {}
    tags = [library, "fewbits", "quantized", card.recipe]
    stated["tags"] = list(dict.fromkeys(tag for tag in tags if tag))
    return f"---\n{ModelCardData(**stated).to_yaml()}\n---"


def _task(architecture: str) -> str | None:
    """What the hub calls what a model does; None for an architecture that is not known here."""
    try:
        found = [each for each in architectures() if each.gguf == architecture]
    except CheckpointError:  # a file of the user's is wrong: no reason to hold an upload back
        found = []
    if not found:
        return None
    return "feature-extraction" if found[0].encoder else "text-generation"


def _origin(card: CardFacts, base_model: str | None) -> str:
    of = f" from [{base_model}](https://huggingface.co/{base_model})" if base_model else ""
    at = f" at commit `{card.commit}`" if card.commit and card.repository == base_model else ""
    return (
        f"Quantized{of}{at} with fewbits {_plain(card.version)}. Each file was read back by independent code and "
        "compared, tensor by tensor, with the weights that it was made from."
    )


def _section(section: Section) -> list[str]:
    card = section.card
    facts = [
        ("recipe", _plain(card.recipe)),
        ("architecture", f"{_plain(card.architecture)}, {figures.count(card.parameters)} parameters"),
        ("size", f"{figures.size(card.bytes_out)} of {figures.size(card.bytes_in)}"),
        ("bits per weight", f"{card.bits_per_weight:.3f}"),
        (f"not {_plain(card.nominal_format)}", f"{figures.percent(card.share_not_nominal)} of the parameters"),
        ("fallbacks", f"{card.fallbacks} tensors, whose shape did not fit" if card.fallbacks else "none"),
        ("method", ", ".join(map(_plain, card.methods))),
        *_inputs(card),
        ("SHA-256", f"`{card.output_sha256}`"),
    ]
    return [
        "",
        f"## {_plain(card.name)}",
        "",
        *_table(("", ""), facts),
        "",
        *_table(("format", "tensors", "parameters", "bits per weight", "relative RMS error"), _formats(card)),
        *(_quality(section.quality) if section.quality else ()),
    ]


def _inputs(card: CardFacts) -> list[tuple[str, str]]:
    """What else the codes depend on."""
    found = []
    if card.rotation is not None:
        found.append(("rotation", _plain(card.rotation)))
    if card.importance is not None:
        found.append(("importance", f"measured on {_plain(card.importance) or 'a text without a name'}"))
    if card.calibration is not None:
        text = card.calibration
        found.append(("calibration", f"{text.tokens} tokens, SHA-256 of their ids `{text.sha256}`"))
        found.append(("kept by the guard", f"{text.kept} of {text.solved} matrices"))
    return found


def _formats(card: CardFacts) -> list[tuple[str, ...]]:
    return [
        (
            _plain(f.format),
            str(f.tensors),
            figures.count(f.parameters),
            f"{f.bits_per_weight:.3f}",
            "" if f.relative_rms is None else figures.error(f.relative_rms),
        )
        for f in card.formats
    ]


def _quality(quality: Quality) -> list[str]:
    said = f"Measured on {_plain(quality.text)}" + (f": {_plain(quality.protocol)}." if quality.protocol else ".")
    return ["", *_table(("", "original", "quantized"), quality.rows), "", said]


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    return [_line(head), _line(("---",) * len(head)), *map(_line, rows)]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(text: str) -> str:
    """`text` on one line, without what Markdown or HTML would take for its own: a card may say anything.

    >>> _plain("<script>|\\n# x")
    '&lt;script&gt;\\\\| # x'
    """
    flat = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for sign in "|`[]":
        flat = flat.replace(sign, f"\\{sign}")
    return "".join(c for c in flat if c.isprintable())
