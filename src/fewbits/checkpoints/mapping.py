"""Map a file read-only, so that a tensor of any size costs no memory until its bytes are looked at."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fewbits.checkpoints.base import Bytes
from fewbits.errors import CheckpointError
from fewbits.mapped import mapped


def map_file(path: Path) -> Bytes:
    """The bytes of `path` as a read-only view; raises CheckpointError when the file cannot be read or is empty."""
    try:
        return np.frombuffer(mapped(path), dtype=np.uint8)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist; check the path or download the file again.") from None
    except ValueError:
        raise CheckpointError(f"{path} is an empty file; download or copy it again.") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from None
