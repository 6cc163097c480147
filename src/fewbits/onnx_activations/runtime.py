"""ONNX Runtime, which runs a graph for what its values are: to calibrate it, and to judge what became of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fewbits.checkpoints.onnx.file import EXTERNAL, OnnxFile
from fewbits.checkpoints.onnx.graphs import all_tensors
from fewbits.errors import CalibrationError

Array = npt.NDArray[Any]
_FOLDER = "session.model_external_initializers_file_folder_path"
_ERRORS_ONLY = 3


def require_runtime() -> Any:
    """The module `onnxruntime`; raises CalibrationError, saying what to install, where there is none."""
    try:
        return import_module("onnxruntime")
    except ImportError as error:
        raise CalibrationError(
            f"a graph is calibrated by running it in ONNX Runtime, which cannot be imported ({error}); install it: "
            "pip install 'fewbits[onnx]', or take --to w8a8 without --calibration."
        ) from None


@dataclass(frozen=True)
class Running:
    """A graph that runs."""

    session: Any

    @staticmethod
    def of(graph: bytes | Path, folder: Path, threads: int) -> Running:
        """`graph`, whose tensors outside of it lie in `folder`; raises CalibrationError where it does not run."""
        runtime = require_runtime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = _ERRORS_ONLY
        options.add_session_config_entry(_FOLDER, str(folder.resolve()))
        try:
            given = str(graph) if isinstance(graph, Path) else graph
            return Running(runtime.InferenceSession(given, options, providers=["CPUExecutionProvider"]))
        except Exception as error:  # its errors share no class of their own
            raise CalibrationError(f"ONNX Runtime does not load this graph: {_first_line(error)}") from None

    def run(self, given: Mapping[str, Array], wanted: Sequence[str] | None = None) -> list[Array]:
        """The values called `wanted`, or the outputs."""
        try:
            found: list[Array] = self.session.run(None if wanted is None else list(wanted), dict(given))
        except Exception as error:
            raise CalibrationError(f"ONNX Runtime stops on these inputs: {_first_line(error)}") from None
        return found

    def outputs(self) -> list[str]:
        """Names of the outputs."""
        return [each.name for each in self.session.get_outputs()]


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def materialized(model: Any, file: OnnxFile, arrays: Mapping[str, Array]) -> bytes:
    """`model`, a rewritten graph of `file`, with its tensors: those of the file, and new ones in `arrays`."""
    whole = type(model)()
    whole.CopyFrom(model)
    for tensor in all_tensors(whole):
        if tensor.name in arrays:
            tensor.raw_data = np.ascontiguousarray(arrays[tensor.name]).tobytes()
        elif tensor.data_location != EXTERNAL and file.has_payload(tensor):
            tensor.raw_data = file.payload(tensor).tobytes()
    try:
        found: bytes = whole.SerializeToString()
    except Exception as error:  # protobuf ends at two gigabytes
        raise CalibrationError(f"{file.path} is too large to be calibrated in one piece ({error}).") from None
    return found
