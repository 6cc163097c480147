"""An adapter merged into its base: W + scale B A as floats, and from there into any format, with what that cost.

The sum is written as a plain model directory, tensor by tensor. To another format it goes the way of every model:
`fewbits.quantize`, which verifies what it wrote against that directory.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fewbits.checkpoints.fields import StoredMatrix
from fewbits.checkpoints.partial_file import PartialDirectory, partial_path, sync_folder
from fewbits.errors import TrainingError
from fewbits.loading.pieces import Made, Piece, numbers
from fewbits.loading.sources import Source, open_source
from fewbits.quantizing import quantize_checkpoint
from fewbits.reporting.record import Record
from fewbits.request import Progress, silent
from fewbits.training.lora.base import base_at, require_same
from fewbits.training.lora.reading import Adapter, Pair
from fewbits.training.plain_directory import PlainDirectory

_LOG = logging.getLogger("fewbits")
FLOATS: Mapping[str, torch.dtype] = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class Change:
    """One matrix that was adapted."""

    name: str
    change: float
    """|scale B A| / |W|: how far the merged matrix is from the base's."""
    error: float
    """|stored - (W + scale B A)| / |W + scale B A|: what rounding to the output's format took."""


Changes = dict[str, Change]


@dataclass(frozen=True)
class Merged:
    """What `merge_adapter` did."""

    output: Path
    to: str
    changes: tuple[Change, ...]
    notes: tuple[str, ...]
    record: Record | None
    """Of the quantization, where there was one."""

    @property
    def words(self) -> str:
        """One sentence for people."""
        change, error = (_mean([getattr(each, what) for each in self.changes]) for what in ("change", "error"))
        worse = sum(each.error > each.change for each in self.changes)
        return (
            f"{len(self.changes)} matrices were merged: the adapter changes them by {100 * change:.3f}% of their norm "
            f"in the mean, and rounding to {self.to} by {100 * error:.3f}%; {worse} of them by more than the adapter."
        )


def merge_adapter(
    base: str | Path,
    adapter: str | Path,
    output: str | Path,
    *,
    to: str | Path = "BF16",
    dialect: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Merged:
    """Write the model `base`, quantized or not, with `adapter` in its weights to `output`.

    `to` is BF16, F16 or F32, which makes a plain model directory, or a format or recipe as `fewbits.quantize` takes it,
    for a GGUF file or a directory in `dialect`; the merged floats lie beside the output meanwhile. How far the adapter
    moves each matrix and what rounding takes of it is in the result, and in OUTPUT.merge.json. Raises a FewbitsError
    and leaves nothing where the adapter is of another base, or something cannot be written.
    """
    source, path, target, report = Path(base), Path(adapter), Path(output), progress or silent
    if target.exists() and not force:
        raise TrainingError(f"{target} exists already; choose another output, or replace it (force).")
    opened, merged = Adapter.open(path), open_source(source)
    notes = require_same(path, opened.base, base_at(source))
    pairs = _by_piece(merged, opened)
    plain = str(to) in FLOATS and target.suffix != ".gguf" and dialect is None
    wide = FLOATS[str(to)] if plain else torch.float32
    floats = target if plain else target.with_name(f".{target.name}.merged")
    growing = PartialDirectory(partial_path(floats), floats)
    try:
        changes = _write(merged, pairs, PlainDirectory(growing.path, wide), report, turned=opened.turned)
        if plain:
            _publish(growing, target)
            return _noted(Merged(target, str(to), tuple(changes.values()), notes, None))
        record = _quantized(growing.path, target, to, dialect, force=force, progress=report)
        return _noted(Merged(target, str(to), _with_errors(changes, record), notes, record))
    finally:
        growing.discard()


def _noted(merged: Merged) -> Merged:
    """Write what was done beside the output, and say it."""
    said = {"output": str(merged.output), "to": merged.to, "notes": merged.notes, "words": merged.words}
    text = json.dumps({**said, "matrices": [asdict(each) for each in merged.changes]}, indent=1)
    beside = merged.output.with_name(f"{merged.output.name}.merge.json")
    growing = partial_path(beside)
    growing.write_text(text + "\n", encoding="utf-8")
    growing.replace(beside)
    _LOG.info(merged.words)
    return merged


def _by_piece(source: Source, adapter: Adapter) -> dict[str, Pair]:
    """Name of a piece -> its adapter; raises TrainingError where the base has no such matrix."""
    prefix = f"{source.network.base_model_prefix}."
    names: dict[str, str] = {}
    for module in adapter.pairs:
        stems = (module, prefix + module, module.removeprefix(prefix))
        found = next((f"{stem}.weight" for stem in stems if f"{stem}.weight" in source.pieces), None)
        if found is not None:
            names[module] = found
    adapter.require_fitting({module: _sides(source.pieces[name], adapter) for module, name in names.items()})
    return {names[module]: pair for module, pair in adapter.pairs.items()}


def _sides(piece: Piece, adapter: Adapter) -> tuple[int, int]:
    """Of the matrix: rows are outputs."""
    if isinstance(piece, StoredMatrix):
        return piece.shape[0], piece.shape[1]
    shape = numbers(piece).shape if isinstance(piece, Made) else piece.shape
    rows, cols = reversed(shape[:2]) if adapter.turned else shape[:2]
    return rows, cols


def _write(
    source: Source, pairs: Mapping[str, Pair], folder: PlainDirectory, progress: Progress, *, turned: bool
) -> Changes:
    changes = {}
    for at, (name, piece) in enumerate(source.pieces.items()):
        if name in pairs:
            own, change = numbers(piece), pairs[name].change()
            merged = own + (change.T if turned else change)
            folder.add(name, merged)
            error = _relative(merged.to(folder.dtype).float() - merged, merged)
            changes[name] = Change(name, _relative(change, own), error)
        else:
            folder.copy(name, piece)
        progress("merge", at + 1, len(source.pieces))
    folder.close(source)
    return changes


def _relative(difference: torch.Tensor, of: torch.Tensor) -> float:
    return float(difference.norm() / of.norm().clamp_min(torch.finfo(torch.float32).tiny))


def _quantized(
    folder: Path, output: Path, to: str | Path, dialect: str | None, *, force: bool, progress: Progress
) -> Record:
    options: dict[str, Any] = {"to": to, "dialect": dialect, "force": force, "progress": progress}
    record = quantize_checkpoint(folder, output, **options)
    assert isinstance(record, Record), "nothing was asked to be dry"
    return record


def _with_errors(changes: Mapping[str, Change], record: Record) -> tuple[Change, ...]:
    """With what quantization took of each, which the record knows by the tensor's name."""
    errors = {tensor.planned.source_name: tensor.relative_rms for tensor in record.tensors}
    return tuple(replace(each, error=errors.get(each.name, each.error)) for each in changes.values())


def _publish(growing: PartialDirectory, output: Path) -> None:
    if output.exists():
        shutil.rmtree(output) if output.is_dir() else output.unlink()
    growing.path.rename(output)
    growing.close()
    sync_folder(output.parent)


def _mean(figures: list[float]) -> float:
    return sum(figures) / len(figures)
