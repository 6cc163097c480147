"""`fewbits.quantize`: hashing of the source begins at once, while the modules that quantize are still being read."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fewbits.digest import Digests
from fewbits.errors import CalibrationError, HubError
from fewbits.request import CalibrationRequest, Progress, Request, silent
from fewbits.workers import Workers, usable_threads

if TYPE_CHECKING:
    from fewbits.reporting.record import Preview, PushPlan, Record


def quantize_checkpoint(
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
    dialect: str | None = None,
    allow_pickle: bool = False,
    push: str | None = None,
    public: bool = False,
    observer: str | None = None,
    on_preview: Callable[[Preview], None] | None = None,
    progress: Progress | None = None,
) -> Record | Preview:
    """`quantize` of a checkpoint, which explains every option; raises FewbitsError and leaves nothing then."""
    request = Request(
        source=str(source),
        output=Path(output),
        recipe=to,
        tensors=tensors,
        importance=_path(importance),
        method=method,
        calibration=CalibrationRequest(
            _text(calibration), _path(guard), _paths(target_text), _path(write_importance), windows, sequence_length
        ),
        force=force,
        dry_run=dry_run,
        seed=seed,
        revision=revision,
        dialect=dialect,
        split_size=split_size,
        architecture=_path(architecture),
        pickles=allow_pickle,
        push=_push_plan(push, Path(output), public=public),
        progress=progress or silent,
        started=time.perf_counter(),
        observer=observer,
    )
    return _pushed(_quantize(request, threads, on_preview), push, public, request)


@wraps(quantize_checkpoint, assigned=())  # whose signature is shown
def quantize(source: Any, output: str | Path, **options: Any) -> Record | Preview:
    """Quantize `source` (HF directory, hub id, or F32/F16/BF16 GGUF) into `output`, verified.

    A torch module is quantized where it stands, and the second argument is the recipe: `quantize(model, "Q4_K_M")`
    (`fewbits.layers.in_place`). Options are `fewbits quantize`'s, which docs/recipes.md explains. `output` is a GGUF
    file, or without an ending a model directory, whose matrices lie as `dialect` says (docs/containers.md; None: the
    recipe's, else "fewbits"). `tensors` gives some tensors other formats: {"blk.*.ffn_down": "Q6_K"}, or a list of
    "PATTERN=FORMAT". `method` None means gptq_search with `calibration` (a path, several, or texts), else the recipe's
    or nearest; methods that look at text read `windows` windows of `sequence_length` tokens, of a built-in mix where
    none is given. `target_text` is one file or one per group; `split_size` is in bytes, or "2G". `threads` None means
    all processors. Returns the record, also written beside `output`, or with `dry_run` the preview. Raises FewbitsError
    and leaves nothing then.
    """
    torch = sys.modules.get("torch")  # who has a module has loaded it
    if torch is not None and isinstance(source, torch.nn.Module):
        from fewbits.layers.in_place import quantize_module

        return quantize_module(source, output, **options)
    return quantize_checkpoint(source, output, **options)


def _push_plan(repository: str | None, output: Path, *, public: bool) -> PushPlan | None:
    """Where the output will go; what cannot be uploaded there is refused now, not after the work."""
    if repository is None:
        if public:
            raise HubError("--public is about an upload; name the repository with --push org/name, or leave it out.")
        return None
    if output.suffix.lower() == ".onnx":
        raise HubError(
            f"{output} is an ONNX file, of which no model card is made yet; leave --push out, and upload it with "
            "`hf upload`."
        )
    from fewbits.hub.destination import look, names_of

    return look(repository, public=public).plan(names_of(output))


def _pushed(result: Any, repository: str | None, public: bool, request: Request) -> Record | Preview:
    """The result; after an upload with where the output went, which the card beside it then says too."""
    if repository is None or request.dry_run:
        return cast("Record | Preview", result)
    from fewbits.hub.push import push
    from fewbits.reporting.card import write_card

    record: Record = replace(result, pushed=push(request.output, repository, public=public, progress=request.progress))
    write_card(record)
    return record


def _quantize(request: Request, threads: int | None, on_preview: Callable[[Preview], None] | None) -> Record | Preview:
    if request.architecture is not None:
        from fewbits.models import add_architecture

        add_architecture(request.architecture)
    with Workers(usable_threads(threads)) as workers:
        digests = Digests(workers)
        weights = _weights(Path(request.source).expanduser())
        if weights is not None and not request.dry_run:
            digests.begin(weights)
        if weights is not None and _about_integers(request):
            from fewbits.onnx_activations.run import run_graph

            return run_graph(request, workers, digests, on_preview)
        from fewbits.pipeline import run  # reading its modules takes a tenth of a second or two

        return run(request, workers, digests, on_preview)


def _about_integers(request: Request) -> bool:
    """Whether an ONNX graph's values are to be rounded; the rest of the question is asked of graphs alone."""
    if not request.source.lower().endswith(".onnx"):
        if request.observer is not None:
            raise CalibrationError(
                f"--observer {request.observer} is about values of an ONNX graph; leave it out for {request.source}."
            )
        return False
    from fewbits.onnx_activations.asking import wants_integers

    return wants_integers(request)


def _text(given: Any) -> Any:
    """Calibration text; a string is the path of some."""
    return Path(given) if isinstance(given, str) else given


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
