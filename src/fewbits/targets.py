"""What `quantize` can write: a GGUF file, an ONNX file, or a model directory with any format in safetensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from fewbits.checkpoints import dialects
from fewbits.checkpoints.base import Conversion, Placement, StackedTensor
from fewbits.checkpoints.derived import PartTensor, TransposedTensor
from fewbits.checkpoints.dialects import OWN, Dialect, require_held
from fewbits.checkpoints.directory_layout import DirectoryLayout, plan_directory
from fewbits.checkpoints.fields import PLAIN, Matrix
from fewbits.checkpoints.gguf_split import read_size
from fewbits.checkpoints.model_directory import DirectoryWriter, require_replaceable
from fewbits.checkpoints.onnx.source import is_onnx
from fewbits.checkpoints.partial_file import partial_path
from fewbits.digest import OutputDigest
from fewbits.errors import CheckpointError
from fewbits.expecting import expectation, pickled, require_planned
from fewbits.formats import Fields
from fewbits.gguf_target import GGUFTarget
from fewbits.onnx_target import OnnxTarget
from fewbits.planning import Recipe
from fewbits.preflight import require_writable
from fewbits.reporting.card import card_path
from fewbits.reporting.record import ImportanceUsed, PlannedTensor, TensorResult
from fewbits.verification.files import verify_dialect, verify_fields
from fewbits.verification.matrices import Allowance
from fewbits.verification.sources import (
    Origin,
    rotated_directory,
    stored_directory,
    tensors_of,
)
from fewbits.workers import Workers


class Writer(Protocol):
    """A container that is being written; a context manager that leaves nothing behind unless `publish` was called."""

    def __enter__(self) -> Writer: ...

    def __exit__(self, *_: object) -> None: ...

    def write_fields(self, name: str, first_row: int, fields: Fields) -> None:
        """Write the fields of rows of tensor `name` from `first_row` on."""

    def start_flush(self) -> None:
        """Send everything to the disk in the background."""

    def sync(self) -> None:
        """Wait until every byte is on the disk."""

    def publish(self) -> None:
        """Make the complete output appear under its name."""


class Prepared(Protocol):
    """An output whose layout is decided."""

    @property
    def size(self) -> int:
        """Exact bytes of the weights files."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of the layout, one sentence each."""

    def parts(self, output: Path) -> tuple[Path, ...]:
        """The files that `output` is written as, in their order; none where it is not split."""

    def open(self, output: Path) -> Writer:
        """Begin to write."""

    def name_of(self, tensor: PlannedTensor) -> str:
        """What the container calls `tensor`."""

    def verify(
        self,
        output: Path,
        tensors: Sequence[TensorResult],
        allowances: Mapping[str, Allowance],
        workers: Workers,
        progress: Callable[[int, int], None],
        seed: int | None = None,
    ) -> OutputDigest:
        """Read what was written again and compare it with the source, rotated by `seed` if any; returns its SHA-256."""


class Target(Protocol):
    """A kind of output."""

    @property
    def own_formats(self) -> Mapping[str, str]:
        """Format -> the one that stands for it there, because readers round otherwise."""

    def overwrites(self, output: Path, file: Path) -> bool:
        """Whether writing `output` would replace `file`."""

    def require_room_for(self, output: Path, *, force: bool, dry_run: bool) -> None:
        """Refuse what exists and may not be replaced, and folders that cannot be written to."""

    def accept(self, conversion: Conversion) -> Conversion:
        """The conversion as this container needs it; raises CheckpointError where it cannot be written."""

    def refuses(self, format_name: str) -> str | None:
        """Why tensors of this format cannot be written; None when they can."""

    def refuses_inputs(self, what: str) -> str | None:
        """Why a file cannot say `what` happens to inputs at run time; None when it can."""

    def plain_format(self, placement: Placement) -> str:
        """The format of a tensor that no recipe quantizes."""

    def instead(self, kind: str, format_name: str, placement: Placement) -> tuple[str, str] | None:
        """The format of a matrix of this kind in place of that one, and why; None where it may be that one."""

    def prepare(
        self, conversion: Conversion, tensors: Sequence[PlannedTensor], recipe: Recipe, used: ImportanceUsed | None
    ) -> Prepared:
        """Decide the layout."""


