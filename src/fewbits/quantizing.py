"""`fewbits.quantize`: hashing of the source begins at once, while the modules that quantize are still being read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewbits.digest import Digests
from fewbits.request import CalibrationRequest, Progress, Request, silent
from fewbits.workers import Workers, usable_threads

if TYPE_CHECKING:
    from fewbits.reporting.record import Preview, Record


def quantize(
    source: str | Path,
    output: str | Path,
    *,
    to: str | Path = "Q4_K_M",
    tensors: Mapping[str, str] | Iterable[str] = (),
    importance: str | Path | None = None,
    method: str | None = None,
    calibration: Any = None,
    guard: str | Path | None = None,
    target_text: str | Path | Sequence[str | Path] | None = None,
    write_importance: str | Path | None = None,
    windows: int = 128,
    sequence_length: int = 512,
    force: bool = False,
    dry_run: bool = False,
    threads: int | None = None,
    seed: int = 0,
    revision: str | None = None,
    split_size: int | str | None = None,
    architecture: str | Path | None = None,
    on_preview: Callable[[Preview], None] | None = None,
    progress: Progress | None = None,
) -> Record | Preview:
    """Quantize `source` (HF directory, hub id, or F32/F16/BF16 GGUF) into `output`, verified.

    `output` is a GGUF file, or where its name has no ending a model directory with fields of any format.
    `to` names a recipe or a TOML file that states one. `tensors` gives some tensors other formats: {"blk.*.ffn_down":
    "Q6_K"} or ["blk.*.ffn_down=Q6_K"]. `importance` is a file of llama-imatrix by which errors are weighed. `method`
    says how codes are chosen: "nearest", or by what text does to the model, "gptq" or "gptq_search" (None: the latter
    with `calibration`, a path, several, or texts, else nearest). Transforms may come first, "awq+gptq", and a rotation
    of the model by `seed`, "hadamard+gptq"; "outliers+gptq" keeps columns of the largest inputs in 16 bits, and
    "gptq+learned" lets layers learn afterwards. A recipe may bring its own method. Methods that look at text take a
    built-in mix without it: `windows` windows of `sequence_length` tokens, and judge the codes on the text of `guard`.
    `target_text`, one file or one per group, is compared with the calibration text; `write_importance` keeps what was
    measured, as importance matrices. `split_size` (bytes, or "2G") writes a GGUF file as parts of at most that size.
    `architecture` is a TOML file of facts (docs/architectures.md), known from then on. `threads` None means all
    processors. Returns the record, also written beside `output` as a card, or the preview when `dry_run`. Raises
    FewbitsError, one sentence, and leaves nothing on failure.
    """
    text = Path(calibration) if isinstance(calibration, str) else calibration
    texts = (text, _path(guard), _paths(target_text), _path(write_importance), windows, sequence_length)
    request = Request(
        source=str(source),
        output=Path(output),
        recipe=to,
        tensors=tensors,
        importance=_path(importance),
        method=method,
        calibration=CalibrationRequest(*texts),
        force=force,
        dry_run=dry_run,
        seed=seed,
        revision=revision,
        split_size=split_size,
        architecture=_path(architecture),
        progress=progress or silent,
        started=time.perf_counter(),
    )
    return _quantize(request, threads, on_preview)


def _quantize(request: Request, threads: int | None, on_preview: Callable[[Preview], None] | None) -> Record | Preview:
    if request.architecture is not None:
        from fewbits.models import add_architecture

        add_architecture(request.architecture)
    with Workers(usable_threads(threads)) as workers:
        digests = Digests(workers)
        weights = _weights(Path(request.source).expanduser())
        if weights is not None and not request.dry_run:
            digests.begin(weights)
        from fewbits.pipeline import run  # reading its modules takes a tenth of a second or two

        return run(request, workers, digests, on_preview)


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)


def _paths(given: str | Path | Sequence[str | Path] | None) -> tuple[Path, ...]:
    several = (given,) if isinstance(given, str | Path) else given or ()
    return tuple(Path(each) for each in several)


def _weights(source: Path) -> Path | None:
    """The file that will be read, as far as names tell: of a directory with an index, no single one."""
    if (source / "model.safetensors.index.json").exists():
        return None
    return next((path for path in (source, source / "model.safetensors") if path.is_file()), None)
