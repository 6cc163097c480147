"""An ONNX graph as matrices with the fields of our formats, in whichever dialect each of them lies."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from fewbits.checkpoints.base import StoredTensor
from fewbits.checkpoints.fields import Matrix, StoredMatrix
from fewbits.checkpoints.onnx.dialects import GRAPH_DIALECTS, GraphDialect, Held, get
from fewbits.checkpoints.onnx.file import OnnxFile
from fewbits.checkpoints.quoting import quoted
from fewbits.errors import CheckpointError


class OnnxReader:
    """The constants of a graph, those that hold a matrix together under the name of the matrix."""

    def __init__(self, path: Path) -> None:
        self.file = OnnxFile(path)
        self.path = path
        self.metadata: Mapping[str, Any] = _said(self.file.model)
        self.held: dict[str, tuple[GraphDialect, Held]] = {}
        """Name -> matrix and the dialect that it lies in."""
        self.strange: dict[str, str] = {}
        """Codes -> why no format here is what they are."""
        for dialect in map(get, GRAPH_DIALECTS):
            found, strange = dialect.find(self.file)
            self.strange |= strange
            for name, held in found.items():
                self.held[name if name not in self.held else held.tensors["codes"].name] = (dialect, held)
        owner = {t.name: name for name, (_, held) in self.held.items() for t in held.tensors.values()}
        self._names = list(dict.fromkeys(owner.get(name, name) for name in self.file.initializers))

    @property
    def dialect_name(self) -> str | None:
        """The dialects that its matrices lie in; None where nothing is quantized."""
        return ", ".join(sorted({dialect.name for dialect, _ in self.held.values()})) or None

    def names(self) -> list[str]:
        """All names."""
        return self._names

    def read(self, name: str) -> StoredMatrix | StoredTensor:
        """The tensor called `name`; raises CheckpointError when there is none."""
        if name in self.held:
            dialect, held = self.held[name]
            own = Matrix(name, held.matrix.format, held.matrix.shape)
            size = sum(self.file.stored(tensor).bytes for tensor in held.tensors.values())
            return StoredMatrix(**vars(own), bytes=size, load=partial(dialect.unpack, held, self.file))
        if name not in self.file.initializers:
            raise CheckpointError(f"{self.path} has no initializer {quoted(name)}.")
        return self.file.stored(self.file.initializers[name])


def _said(model: Any) -> dict[str, Any]:
    """What a model says of itself."""
    told: dict[str, Any] = {"ir_version": model.ir_version}
    told |= {f"opset{f' {each.domain}' if each.domain else ''}": each.version for each in model.opset_import}
    told |= {"producer": " ".join(filter(None, (model.producer_name, model.producer_version)))}
    told |= {f"input {value.name}": _sides(value) for value in model.graph.input}
    told |= {f"output {value.name}": _sides(value) for value in model.graph.output}
    return told | {entry.key: entry.value for entry in model.metadata_props}


def _sides(value: Any) -> list[Any]:
    """The shape of a value, sides that are not fixed by their names."""
    return [side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim]
