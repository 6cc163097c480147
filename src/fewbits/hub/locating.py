"""What the user names as a source: a path of this machine, or else a repository of the hub, which is fetched."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fewbits.errors import HubError
from fewbits.reporting.record import HubSource

HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}/[A-Za-z0-9_.-]{1,96}")

Progress = Callable[[int, int], None]
"""progress(bytes done, bytes in all)"""


@dataclass(frozen=True)
class Located:
    """Where a source lies on this machine."""

    path: str
    name: str | None = None
    """What a repository calls the model; None for a path, which says it itself."""
    hub: HubSource | None = None
    notes: tuple[str, ...] = ()
    """What the user should know, one sentence each."""


def is_repository(source: str) -> bool:
    """Whether `source` names a repository of the hub: it looks like org/name, and no such path exists."""
    return bool(HUB_ID.fullmatch(source)) and not Path(source).expanduser().exists()


def _silent(done: int, total: int) -> None:
    """Report nothing."""


def locate(source: str, *, revision: str | None = None, pickles: bool = False, progress: Progress = _silent) -> Located:
    """`source` where it is a path, else the hub repository of that name, fetched; raises HubError, one sentence.

    `revision` is a branch, tag or commit of a repository; `pickles` fetches PyTorch's own weights where there are no
    others.
    """
    if not is_repository(source):
        if revision is not None:
            kind = "a path of this machine" if Path(source).expanduser().exists() else "no hub id (org/name)"
            raise HubError(f"{source} is {kind}, and only a repository of the hub has a revision; leave it out.")
        return Located(source)
    from fewbits.hub.fetching import fetch  # huggingface_hub and all

    return fetch(source, revision=revision, pickles=pickles, progress=progress)