_OTHER_FILES = (".safetensors", ".bin", ".pt", ".pth", ".json", ".toml")


def target_of(
    output: Path, split_size: int | str | None = None, *, dialect: str | None = None, usual: str = ""
) -> Target:
    """The kind of output that the name `output` asks for: NAME.gguf, NAME.onnx, anything else a model directory.

    With `split_size` its weights lie in parts of at most so many bytes. A directory is in `dialect`, or where that is
    None in the `usual` one of the recipe, else in our own; an ONNX file in `dialect`, else in the usual one of graphs.
    """
    if is_onnx(output):
        if split_size is not None:
            raise CheckpointError(f"{output} is an ONNX file, which is not split; leave --split-size out.")
        return OnnxTarget.of(output, dialect)
    if output.suffix.lower() in _OTHER_FILES or (output.is_file() and output.suffix.lower() != ".gguf"):
        raise CheckpointError(
            f"{output} is no name to write to: give one that ends in .gguf or .onnx, or for a model directory the "
            "directory's."
        )
    largest = None if split_size is None else read_size(split_size)
    if output.suffix.lower() == ".gguf":
        if dialect is not None:
            raise CheckpointError(
                f"{output} is a GGUF file, which has no dialects; leave --dialect out, or give an output that does not "
                "end in .gguf for a model directory."
            )
        return GGUFTarget(largest)
    return DirectoryTarget(None if (name := dialect or usual or OWN) == OWN else dialects.get(name), largest)


@dataclass(frozen=True)
class DirectoryTarget:
    """A Hugging Face model directory: the source's tensors under their own names, in our dialect or another."""

    dialect: Dialect | None = None
    """None for our own."""
    largest: int | None = None
    """Bytes of a file of weights, at most; None for one file."""

    @property
    def own_formats(self) -> Mapping[str, str]:
        """Those of the dialect."""
        known = dialects.ROUNDED_AS.items()
        return {name: own for (dialect, name), own in known if self.dialect and dialect == self.dialect.name}

    def overwrites(self, output: Path, file: Path) -> bool:
        """The directory itself."""
        return file.resolve() == output.resolve()

    def require_room_for(self, output: Path, *, force: bool, dry_run: bool) -> None:
        """Refuse what exists and may not be replaced."""
        require_replaceable(output, force=force)
        if not output.exists():
            require_writable(output, card_path(output), force=force, dry_run=dry_run)

    def accept(self, conversion: Conversion) -> Conversion:
        """Rows as they are in the source, nothing computed; of the notes, those about tensors that are left out."""
        if conversion.files[0].name != "config.json":
            raise CheckpointError(
                f"{conversion.files[0]} is no model directory, and only from one can a model directory be made; "
                "give an output that ends in .gguf, or the model's Hugging Face directory as the source."
            )
        along = tuple(f"{path.name}, a multimodal projector, is copied as it is." for path in conversion.projectors)
        _refuse_stacks(conversion.placements)
        listed = (p for each in conversion.placements for p in _listed(each) if not p.computed)
        own = tuple({p.source.name: p for p in map(_as_stored, listed)}.values())
        files = (*conversion.files, *conversion.projectors)
        return replace(conversion, placements=own, notes=(*conversion.left_out, *along), files=files)

    def refuses(self, format_name: str) -> str | None:
        """Fields hold every format."""
        return None

    def refuses_inputs(self, what: str) -> str | None:
        """Configuration and header say it."""
        return None

    def plain_format(self, placement: Placement) -> str:
        """As in the source."""
        return placement.source.format

    def instead(self, kind: str, format_name: str, placement: Placement) -> tuple[str, str] | None:
        """What other readers look up, or multiply the last states with, they want as it was."""
        if self.dialect is None or kind not in {"token_embd", "output"} or format_name in PLAIN:
            return None
        return placement.source.format, f"the dialect {self.dialect.name} keeps the embedding and the output matrix"

    def prepare(
        self,
        conversion: Conversion,
        tensors: Sequence[PlannedTensor],
        recipe: Recipe,
        used: ImportanceUsed | None,
    ) -> PreparedDirectory:
        """Header and slots of the weights."""
        folder = conversion.files[0].parent
        turned = {p.name for p in conversion.placements if isinstance(p.source, TransposedTensor)}
        rows = [Matrix(t.source_name, t.format, t.shape, t.activation, t.outliers, t.name in turned) for t in tensors]
        if self.dialect is not None:
            require_held(self.dialect, rows)
        changes = conversion.configuration
        layout = plan_directory(
            folder, conversion.files, rows, recipe.name, changes, self.dialect, largest=self.largest
        )
        return PreparedDirectory(conversion, layout)


