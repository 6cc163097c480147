"""The headers of a repository's weights, read where they lie: some kilobytes of what may be hundreds of gigabytes.

A dialect that has to look into a tensor to know what it holds (a shape, zero points) gets that tensor alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fewbits.checkpoints.base import Bytes, Reader, StoredTensor
from fewbits.checkpoints.jsonfile import load_object
from fewbits.checkpoints.safetensors import (
    INDEX_NAME,
    LENGTH,
    SINGLE_NAME,
    Header,
    SafetensorsReader,
    ShardedReader,
    header_end,
)
from fewbits.errors import HubError
from fewbits.hub.failures import sentence, told, unreachable
from fewbits.hub.selection import wanted

_AT_ONCE = 100_000
"""Bytes of the first request for a file: more than most headers have."""

Ranged = Callable[[int, int], Bytes]
"""Bytes of a file from the first number on to the second."""


@dataclass(frozen=True)
class RemoteModel:
    """A model directory of the hub, of which nothing but headers and configuration has come."""

    name: str
    """"org/name@commit"."""
    config: dict[str, Any]
    reader: Reader
    sizes: Mapping[str, int]
    """Weights file -> its bytes."""


def read_headers(repository: str, *, revision: str | None) -> RemoteModel | None:
    """What the headers of `repository` say at the commit that `revision` is now; None where nobody can be asked.

    Raises HubError where there is no such repository or revision, or none that can be read, and CheckpointError where
    what is there is damaged.
    """
    from huggingface_hub import HfApi, hf_hub_download

    what = repository if revision is None else f"{repository} (revision {revision})"
    try:
        found = HfApi(library_name="fewbits").model_info(repository, revision=revision, files_metadata=True)
    except Exception as error:
        if unreachable(error):
            return None
        raise HubError(sentence(what, error)) from error
    every = {each.rfilename: each.size or 0 for each in found.siblings or ()}
    names, commit = wanted(repository, every, pickles=False), str(found.sha)
    sizes = {name: every[name] for name in names if name.endswith(".safetensors")}
    with told(what):
        small = [n for n in ("config.json", INDEX_NAME) if n in names]
        local = {name: Path(hf_hub_download(repository, name, revision=commit)) for name in small}
        opened = partial(_opened, repository, commit, sizes)
        reader: Reader = (
            ShardedReader(local[INDEX_NAME], opened, lambda path: path.name in sizes)
            if INDEX_NAME in local
            else opened(Path(SINGLE_NAME))
        )
    return RemoteModel(f"{repository}@{commit}", load_object(local["config.json"]), reader, sizes)


def _opened(repository: str, commit: str, sizes: Mapping[str, int], path: Path) -> RemoteReader:
    from huggingface_hub import hf_hub_url

    url = hf_hub_url(repository, path.name, revision=commit)
    return RemoteReader(Path(repository) / path.name, sizes[path.name], partial(_range, url, path.name))


class RemoteTensor(StoredTensor):
    """A tensor whose bytes come when somebody looks at them."""

    def __init__(self, name: str, format: str, shape: tuple[int, ...], size: int, read: Callable[[], Bytes]) -> None:
        for key, value in {"name": name, "format": format, "shape": shape, "_size": size, "_read": read}.items():
            object.__setattr__(self, key, value)

    @property
    def bytes(self) -> int:
        """Stored bytes."""
        return int(vars(self)["_size"])

    @property
    def buffer(self) -> Bytes:
        """The bytes themselves."""
        read: Callable[[], Bytes] = vars(self)["_read"]
        return read()


class RemoteReader(SafetensorsReader):
    """One safetensors file of the hub, its header checked completely."""

    def __init__(self, path: Path, size: int, ranged: Ranged) -> None:
        self.path, self._ranged = path, ranged
        first = ranged(0, min(size, _AT_ONCE))
        self._start = header_end(path, first, size)
        more = ranged(first.size, self._start) if self._start > first.size else first[:0]
        self._header = Header(path, np.concatenate([first[LENGTH : self._start], more]), size)
        self.metadata = self._header.metadata

    def read(self, name: str) -> StoredTensor:
        """The tensor called `name`; raises CheckpointError when there is none."""
        entry = self._header.entry(name)
        begin, end = self._start + entry.begin, self._start + entry.end
        return RemoteTensor(name, entry.dtype, entry.shape, end - begin, partial(self._ranged, begin, end))


def _range(url: str, name: str, begin: int, end: int) -> Bytes:
    """Bytes of the file at `url`; raises HubError where the hub sends anything else."""
    if begin == end:
        return np.empty(0, np.uint8)
    from huggingface_hub import utils

    client: Any = utils  # whose names are said to be public in its documentation, and not to type checkers

    headers = {
        "Accept-Encoding": "identity",
        **client.build_hf_headers(library_name="fewbits"),
        "Range": f"bytes={begin}-{end - 1}",
    }
    found = bytearray()
    with told(name), client.get_session().stream("GET", url, headers=headers) as answer:
        if answer.status_code != 206:
            answer.read()
            client.hf_raise_for_status(answer)
            raise HubError(f"the hub does not send parts of {name}; fetch it with fewbits quantize, or by hand.")
        for piece in answer.iter_bytes():
            found += piece
            if len(found) > end - begin:
                break
    if len(found) != end - begin:
        raise HubError(f"the hub sent other than the {end - begin} bytes of {name} that were asked for; try again.")
    return np.frombuffer(bytes(found), np.uint8)
