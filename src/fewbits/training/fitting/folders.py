"""A folder that is complete takes its place: everything is on the disk before it has its name."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from fewbits.checkpoints.partial_file import sync_folder


def settle(folder: Path) -> None:
    """Everything on the disk, and as open to others as the folder is: safetensors makes files of its owner alone."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)
            with path.open("rb+") as file:
                os.fsync(file.fileno())
    sync_folder(folder)


def take_place(folder: Path, output: Path) -> None:
    """Give a settled `folder` the name `output`; what has it so far is removed afterwards."""
    replaced = output.with_name(f".{output.name}.replaced")
    if output.exists():
        output.rename(replaced)
    folder.rename(output)
    sync_folder(output.parent)
    shutil.rmtree(replaced, ignore_errors=True)
