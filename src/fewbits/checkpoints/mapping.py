"""Map a file read-only, so that a tensor of any size costs no memory until its bytes are looked at."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np

from fewbits.checkpoints.base import Bytes
from fewbits.errors import CheckpointError


def map_file(path: Path) -> Bytes:
    """The bytes of `path` as a read-only view; raises CheckpointError when the file cannot be read or is empty."""
    try:
        with path.open("rb") as file:
            view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist; check the path or download the file again.") from None
    except ValueError:
        raise CheckpointError(f"{path} is an empty file; download or copy it again.") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from None
    return np.frombuffer(view, dtype=np.uint8)
