"""What `quantize` writes for llama.cpp: a GGUF file, or one in several parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fewbits.checkpoints.base import Conversion, Placement, Value
from fewbits.checkpoints.ggml_types import file_type
from fewbits.checkpoints.gguf_parts import is_part_of, open_gguf, part_path
from fewbits.checkpoints.gguf_split import SplitWriter, existing_parts, plan_parts, too_large
from fewbits.checkpoints.gguf_writer import GGUFWriter, Layout, plan_layout, refuses
from fewbits.checkpoints.partial_file import partial_path
from fewbits.digest import OutputDigest
from fewbits.expecting import expectation, pickled, require_planned
from fewbits.planning import Recipe
from fewbits.preflight import require_writable
from fewbits.reporting.card import card_path
from fewbits.reporting.record import ImportanceUsed, PlannedTensor, TensorResult
from fewbits.verification.files import open_written, verify
from fewbits.verification.matrices import Allowance
from fewbits.verification.sources import Origin, expect_directory, expect_gguf, rotated_directory, rotated_gguf
from fewbits.workers import Workers

QUANTIZATION_VERSION = 2
"""ggml's version of the layouts of quantized tensors."""


_ADDED_TABLES = ("position_embd.weight", "token_types.weight")
"""Tables whose rows are added to states: ggml adds float32 to float32."""


@dataclass(frozen=True)
class GGUFTarget:
    """One GGUF file, or its parts of at most `largest` bytes."""

    largest: int | None = None

    @property
    def own_formats(self) -> Mapping[str, str]:
        """None."""
        return {}

    def overwrites(self, output: Path, file: Path) -> bool:
        """The file itself, or any of its parts."""
        real, own = file.resolve(), output.resolve()
        # A cache names its files by their sums and links to them: both names may be a part's.
        parts = (real, file.absolute().parent.resolve() / file.name)
        return real == own or (self.largest is not None and any(is_part_of(part, own) for part in parts))

    def require_room_for(self, output: Path, *, force: bool, dry_run: bool) -> None:
        """Refuse what exists and may not be replaced."""
        taken = [*existing_parts(output), part_path(output, 0, 1)] if self.largest else [output]
        require_writable(taken[0], card_path(output), force=force, dry_run=dry_run)

    def accept(self, conversion: Conversion) -> Conversion:
        """Every conversion is one to GGUF, but for what stands beside an encoder, which is left out with a note."""
        conversion = replace(conversion, notes=(*conversion.notes, *_beside(conversion.projectors)))
        aside = [p.source.name for p in conversion.placements if p.aside]
        if not aside:
            return conversion
        note = (
            f"Beside the encoder stand {', '.join(aside)}, which are left out: a GGUF file has no place for them. A "
            "model directory keeps them."
        )
        kept = tuple(p for p in conversion.placements if not p.aside)
        return replace(conversion, placements=kept, notes=(*conversion.notes, note))

    def refuses(self, format_name: str) -> str | None:
        """What ggml has no type for."""
        refused = refuses(format_name)
        return refused and f"{refused}; an output that does not end in .gguf is a model directory, which holds it"

    def refuses_inputs(self, what: str) -> str | None:
        """Who runs a GGUF file decides that."""
        return (
            f"{what}, which a GGUF file cannot say: llama.cpp rounds activations as it likes; give an output that does "
            "not end in .gguf for a model directory, or take a recipe and a method without it."
        )

    def plain_format(self, placement: Placement) -> str:
        """Norms and biases are read in float32 by every runtime; what a GGUF source stores is already what it wants."""
        stored = placement.source
        added = placement.name in _ADDED_TABLES or placement.name.endswith(".bias")  # those of experts are stacked
        whole = len(stored.shape) < 2 or placement.computed or added
        return "F32" if whole else stored.format

    def instead(self, kind: str, format_name: str, placement: Placement) -> tuple[str, str] | None:
        """Every matrix may be anything that ggml has."""
        return None

    def prepare(
        self, conversion: Conversion, tensors: Sequence[PlannedTensor], recipe: Recipe, used: ImportanceUsed | None
    ) -> PreparedGGUF:
        """Header and slots."""
        metadata = {**conversion.metadata, **_file_metadata(recipe, used)}
        rows = [(t.name, t.format, t.shape, t.bytes_out) for t in tensors]
        if self.largest is None:
            return PreparedGGUF(conversion, metadata, (plan_layout(conversion.architecture, metadata, rows),))
        layouts = plan_parts(conversion.architecture, metadata, rows, self.largest)
        return PreparedGGUF(conversion, metadata, layouts, self.largest)


