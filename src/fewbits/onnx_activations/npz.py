"""Arrays of an .npz file, read a few rows at a time: a calibration set may be larger than memory."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from fewbits.errors import CalibrationError

Array = npt.NDArray[Any]
_SUFFIX = ".npy"
_VERSIONS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@dataclass(frozen=True)
class StoredArray:
    """One array of an .npz file: what its header says, and its rows."""

    path: Path
    member: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def rows(self, count: int) -> Iterator[Array]:
        """The array, `count` of its first side at a time, the last piece with what is left."""
        with _member(self.path, self.member) as file:
            _header(file, self.path, self.member)
            each = int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize
            for start in range(0, self.shape[0], count):
                rows = min(count, self.shape[0] - start)
                data = file.read(rows * each)
                if len(data) != rows * each:
                    raise CalibrationError(f"{self.path} ends within {self.member!r}; make the file again.")
                yield np.frombuffer(data, self.dtype).reshape(rows, *self.shape[1:])


def arrays_of(path: Path) -> dict[str, StoredArray]:
    """Name -> array; raises CalibrationError where the file is none, or holds something else than numbers."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [each for each in archive.namelist() if each.endswith(_SUFFIX)]
        return {each.removesuffix(_SUFFIX): _stored(path, each) for each in members}
    except (zipfile.BadZipFile, ValueError, EOFError, KeyError, NotImplementedError) as error:
        raise CalibrationError(
            f"{path} is no .npz file of numbers ({error}); write one with numpy.savez(PATH, NAME=ARRAY)."
        ) from None


def _stored(path: Path, member: str) -> StoredArray:
    with _member(path, member) as file:
        shape, turned, dtype = _header(file, path, member)
    if turned and len(shape) > 1:
        raise CalibrationError(
            f"{path} has {member.removesuffix(_SUFFIX)!r} column by column, so that its samples lie scattered; save "
            "numpy.ascontiguousarray of it."
        )
    return StoredArray(path, member, shape, dtype)


def _header(file: IO[bytes], path: Path, member: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = _VERSIONS.get(version)
    if read is None:
        raise CalibrationError(f"{path} has {member!r} in the layout {version}, which is not read here; save it again.")
    shape, turned, dtype = read(file)
    if dtype.hasobject:
        raise CalibrationError(f"{path} has Python objects in {member!r}, which are not read; save plain arrays.")
    return tuple(shape), bool(turned), dtype


@contextmanager
def _member(path: Path, member: str) -> Iterator[IO[bytes]]:
    with zipfile.ZipFile(path) as archive, archive.open(member) as file:
        yield file
