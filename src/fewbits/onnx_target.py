"""What `quantize` writes for ONNX Runtime and others that run ONNX: the source's graph with quantized matrices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fewbits.checkpoints.base import Conversion, Placement
from fewbits.checkpoints.dialects.uniform import SCALES, uniform, uniform_name
from fewbits.checkpoints.equivalents import BY_ROWS
from fewbits.checkpoints.fields import PLAIN
from fewbits.checkpoints.onnx.dialects import USUAL, GraphDialect, GraphMatrix, get
from fewbits.checkpoints.onnx.dialects.base import require_held
from fewbits.checkpoints.onnx.file import OnnxFile
from fewbits.checkpoints.onnx.layout import OnnxLayout, data_path, plan_layout
from fewbits.checkpoints.onnx.products import Product, product_of
from fewbits.checkpoints.onnx.rewriting import Edit, rewrite
from fewbits.checkpoints.onnx.source import ARCHITECTURE, is_onnx
from fewbits.checkpoints.onnx.weights import Table, find_weights
from fewbits.checkpoints.onnx.writer import OnnxWriter
from fewbits.checkpoints.partial_file import partial_path
from fewbits.digest import OutputDigest
from fewbits.errors import CalibrationError, CheckpointError, VerificationError
from fewbits.expecting import expectation
from fewbits.planning import Recipe
from fewbits.preflight import require_writable
from fewbits.reporting.card import card_path
from fewbits.reporting.record import ImportanceUsed, PlannedTensor, TensorResult
from fewbits.verification.matrices import Allowance
from fewbits.verification.onnx import verify_onnx
from fewbits.verification.onnx_numbers import float_sources
from fewbits.verification.sources import Origin
from fewbits.workers import Workers


def require_same_container(source: str, output: Path) -> None:
    """Refuse to make a graph of what has none, or of a graph what has no place for one."""
    path = Path(source).expanduser()
    if is_onnx(path) and not is_onnx(output):
        raise CheckpointError(
            f"{source} is an ONNX graph, and of one only an ONNX file can be made; give an output that ends in .onnx."
        )
    if is_onnx(output) and not is_onnx(path):
        raise CheckpointError(
            f"{output} is to be an ONNX file, which is made of an ONNX file alone; export {source} to ONNX first, or "
            "give an output that ends in .gguf, or without an ending for a model directory."
        )


def require_weights_only(conversion: Conversion, method: str, *, walks: bool) -> None:
    """Refuse a method that `walks` through the model: a graph does not state the architecture that it is."""
    if walks and conversion.architecture == ARCHITECTURE:
        raise CalibrationError(
            f"the method {method} walks through the layers of an architecture, which an ONNX graph does not state; "
            "take --method nearest or hqq, which look at weights alone, and no calibration text."
        )


@dataclass(frozen=True)
class OnnxTarget:
    """An ONNX file in a dialect, with its large tensors in a file beside it where they are many."""

    output: Path
    dialect: GraphDialect

    @staticmethod
    def of(output: Path, dialect: str | None) -> OnnxTarget:
        """The target in `dialect`, or in the usual one."""
        return OnnxTarget(output, get(dialect or USUAL))

    @property
    def own_formats(self) -> Mapping[str, str]:
        """None."""
        return {}

    def overwrites(self, output: Path, file: Path) -> bool:
        """The file itself, or the one beside it."""
        return file.resolve() in (output.resolve(), data_path(output).resolve())

    def require_room_for(self, output: Path, *, force: bool, dry_run: bool) -> None:
        """Refuse what exists and may not be replaced."""
        for path in (data_path(output), output):
            require_writable(path, card_path(output), force=force, dry_run=dry_run)

    def accept(self, conversion: Conversion) -> Conversion:
        """Of graphs alone."""
        if conversion.architecture != ARCHITECTURE:
            raise CheckpointError(f"{conversion.files[0]} is no ONNX file, of which alone an ONNX file can be made.")
        return conversion

    def refuses(self, format_name: str) -> str | None:
        """`prepare` asks the dialect, which knows the matrix."""
        return None

    def refuses_inputs(self, what: str) -> str | None:
        """Nodes would have to do that, which this target does not write."""
        return (
            f"{what}, which is not written into ONNX graphs; take a format alone, --to int8_row_sym for instance, or "
            "an output without an ending for a model directory."
        )

    def plain_format(self, placement: Placement) -> str:
        """As in the source."""
        return placement.source.format

    def instead(self, kind: str, format_name: str, placement: Placement) -> tuple[str, str] | None:
        """Scales have the type that the graph computes in; what no group divides, or the dialect lacks, stays."""
        own = placement.source.format
        if format_name not in PLAIN and (why := self._lacks(format_name, placement)):
            return own, why
        if format_name in PLAIN:
            return None if format_name == own else (own, f"{format_name} is not what the graph computes in, {own}")
        name = BY_ROWS[format_name].fields if format_name in BY_ROWS else format_name
        found = uniform(name)
        if found is None or found.per_tensor or found.scale == SCALES[own]:
            name = _of_tensor(name, SCALES[own]) if found and found.per_tensor else name
            return None if name == format_name else (name, _UNDER_ITS_NAME)
        signed = found.signed or found.symmetric
        return (
            uniform_name(found.bits, found.group, symmetric=found.symmetric, scale=SCALES[own], signed=signed),
            f"scales have the type in which the graph computes, {own}",
        )

    def _lacks(self, format_name: str, placement: Placement) -> str | None:
        """Why a table or a filter stays as it is."""
        if isinstance(placement.source, Table):
            return self.dialect.lacks_tables
        found = uniform(BY_ROWS[format_name].fields if format_name in BY_ROWS else format_name)
        is_filter = len(placement.source.in_file.shape) > 2
        return self.dialect.lacks_filters(found) if is_filter and found is not None else None

    def prepare(
        self, conversion: Conversion, tensors: Sequence[PlannedTensor], recipe: Recipe, used: ImportanceUsed | None
    ) -> PreparedOnnx:
        """The rewritten graph and the place of every tensor."""
        file = OnnxFile(conversion.files[0])
        weights, _ = find_weights(file)
        matrices = {
            t.source_name: GraphMatrix(
                t.source_name,
                t.format,
                t.shape,
                transposed=weights[t.source_name].transposed,
                dims=weights[t.source_name].dims,
                looked_up=weights[t.source_name].looked_up,
            )
            for t in tensors
            if t.format not in PLAIN
        }
        require_held(self.dialect, list(matrices.values()))
        model = type(file.model)()
        model.CopyFrom(file.model)
        edit = Edit(self.dialect, matrices, lambda node: _product(node, matrices), lambda node: False)
        new, notes = rewrite(model, edit)
        return PreparedOnnx(conversion, self.dialect, matrices, plan_layout(file, model, new, self.output), notes)


_UNDER_ITS_NAME = "the same numbers under the name of their family"


def _of_tensor(name: str, scale: str) -> str:
    """A format with one scale per tensor, its scale of the type `scale`."""
    plain = name.removesuffix("_f16").removesuffix("_bf16")
    return plain if scale == "f32" else f"{plain}_{scale}"


def _product(node: object, matrices: Mapping[str, GraphMatrix]) -> Product | None:
    product = product_of(node)
    if product is None or product.weight not in matrices:
        return None
    return product if product.looked_up == matrices[product.weight].looked_up else None


@dataclass(frozen=True)
class PreparedOnnx:
    """A graph that is rewritten, and laid out."""

    conversion: Conversion
    dialect: GraphDialect
    matrices: Mapping[str, GraphMatrix]
    layout: OnnxLayout
    notes: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of the file, and of the one beside it."""
        return self.layout.graph_bytes + self.layout.data_bytes

    def parts(self, output: Path) -> tuple[Path, ...]:
        """Both files, where there are two."""
        return (output, data_path(output)) if self.layout.data_bytes else ()

    def open(self, output: Path) -> OnnxWriter:
        """Begin to write."""
        return OnnxWriter(output, self.layout, self.dialect, self.matrices)

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
        """The source is opened again; which matrices there are, its products say."""
        source = OnnxFile(self.conversion.files[0])
        numbers = float_sources(source)
        expected = {}
        for each in tensors:
            name = each.planned.source_name
            if name not in numbers:
                raise VerificationError(f"no product of {source.path} has the matrix {name}; the output is not kept.")
            if name in self.matrices:
                allowance = allowances.get(each.planned.name, Allowance())
                expected[name] = expectation(Origin(numbers[name]), each, allowance, None)
        return verify_onnx((partial_path(output), partial_path(data_path(output))), source, expected, workers, progress)
