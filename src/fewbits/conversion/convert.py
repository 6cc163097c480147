"""`fewbits.convert`: from one container or dialect to another, number for number.

Hashing of the source begins at once, while the modules that convert are still being read.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fewbits.digest import Digests
from fewbits.request import Progress, silent
from fewbits.workers import Workers, usable_threads

if TYPE_CHECKING:
    from fewbits.reporting.record import Preview, Record


def convert(
    source: str | Path,
    output: str | Path,
    *,
    dialect: str | None = None,
    like: str | Path | None = None,
    split_size: int | str | None = None,
    force: bool = False,
    dry_run: bool = False,
    threads: int | None = None,
    revision: str | None = None,
    on_preview: Callable[[Preview], None] | None = None,
    progress: Progress | None = None,
) -> Record | Preview:
    """Write the model `source` (model directory in any dialect, hub id, GGUF or ONNX file) as `output`, as it is.

    `output` is a GGUF file, or without an ending a model directory, whose matrices lie as `dialect` says
    (docs/containers.md; None: "fewbits"). A GGUF file has no configuration of transformers': `like` is the model
    directory that it was made from. An ONNX file becomes one in another dialect (None: "matmulnbits"). `split_size`
    (bytes, or "2G") limits the files of weights, but for one of a single tensor. No number is rounded. Returns the
    record, also written beside `output` as a card, or the preview when `dry_run`. Raises
    FewbitsError, one sentence, before any work where a container cannot hold a format, and leaves nothing on failure.
    """
    started = time.perf_counter()
    with Workers(usable_threads(threads)) as workers:
        digests = Digests(workers)
        if not dry_run:
            for weights in _weights(Path(source).expanduser()):
                digests.begin(weights)
        from fewbits.conversion.run import Asked, plan, run  # reading its modules takes half a second

        asked = Asked(Path(output), dialect, like, split_size, force=force, dry_run=dry_run)
        job = plan(str(source), asked, revision=revision)
        if on_preview:
            on_preview(job.preview)
        return job.preview if dry_run else run(job, workers, digests, progress or silent, started)


def _weights(source: Path) -> list[Path]:
    """The files that will be read, as far as names tell."""
    return sorted(source.glob("*.safetensors")) if source.is_dir() else [source] if source.is_file() else []
