"""Fetch a hub repository into huggingface_hub's cache: one commit of it, and of weights one copy.

Files come one after the other: a run that is broken off loses at most the file it was in, and a connection that breaks
in the middle of a file goes on at its byte. What the cache has is not fetched again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fewbits.errors import FewbitsError, HubError
from fewbits.hub.failures import NOT_CACHED, sentence, told, unreachable
from fewbits.hub.locating import Located, Progress
from fewbits.hub.selection import wanted
from fewbits.reporting.record import HubSource

LICENSE_KEYS = ("license", "license_name", "license_link")
"""What a model card's front matter says of the licence."""


def fetch(repository: str, *, revision: str | None, pickles: bool, progress: Progress) -> Located:
    """The files of `repository` that a conversion can need, at the commit that `revision` is now.

    Raises HubError where the hub has no such repository or revision, does not show it to this login or cannot be asked
    and the cache does not have it, and where the disk is full.
    """
    from huggingface_hub import HfApi

    api = HfApi(library_name="fewbits")
    try:
        found = api.model_info(repository, revision=revision, files_metadata=True)
    except Exception as error:
        if not unreachable(error):
            raise HubError(sentence(_named(repository, revision), error)) from error
        return _cached(repository, revision, pickles=pickles)
    sizes = {each.rfilename: each.size or 0 for each in found.siblings or ()}
    commit = str(found.sha)
    names = wanted(repository, sizes, pickles=pickles)
    with told(_named(repository, revision)):
        folder = _download(repository, revision, commit, {name: sizes[name] for name in names}, progress)
    return _located(repository, revision, folder)


def _named(repository: str, revision: str | None) -> str:
    return repository if revision is None else f"{repository} (revision {revision})"


def _download(repository: str, revision: str | None, commit: str, sizes: Mapping[str, int], progress: Progress) -> Path:
    from huggingface_hub import hf_hub_download, snapshot_download, try_to_load_from_cache

    cached = {n for n in sizes if isinstance(try_to_load_from_cache(repository, n, revision=commit), str)}
    coming = sum(size for name, size in sizes.items() if name not in cached)
    _require_room(repository, coming)
    meter = _Meter(coming, progress)
    for name in sizes:
        if name not in cached:
            hf_hub_download(repository, name, revision=commit, tqdm_class=meter.bar())
    # Everything is there by now: this one writes down that `revision` is this commit, for those who are offline later.
    folder = Path(snapshot_download(repository, revision=revision, allow_patterns=list(sizes)))
    if folder.name != commit:
        raise HubError(f"{repository} was changed while it was being fetched; run the same command again.")
    return folder


def _require_room(repository: str, size: int) -> None:
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = next(each for each in (Path(HF_HUB_CACHE), *Path(HF_HUB_CACHE).absolute().parents) if each.exists())
    free = shutil.disk_usage(folder).free
    if free < size:
        raise HubError(
            f"the disk is full: {size / 1e6:.1f} MB of {repository} are to be fetched and the cache {HF_HUB_CACHE} has "
            f"{free / 1e6:.1f} MB free; free some space, or set HF_HOME to a folder on another disk."
        )


def _cached(repository: str, revision: str | None, *, pickles: bool) -> Located:
    """What was fetched before, where nobody can be asked."""
    from huggingface_hub import snapshot_download

    with told(_named(repository, revision)):
        folder = Path(
            snapshot_download(repository, revision=revision, local_files_only=True, allow_patterns=["config.json"])
        )
    try:
        wanted(repository, {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}, pickles=pickles)
    except FewbitsError:
        raise HubError(NOT_CACHED.format(what=_named(repository, revision))) from None
    note = (
        f"The hub could not be asked: commit {folder.name} of {repository}, which the cache has, was taken; "
        f"{revision or 'its default branch'} may have moved on."
    )
    return _located(repository, revision, folder, () if revision == folder.name else (note,))


def _located(repository: str, revision: str | None, folder: Path, notes: tuple[str, ...] = ()) -> Located:
    source = HubSource(repository, revision, folder.name, dict(license_of(folder)))
    return Located(str(folder), repository.split("/")[1], source, notes)


def license_of(folder: Path) -> Mapping[str, str]:
    """What README.md in `folder` states of the licence; empty where there is none, or no front matter in it."""
    from huggingface_hub.repocard import metadata_load

    readme = folder / "README.md"
    try:
        stated = metadata_load(readme) if readme.is_file() else None
    except Exception:  # a README is prose of somebody else: no reason to stop over what its YAML gets wrong
        stated = None
    return license_in(stated or {})


def license_in(front_matter: Mapping[str, Any]) -> Mapping[str, str]:
    """The licence keys of a model card's front matter, those that are text."""
    found = {key: front_matter.get(key) for key in LICENSE_KEYS}
    return MappingProxyType({key: value for key, value in found.items() if isinstance(value, str)})


class _Meter:
    """Bytes of several files as one figure."""

    def __init__(self, total: int, progress: Progress) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def add(self, count: float) -> None:
        """`count` bytes more have come."""
        self._done += int(count)
        self._progress(min(self._done, self._total), self._total)

    def bar(self) -> Any:
        """The class that stands where huggingface_hub makes a bar of tqdm for one file."""
        return type("Bar", (_Bar,), {"add": staticmethod(self.add)})


class _Bar:
    """As much of tqdm as huggingface_hub asks for; it shows nothing and counts."""

    add: Callable[[float], None]

    def __init__(self, *_: Any, total: float | None = None, initial: float = 0, **__: Any) -> None:
        self.total, self.n = total, 0.0
        self.update(initial)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None: ...

    def update(self, count: float | None = 1) -> None:
        """`count` bytes more are on the disk; fewer, where a part has to be fetched again."""
        self.n += count or 0
        self.add(count or 0)

    def update_transfer(self, count: float | None = 1) -> None:
        """Bytes that came over the network, which are counted where they are written."""

    def set_postfix_str(self, *_: Any, **__: Any) -> None:
        """The rate, which is said elsewhere."""

    set_transfer_postfix_str = set_description = set_description_str = refresh = close = set_postfix_str