def _beside(projectors: tuple[Path, ...]) -> tuple[str, ...]:
    """That projectors lie beside the source, which the output needs to see or hear."""
    if not projectors:
        return ()
    first, others = projectors[0], len(projectors) - 1
    more = f" and {others} more" if others else ""
    note = (
        f"Beside the source lies {first.name}{more}, a multimodal projector: a file of its own, which stays where it "
        "is; give it to llama.cpp with the output (--mmproj)."
    )
    return (note,)


def _file_metadata(recipe: Recipe, used: ImportanceUsed | None) -> dict[str, Value]:
    stated = {"general.quantization_version": Value(QUANTIZATION_VERSION, "uint32")}
    if recipe.file_type:
        stated["general.file_type"] = Value(file_type(recipe.file_type), "uint32")
    if used:
        stated["quantize.imatrix.file"] = Value(Path(used.file).name, "string")
        stated["quantize.imatrix.dataset"] = Value(used.text, "string")
        stated["quantize.imatrix.entries_count"] = Value(used.entries, "uint32")
        stated["quantize.imatrix.chunks_count"] = Value(used.chunks, "uint32")
    return stated


@dataclass(frozen=True)
class PreparedGGUF:
    """A GGUF file whose headers are made: one, or one for each part of at most `largest` bytes."""

    conversion: Conversion
    metadata: Mapping[str, Value]
    layouts: tuple[Layout, ...]
    largest: int | None = None

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return sum(layout.size for layout in self.layouts)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is larger than it should be."""
        names = too_large(self.layouts, self.largest) if self.largest else []
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        more = f"Tensor {names[0]}{others} needs more than --split-size alone: its part is larger." if names else ""
        return (more,) if more else ()

    def parts(self, output: Path) -> tuple[Path, ...]:
        """Where each part goes."""
        count = len(self.layouts) if self.largest else 0
        return tuple(part_path(output, number, count) for number in range(count))

    def open(self, output: Path) -> GGUFWriter | SplitWriter:
        """Begin to write."""
        return SplitWriter(output, self.layouts) if self.largest else GGUFWriter(output, self.layouts[0])

    def name_of(self, tensor: PlannedTensor) -> str:
        """The name in GGUF."""
        return tensor.name

    def verify(
        self,
        output: Path,
        tensors: Sequence[TensorResult],
        allowances: Mapping[str, Allowance],
        workers: Workers,
        progress: Callable[[int, int], None],
        seed: int | None = None,
    ) -> OutputDigest:
        """Names go from the file to the source through the architecture's facts."""
        written = tuple(partial_path(each) for each in self.parts(output) or (output,))
        first = self.conversion.files[0]
        if first.name == "config.json":
            pickles = pickled(self.conversion)
            sources = expect_directory(first.parent, open_written(written), pickles=pickles)
            turned = {} if seed is None else rotated_directory(first.parent, seed, pickles=pickles)
        else:
            sources = expect_gguf(open_gguf(first))
            turned = {} if seed is None else rotated_gguf(open_gguf(first), seed)
        computed = {p.name: Origin(p.source) for p in self.conversion.placements if p.computed}
        planned = {t.planned.name: t for t in tensors}
        require_planned(sources, planned)
        heads = {name: Origin(each.source) for name, each in turned.items() if name not in sources}
        every = {**sources, **computed, **heads}
        expected = {
            n: expectation(every[n], planned[n], allowances.get(n, Allowance()), turned.get(n))
            for n in every
            if n in planned
        }
        return verify(written, self.metadata, expected, workers, progress)
