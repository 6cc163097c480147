"""What a calibrated run has finished, on the disk beside its output: the same command goes on from there.

A layer's codes are a folder that appears when it is complete, states are files that do. Everything is bound to a
fingerprint of what was asked: another command begins anew.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from fewbits.errors import CheckpointError
from fewbits.formats import Fields
from fewbits.locking import LOCK, lock_folder
from fewbits.request import workspace_path

Floats = npt.NDArray[np.float32]

_STATEMENT = "asked.json"
_RECORD = "record.json"


class Workspace:
    """The folder `.NAME.calibrated` beside an output; a context manager that lets go of it and keeps what is in it."""

    def __init__(self, output: Path, asked: Mapping[str, Any]) -> None:
        self.path = workspace_path(output)
        self.path.mkdir(exist_ok=True)
        lock = lock_folder(self.path)
        if lock is None:
            raise CheckpointError(
                f"{output} is being calibrated by another run of fewbits; wait for it or choose another output."
            )
        self._lock = lock
        self.resumed = self._holds(asked)
        if not self.resumed:  # nothing is removed before the lock says that nobody works on it
            self._clear()
            self.write_record(_STATEMENT, asked)

    def _clear(self) -> None:
        for each in self.path.iterdir():
            if each.is_dir():
                shutil.rmtree(each, ignore_errors=True)
            elif each.name != LOCK:
                each.unlink()

    def _holds(self, asked: Mapping[str, Any]) -> bool:
        try:
            found = json.loads((self.path / _STATEMENT).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return bool(found == json.loads(json.dumps(asked)))

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        os.close(self._lock)

    def remove(self) -> None:
        """Forget everything: the output is there."""
        shutil.rmtree(self.path, ignore_errors=True)

    def record(self, name: str) -> dict[str, Any] | None:
        """What was recorded as `name`; None where nothing was."""
        try:
            found: dict[str, Any] = json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return found

    def write_record(self, name: str, data: Mapping[str, Any]) -> None:
        """Record `data` as `name`, whole or not at all."""
        part = self.path / f"{name}.part"
        with part.open("w", encoding="utf-8") as file:
            json.dump(data, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.path / name)

    def new_states(self, name: str, shape: tuple[int, ...]) -> Floats:
        """A file of float32 numbers to be filled; `keep_states` gives it its name."""
        path = self._states(f"{name}.part")
        needed, free = 4 * int(np.prod(shape)), shutil.disk_usage(self.path).free
        if free < needed:
            raise CheckpointError(
                f"{self.path} has {free / 1e6:.1f} MB free and the activations of a layer take {needed / 1e6:.1f} MB; "
                "free some space or give fewer --windows; what is finished is kept, and the same command goes on."
            )
        mapped = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        with path.open("r+b") as file:
            if hasattr(os, "posix_fallocate"):  # a full disk would end a mapped write with a signal
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        return mapped

    def keep_states(self, name: str, states: Floats) -> None:
        """Make filled states last under their name."""
        if isinstance(states, np.memmap):
            states.flush()
        self._states(f"{name}.part").replace(self._states(name))

    def states(self, name: str) -> Floats:
        """States that were kept."""
        mapped: Floats = np.load(self._states(name), mmap_mode="r")
        return mapped

    def has_states(self, name: str) -> bool:
        """Whether there are such states."""
        return self._states(name).exists()

    def forget_states(self, name: str) -> None:
        """Delete states that nothing needs any more; safe to call twice."""
        with contextlib.suppress(FileNotFoundError):
            self._states(name).unlink()

    def _states(self, name: str) -> Path:
        return self.path / f"states-{name}.npy"

    def layer_record(self, layer: str) -> dict[str, Any] | None:
        """What was recorded of a finished layer; None where it is not finished."""
        return self.record(f"{layer}/{_RECORD}")

    def write_layer(self, layer: str, fields: Mapping[str, Mapping[str, Fields]], record: Mapping[str, Any]) -> None:
        """Keep the stored fields {kind: {tensor: fields}} of a layer and its record: the folder appears complete."""
        part = self.path / f"{layer}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        for kind, tensors in fields.items():
            for tensor, arrays in tensors.items():
                for field, array in arrays.items():
                    _save(part / f"{kind}~{tensor}~{field}.npy", array)
        with (part / _RECORD).open("w", encoding="utf-8") as file:
            json.dump(record, file)
            file.flush()
            os.fsync(file.fileno())
        shutil.rmtree(self.path / layer, ignore_errors=True)
        part.replace(self.path / layer)

    def fields(self, layer: str, kind: str, tensor: str) -> Fields:
        """The stored fields of a tensor of a finished layer, mapped from the disk."""
        prefix = f"{kind}~{tensor}~"
        return {
            path.name.removeprefix(prefix).removesuffix(".npy"): np.load(path, mmap_mode="r")
            for path in sorted((self.path / layer).iterdir())
            if path.name.startswith(prefix)
        }

    def tensors(self, layer: str, kind: str) -> list[str]:
        """Tensors of a finished layer of which something of that kind is kept."""
        names = [path.name.split("~") for path in sorted((self.path / layer).iterdir())]
        return list(dict.fromkeys(name[1] for name in names if name[0] == kind))


def _save(path: Path, array: npt.NDArray[Any]) -> None:
    with path.open("wb") as file:
        np.save(file, np.ascontiguousarray(array))
        file.flush()
        os.fsync(file.fileno())
