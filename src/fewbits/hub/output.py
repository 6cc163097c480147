"""A finished output on this machine: its files, the card beside it, and what a comparison found, as they may be shown.

What leaves this machine tells nothing of its folders: in the copies of card and comparison every path is its last part.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from fewbits.checkpoints.jsonfile import load_object
from fewbits.checkpoints.safetensors import INDEX_NAME, SINGLE_NAME, open_directory
from fewbits.digest import sha256_of_parts
from fewbits.errors import HubError
from fewbits.hub.facts import CardFacts, Quality, facts_of, quality_of
from fewbits.reporting.card import card_path

README = "README.md"


@dataclass(frozen=True)
class Output:
    """What can be uploaded: bytes of this machine by their names in a repository."""

    path: Path
    files: dict[str, Path]
    """Name in the repository -> the file, largest first."""
    sha256: dict[str, str]
    """Of those whose content the card states."""
    card: CardFacts
    quality: Quality | None
    texts: dict[str, bytes]
    """Name -> the copies of card and comparison."""
    notes: tuple[str, ...] = ()
    """What the user should know, one sentence each."""

    @property
    def bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.stat().st_size for file in self.files.values()) + sum(map(len, self.texts.values()))


def comparison_path(output: Path) -> Path:
    """Where `push` looks for what `fewbits compare --json` printed about `output`.

    >>> comparison_path(Path("model-Q4_K_M.gguf")).name
    'model-Q4_K_M.compare.json'
    """
    return output.with_name(card_path(output).name.removesuffix(".card.json") + ".compare.json")


def finished(path: Path, *, comparison: Path | None = None) -> Output:
    """The output at `path` with its card; raises HubError where one of them is missing or they do not belong together.

    `comparison` is a file of `fewbits compare --json`; None takes the one beside the output, where there is one.
    """
    weights = _weights(path)
    card_file = card_path(path)
    if not card_file.is_file():
        raise HubError(
            f"{path} has no {card_file.name} beside it, which quantize writes and from which the model card is made; "
            "put it back there, or quantize again."
        )
    raw = load_object(card_file)
    card = facts_of(raw, str(card_file))
    digest = sha256_of_parts(weights)
    if digest.whole != card.output_sha256:
        raise HubError(
            f"{weights[0]} is not the file that {card_file.name} is about (SHA-256 {digest.whole[:12]}..., and the "
            f"card says {card.output_sha256[:12]}...); quantize again."
        )
    files = {path.name: path} if path.is_file() else _files_of(path)
    texts = {card_file.name: _public(raw)}
    found, notes = (comparison, ()) if comparison is not None else _comparison_beside(path, weights)
    quality = None
    if found is not None:
        measured = load_object(found)
        quality = quality_of(measured, str(found), sum(file.stat().st_size for file in weights))
        texts[comparison_path(path).name] = _public(measured)
    digests = {file.name: each for file, each in zip(weights, digest.parts or (digest.whole,), strict=True)}
    return Output(path, files, digests, card, quality, texts, notes)


def _comparison_beside(path: Path, weights: tuple[Path, ...]) -> tuple[Path | None, tuple[str, ...]]:
    """The comparison that lies beside the output, unless it is older and so about another one."""
    found = comparison_path(path)
    if not found.is_file():
        return None, ()
    if found.stat().st_mtime < max(file.stat().st_mtime for file in weights):
        return None, (f"{found.name} is older than the output and is left out; compare again, or name it (--compare).",)
    return found, ()


def _weights(path: Path) -> tuple[Path, ...]:
    """The files whose SHA-256, one after another, the card states."""
    if path.is_file() and path.suffix.lower() == ".gguf":
        return (path,)
    if (path / "config.json").is_file() and (path / INDEX_NAME).is_file():
        return tuple(file for file in open_directory(path)[1] if file.name != INDEX_NAME)
    if (path / "config.json").is_file() and (path / SINGLE_NAME).is_file():
        return (path / SINGLE_NAME,)
    missing = "does not exist" if not path.exists() else "is no output of quantize"
    raise HubError(f"{path} {missing}; give the GGUF file or the model directory that it wrote.")


def _files_of(folder: Path) -> dict[str, Path]:
    """Every file but hidden ones and a README, which is written anew."""
    found = {p.relative_to(folder): p for p in folder.rglob("*") if p.is_file()}
    names = {n: p for n, p in found.items() if str(n) != README and not any(part.startswith(".") for part in n.parts)}
    return {n.as_posix(): p for n, p in sorted(names.items(), key=lambda item: (-item[1].stat().st_size, item[0]))}


def _public(data: dict[str, Any]) -> bytes:
    return json.dumps(_without_folders(data), indent=1, ensure_ascii=False).encode() + b"\n"


def _without_folders(value: Any) -> Any:
    if isinstance(value, str):
        return _last_part(value)
    if isinstance(value, dict):
        return {_last_part(key): _without_folders(item) for key, item in value.items()}
    return [_without_folders(item) for item in value] if isinstance(value, list) else value


def _last_part(text: str) -> str:
    """The name at the end of a path from the root of a disk or of a home; any other text as it is.

    >>> _last_part("/home/me/secret/model.gguf"), _last_part("org/name"), _last_part("C:\\\\me\\\\model.gguf")
    ('model.gguf', 'org/name', 'model.gguf')
    """
    if PureWindowsPath(text).drive and "\\" in text:
        return PureWindowsPath(text).name
    return PurePosixPath(text).name if text.startswith(("/", "~", "../")) else text
