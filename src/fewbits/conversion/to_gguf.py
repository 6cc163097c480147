"""Into a GGUF file, whose types are the formats of the directory, or the same numbers under other names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from fewbits import methods
from fewbits.checkpoints.base import Conversion, Placement
from fewbits.checkpoints.fields import PLAIN
from fewbits.checkpoints.huggingface import convert_directory
from fewbits.checkpoints.partial_file import partial_path
from fewbits.checkpoints.row_tensors import RowReader
from fewbits.conversion.job import METHOD, Job, Piece, commonest, planned_tensor, preview_of
from fewbits.conversion.sources import Source
from fewbits.digest import OutputDigest
from fewbits.encoding import encode_slab
from fewbits.expecting import require_planned
from fewbits.formats import Fields
from fewbits.gguf_target import GGUFTarget
from fewbits.planning import Recipe
from fewbits.reporting.record import PlannedTensor
from fewbits.verification.files import open_written, verify
from fewbits.verification.matrices import Expectation
from fewbits.verification.sources import expect_directory
from fewbits.workers import Workers


def to_gguf(source: Source, output: Path, target: GGUFTarget) -> Job:
    """A GGUF file or its parts, whose types are the formats of the directory, or the same under other names."""
    quantized = source.reader if source.dialect else None
    rows = RowReader(quantized) if quantized is not None else None
    conversion = target.accept(convert_directory(source.folder, quantized=rows))
    pieces = tuple(_file_piece(target, placement) for placement in conversion.placements)
    planned = [piece.planned for piece in pieces]
    recipe = Recipe(METHOD, commonest(planned), "", "what the source holds, as it is", ())
    prepared = target.prepare(conversion, planned, recipe, None)
    preview = preview_of(source, output, pieces, prepared.size, "gguf")
    parts = prepared.parts(output)
    return Job(
        output=output,
        preview=replace(
            preview,
            architecture=conversion.architecture,
            notes=(*preview.notes, *conversion.notes, *prepared.notes),
            parts=tuple(path.name for path in parts),
        ),
        pieces=pieces,
        files=source.files,
        size=prepared.size,
        open=lambda: prepared.open(output),
        verify=partial(_verify_file, source, conversion, parts or (output,), prepared.metadata),
    )


def _file_piece(target: GGUFTarget, placement: Placement) -> Piece:
    stored = placement.source
    quantized = stored.format not in PLAIN
    planned = planned_tensor(placement.name, stored, stored.format if quantized else target.plain_format(placement))
    same = quantized or planned.format == stored.format
    fields = partial(_rows, placement) if same else partial(_widened, placement, planned)
    return Piece(planned, Expectation(stored, placement.order, planned.format, 0.0), fields, placement.name)


def _rows(placement: Placement) -> Fields:
    return {"data": placement.slab(0, placement.source.rows)}


def _widened(placement: Placement, planned: PlannedTensor) -> Fields:
    """A plain tensor in the wider type that GGUF wants it in."""
    slab = placement.slab(0, placement.source.rows)
    return encode_slab(methods.get("nearest"), planned, placement.source.format, slab).fields


def _verify_file(
    source: Source,
    conversion: Conversion,
    files: tuple[Path, ...],
    metadata: Mapping[str, object],
    expected: Mapping[str, Expectation],
    workers: Workers,
    progress: Callable[[int, int], None],
) -> OutputDigest:
    """Where each tensor comes from, the facts of the architecture say; what was computed stays expected as it is."""
    written = tuple(map(partial_path, files))
    origins = expect_directory(source.folder, open_written(written), source.numbers)
    found = {
        name: replace(want, source=origins[name].source, order=origins[name].order, add=origins[name].add)
        if name in origins
        else want
        for name, want in expected.items()
    }
    require_planned(origins, expected)
    return verify(written, metadata, found, workers, progress)  # type: ignore[arg-type]
