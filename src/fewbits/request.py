"""What the user asked `quantize` for, before anything is looked up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fewbits.reporting.record import PushPlan

Progress = Callable[[str, int, int], None]
"""progress(stage, done, total)"""


def workspace_path(output: Path) -> Path:
    """Where what a calibrated run has finished is kept until `output` is there.

    >>> workspace_path(Path("model.gguf")).name
    '.model.gguf.calibrated'
    """
    return output.with_name(f".{output.name}.calibrated")


def training_path(output: Path) -> Path:
    """Where the state of a training is kept until `output` is there.

    >>> training_path(Path("adapter")).name
    '.adapter.training'
    """
    return output.with_name(f".{output.name}.training")


def silent(stage: str, done: int, total: int) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class CalibrationRequest:
    """What codes are chosen and judged by, where a method looks at text."""

    text: Any
    """As `fewbits.calibration.data.read_calibration` takes it; None for the built-in mix."""
    guard: Path | None
    """Text that codes are judged by; None for the built-in one."""
    targets: tuple[Path, ...]
    """Texts of the kinds that the model will see, which the calibration text is compared with."""
    importance: Path | None
    """Where to write what was measured, as an importance matrix."""
    windows: int
    length: int
    """Tokens of a window."""

    def options(self) -> dict[str, Any]:
        """What only a method that looks at text can use, as the command line calls it."""
        return {
            "--calibration": self.text,
            "--guard": self.guard,
            "--target-text": self.targets or None,
            "--write-importance": self.importance,
        }


@dataclass(frozen=True)
class Request:
    """The arguments of `fewbits.quantize`, which explains them."""

    source: str
    output: Path
    recipe: str | Path
    tensors: Mapping[str, str] | Iterable[str]
    importance: Path | None
    method: str | None
    """None: gptq where calibration text is given, else nearest."""
    calibration: CalibrationRequest
    force: bool
    dry_run: bool
    seed: int
    revision: str | None
    """Of a repository of the hub: a branch, tag or commit."""
    pickles: bool
    """Whether PyTorch's own weights may be read."""
    push: PushPlan | None
    """Where to upload the output to."""
    dialect: str | None
    """How a model directory lays out its matrices; None: as the recipe says, else our own."""
    split_size: int | str | None
    """Bytes, or "2G": the most that a part of a GGUF file may have; None for one file."""
    architecture: Path | None
    """A TOML file with the facts of the source's architecture."""
    progress: Progress
    started: float
    """The clock at the very beginning."""
    observer: str | None = None
    """How ranges of an ONNX graph's values are chosen; None for the usual one."""
