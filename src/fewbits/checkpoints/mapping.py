"""Map a file read-only, so that a tensor of any size costs no memory until its bytes are looked at."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np

from fewbits.checkpoints.base import Bytes
from fewbits.errors import CheckpointError

_MAPPED: WeakValueDictionary[tuple[int, ...], Bytes] = WeakValueDictionary()
"""Mappings in use, by device, inode, size and time of the last change: hashing, encoding and verifying share one."""


def map_file(path: Path) -> Bytes:
    """The bytes of `path` as a read-only view; raises CheckpointError when the file cannot be read or is empty."""
    try:
        with path.open("rb") as file:
            state = os.fstat(file.fileno())
            key = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
            found = _MAPPED.get(key)
            if found is None:
                found = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype=np.uint8)
                _MAPPED[key] = found
            return found
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist; check the path or download the file again.") from None
    except ValueError:
        raise CheckpointError(f"{path} is an empty file; download or copy it again.") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from None
