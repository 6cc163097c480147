"""An interrupt may come between any two instructions of a writer: what grew is gone, or complete under its name.

A signal's handler runs wherever the interpreter happens to be, so a trace function raises there: at each instruction in
turn of opening, leaving and publishing a writer.
"""

from __future__ import annotations

import gc
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import pytest

from fewbits.checkpoints import gguf_split, gguf_writer, model_directory, partial_file
from fewbits.checkpoints.directory_layout import DirectoryLayout, WeightsFile
from fewbits.checkpoints.gguf_split import SplitWriter, plan_parts
from fewbits.checkpoints.gguf_writer import GGUFWriter, plan_layout
from fewbits.checkpoints.model_directory import DirectoryWriter
from fewbits.targets import Writer

ROWS = [(name, "F32", (64,), 256) for name in "ab"]
ONE = plan_layout("llama", {}, ROWS)
PARTS = plan_parts("llama", {}, ROWS, 700)
DIRECTORY = DirectoryLayout((WeightsFile("model.safetensors", b"header", 64),), {}, None, b"{}", {}, None, {})


@dataclass(frozen=True)
class Case:
    """A writer, and the modules between whose instructions it is interrupted."""

    open: Callable[[Path], Writer]
    modules: tuple[ModuleType, ...]


CASES = {
    "one file": Case(lambda output: GGUFWriter(output, ONE), (gguf_writer, partial_file)),
    "directory": Case(lambda output: DirectoryWriter(output, DIRECTORY), (model_directory, partial_file)),
    "parts": Case(lambda output: SplitWriter(output, PARTS), (gguf_split,)),
}


class Interrupter:
    """Raise KeyboardInterrupt in front of instruction `number` of `used` and some modules."""

    def __init__(self, modules: tuple[ModuleType, ...], number: int) -> None:
        self.files = {module.__file__ for module in modules}
        self.number = number
        self.seen = 0
        self.place = ""

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        if (frame.f_code.co_filename not in self.files and frame.f_code.co_name != "used") or is_forgetting(frame):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            self.seen += 1
            if self.seen == self.number:
                self.place = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} in {frame.f_code.co_name}"
                raise KeyboardInterrupt
        return self


def is_forgetting(frame: FrameType | None) -> bool:
    """Whether nobody holds the file any more: the interpreter drops what is raised while it forgets one."""
    return frame is not None and (
        frame.f_code.co_name in ("_forget", "_forget_directory") or is_forgetting(frame.f_back)
    )


def used(opening: Callable[[Path], Writer], output: Path, *, publish: bool) -> None:
    with opening(output) as writer:
        if publish:
            writer.sync()
            writer.publish()


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.filterwarnings("ignore:.*:pytest.PytestUnraisableExceptionWarning")  # open() interrupted before `with`
@pytest.mark.parametrize("publish", [False, True], ids=["left", "published"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_nothing_half_written_stays(case: Case, publish: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)  # a second per hundred
    output = tmp_path / "o.gguf"
    left: dict[str, str] = {}
    for number in count(1):
        interrupter = Interrupter(case.modules, number)
        sys.settrace(interrupter)
        try:
            used(case.open, output, publish=publish)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        if any(hidden(tmp_path)):
            gc.collect()
            left |= dict.fromkeys(hidden(tmp_path), interrupter.place)
        for path in tmp_path.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if interrupter.seen < number:
            break
    assert number > 100, "no instruction of the writers was seen"
    assert not left