def _refuse_stacks(placements: Sequence[Placement]) -> None:
    """What a checkpoint stacks no dialect of ours has: matrices are listed there, as vLLM and others read them."""
    for placement in placements:
        if isinstance(placement.source, PartTensor) and not placement.source.view.merged:
            raise CheckpointError(
                f"tensor {placement.source.name} of the source is a stack of all experts, and in a model directory "
                "matrices are written one by one; give an output that ends in .gguf."
            )


def _as_stored(placement: Placement) -> Placement:
    """The tensor as the source has it, every row, rows being outputs."""
    source = placement.whole or placement.source
    # A format's spans lie along the reduction: what lies the other way in the source is turned, and said to be.
    own = source if isinstance(source, TransposedTensor) else source.in_file
    return replace(placement, order=None, source=own, whole=None)


def _listed(placement: Placement) -> tuple[Placement, ...]:
    """What a checkpoint lists stays listed in a directory: one tensor per expert."""
    if not isinstance(placement.source, StackedTensor):
        return (placement,)
    prefix, suffix = placement.name.rsplit(".", 1)
    return tuple(Placement(f"{prefix}.{n}.{suffix}", part) for n, part in enumerate(placement.source.parts))


@dataclass(frozen=True)
class PreparedDirectory:
    """A directory whose weights' headers are made."""

    conversion: Conversion
    layout: DirectoryLayout

    @property
    def size(self) -> int:
        """Bytes of the weights files."""
        return self.layout.size

    @property
    def notes(self) -> tuple[str, ...]:
        """Nothing."""
        return ()

    def parts(self, output: Path) -> tuple[Path, ...]:
        """The files of weights, where they are several."""
        return self.layout.weights(output) if self.layout.index is not None else ()

    def open(self, output: Path) -> Writer:
        """Begin to write."""
        return DirectoryWriter(output, self.layout)

    def name_of(self, tensor: PlannedTensor) -> str:
        """The name in the source."""
        return tensor.source_name

    def verify(
        self,
        output: Path,
        tensors: Sequence[TensorResult],
        allowances: Mapping[str, Allowance],
        workers: Workers,
        progress: Callable[[int, int], None],
        seed: int | None = None,
    ) -> OutputDigest:
        """Names are the source's; which tensors there must be, the architecture's facts say."""
        folder = self.conversion.files[0].parent
        pickles = pickled(self.conversion)
        stored = stored_directory(folder, pickles=pickles)
        require_planned(tensors_of(folder, pickles=pickles), {t.planned.source_name: t for t in tensors})
        turned = {} if seed is None else rotated_directory(folder, seed, pickles=pickles)
        expected = {}
        for t in tensors:
            each = turned.get(t.planned.name)
            source = each.source if each else stored[t.planned.source_name]
            allowance = allowances.get(t.planned.name, Allowance())
            expected[t.planned.source_name] = expectation(Origin(source), t, allowance, each)
        written = partial_path(output)
        if self.layout.dialect is None:
            return verify_fields(written, self.layout.weights(written), expected, workers, progress)
        return verify_dialect(written, self.layout.weights(written), expected, workers, progress)
