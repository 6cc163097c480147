"""The state of a training on the disk, from which it goes on to the same numbers: written whole or not at all.

A folder holds one file of tensors, named after its step, and `training.json`, which names it with its SHA-256. The file
is there before it is named, and the one before it is deleted after that: whenever a run is killed, a complete state is
left.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from fewbits.checkpoints.partial_file import sync_folder
from fewbits.errors import TrainingError
from fewbits.layers.matrix import PackedMatrix
from fewbits.training.fitting.history import History

STATEMENT = "training.json"
_VERSION = 1


@dataclass(frozen=True)
class Statement:
    """What `training.json` says."""

    asked: Mapping[str, Any]
    """What a training that goes on must have in common with its beginning."""
    history: History
    file: str
    sha256: str
    threads: int
    """Of torch: another number may add in another order."""

    @property
    def step(self) -> int:
        """Steps that were done."""
        return self.history.steps


def read_statement(folder: Path) -> Statement | None:
    """What is said of the state in `folder`; None where there is none, TrainingError where it cannot be read."""
    path = folder / STATEMENT
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["version"] != _VERSION:
            raise TrainingError(f"{path} was written by another version of fewbits; begin anew, or use that version.")
        kept = {name: data[name] for name in ("asked", "file", "sha256", "threads")}
        return Statement(history=History.from_json(data["history"]), **kept)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{path} is damaged, so that nothing can go on from it; begin anew.") from error


def write_state(folder: Path, asked: Mapping[str, Any], history: History, tensors: Mapping[str, Any]) -> None:
    """Make `tensors` the state in `folder`; the one before stays until this one is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"state-{history.steps:08d}.pt"
    digest = _write_whole(folder / name, lambda file: torch.save(dict(tensors), file))
    statement = {
        "version": _VERSION,
        "asked": asked,
        "history": history.to_json(),
        "file": name,
        "sha256": digest,
        "threads": torch.get_num_threads(),
    }
    write_json(folder / STATEMENT, statement)
    for old in folder.glob("state-*.pt"):
        if old.name != name:
            old.unlink()


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write `data` to `path`, whole or not at all."""
    _write_whole(path, lambda file: file.write(json.dumps(data, indent=1).encode()))


def read_state(folder: Path, statement: Statement) -> dict[str, Any]:
    """The tensors of a state; raises TrainingError where they are not what was written, by their SHA-256."""
    path = folder / statement.file
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(1 << 22):
                digest.update(piece)
    except FileNotFoundError:
        raise TrainingError(f"{path} is missing, so that the training cannot go on; begin anew.") from None
    if digest.hexdigest() != statement.sha256:
        raise TrainingError(f"{path} is not what was written there (its SHA-256 differs): it is damaged; begin anew.")
    found: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return found


def remove_state(folder: Path) -> None:
    """Forget a state, and the folder where nothing else is in it."""
    for path in [folder / STATEMENT, *folder.glob("state-*.pt"), *folder.glob(".*.part")]:
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # the user has put something there
        folder.rmdir()


# ---- what of a model is in a state


def trained_tensors(model: torch.nn.Module) -> dict[str, Any]:
    """What training changes in `model`: parameters with gradients, and buffers but those of packed matrices."""
    state, names = model.state_dict(), _frozen(model)
    return {name: value for name, value in state.items() if name not in names}


def load_trained(model: torch.nn.Module, tensors: Mapping[str, Any], folder: Path) -> None:
    """Put what `trained_tensors` gave back into `model`; raises TrainingError where it was another model's."""
    own = trained_tensors(model)
    other = sorted(own.keys() ^ tensors.keys()) or [name for name in own if _shape(own[name]) != _shape(tensors[name])]
    if other:
        raise TrainingError(
            f"{folder}: the state there is of another model ({other[0]} differs, {len(other)} in all); resume with the "
            "model that it was begun with, or begin anew."
        )
    model.load_state_dict(dict(tensors), strict=False)


def _frozen(model: torch.nn.Module) -> set[str]:
    frozen = {name for name, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad}
    for name, module in model.named_modules():
        if isinstance(module, PackedMatrix):
            frozen |= {f"{name}.{own}" if name else own for own in module.state_dict()}
    return frozen


def _shape(value: Any) -> Any:
    return tuple(value.shape) if isinstance(value, torch.Tensor) else None


def digest_of(model: torch.nn.Module) -> str:
    """The SHA-256 of all tensors of a model, with names, types and shapes."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        if not isinstance(value, torch.Tensor):
            continue
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def count_numbers(model: torch.nn.Module) -> int:
    """Weights of a model, packed ones included; tied ones count once."""
    packed = {id(module): module for module in model.modules() if isinstance(module, PackedMatrix)}
    plain = sum(parameter.numel() for parameter in model.parameters())
    return plain + sum(matrix.shape[0] * matrix.shape[1] for matrix in packed.values())


# ---- what differs


def require_same(asked: Mapping[str, Any], statement: Statement, folder: Path) -> None:
    """Raise TrainingError naming each thing in which `asked` is not what the state in `folder` was begun with."""
    before, now = dict(_flat(statement.asked)), dict(_flat(json.loads(json.dumps(asked))))
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if not names:
        return
    told = [f"{name} was {_short(before.get(name))} and is {_short(now.get(name))}" for name in names[:4]]
    more = f", and {len(names) - 4} more" if len(names) > 4 else ""
    raise TrainingError(
        f"{folder} was begun otherwise ({', '.join(told)}{more}); resume with what it was begun with, or begin anew."
    )


def _flat(data: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in data.items():
        found += _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [(prefix + name, value)]
    return found


def _short(value: Any) -> str:
    text = "not given" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."


# ---- files


def _write_whole(path: Path, write: Callable[[Any], Any]) -> str:
    """Have `write` fill a file beside `path`, make it last, and give it its name; its SHA-256."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            told = _Telling(file)
            try:
                write(told)
            except RuntimeError as error:  # torch's own words for a write that failed
                raise told.failed or error from None
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
    return told.digest.hexdigest()


class _Telling:
    """A file that hashes what it is given, and remembers why a write failed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.failed: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of `data`."""
        try:
            self._file.write(data)
        except OSError as error:
            self.failed = error
            raise
        self.digest.update(data)
        return memoryview(data).nbytes

    def flush(self) -> None:
        """As files have it."""
        self._file.flush()
