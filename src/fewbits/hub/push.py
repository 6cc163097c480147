"""`fewbits.push`: upload a finished output with a model card, and compare what the hub then has with what was sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from fewbits.checkpoints import dialects
from fewbits.checkpoints.jsonfile import load_object, parse_object
from fewbits.errors import FewbitsError, HubError
from fewbits.hub.destination import README, Destination, look
from fewbits.hub.facts import facts_of, quality_of
from fewbits.hub.failures import told
from fewbits.hub.locating import HUB_ID
from fewbits.hub.model_card import Section, model_card
from fewbits.hub.output import Output, finished
from fewbits.reporting.record import Pushed, PushPlan

Progress = Callable[[str, int, int], None]


def push(
    path: str | Path,
    repository: str,
    *,
    base_model: str | None = None,
    compare: str | Path | None = None,
    public: bool = False,
    dry_run: bool = False,
    on_plan: Callable[[PushPlan, int], None] | None = None,
    progress: Progress | None = None,
) -> Pushed | PushPlan:
    """Upload the output of `quantize` at `path` to `repository` ("org/name") of the hub, with a model card.

    `path` is a GGUF file or a model directory with its card beside it. The model card names `base_model` (None: the
    repository that the source was fetched from) and takes over its licence; `compare` is a file of
    `fewbits compare --json` (None: OUT.compare.json beside OUT, where it is) whose figures it shows. A repository that
    does not exist is created, private unless `public`. `on_plan(plan, bytes)` is called before anything is sent. A
    file that the hub has already is not sent again. Returns what was uploaded, or the plan when `dry_run`. Raises
    HubError, one sentence; the output on this machine is never touched.
    """
    output = finished(Path(path).expanduser(), comparison=None if compare is None else Path(compare))
    if base_model is not None and not HUB_ID.fullmatch(base_model):
        raise HubError(f"{base_model} is no name of a repository; give the base model as org/name.")
    place = look(repository, public=public)
    base = base_model or output.card.repository
    license = _license(base, output)
    notes = (*output.notes, *_unsaid(base, license))
    plan = place.plan((*output.files, *output.texts), notes)
    if on_plan:
        on_plan(plan, output.bytes)
    return plan if dry_run else _upload(output, place, plan, base, license, progress or (lambda *_: None))


def _license(base: str | None, output: Output) -> Mapping[str, str]:
    """The licence of the base model: as it was when it was fetched, else as the hub states it now."""
    from fewbits.hub.fetching import license_in, license_of

    card = output.card
    if base is None:
        source = Path(card.source).expanduser()
        return license_of(source) if source.is_dir() else {}
    if card.repository == base and card.license:
        return _absolute(card.license, base, card.commit)
    from huggingface_hub import HfApi

    with told(f"the base model {base}"):
        found = HfApi(library_name="fewbits").model_info(base)
    stated = vars(found.card_data) if found.card_data else {}
    return _absolute(license_in(stated), base, found.sha)


def _absolute(license: Mapping[str, str], base: str, commit: str | None) -> Mapping[str, str]:
    """A link to a file of the base model's repository leads there from another one too."""
    link = license.get("license_link")
    if link is None or "://" in link:
        return license
    return {**license, "license_link": f"https://huggingface.co/{base}/blob/{commit or 'main'}/{link.lstrip('./')}"}


def _unsaid(base: str | None, license: Mapping[str, str]) -> list[str]:
    notes = []
    if base is None:
        notes.append("The model card names no base model: the source was a path; name it with --base-model org/name.")
    if not license:
        notes.append(f"The model card states no licence: that of the base model is not known; add it to {README}.")
    return notes


def _upload(
    output: Output,
    place: Destination,
    plan: PushPlan,
    base: str | None,
    license: Mapping[str, str],
    progress: Progress,
) -> Pushed:
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(library_name="fewbits")
    again = f"fewbits push {quote(str(output.path))} {place.repository}"
    after = f" {output.path} and its card are complete: `{again}` goes on."
    with told(place.repository, after=after):
        progress("upload", 0, 0)
        texts = dict(output.texts)
        if README in plan.files:
            texts[README] = _readme(output, place, base, license)
        if plan.creates:
            api.create_repo(place.repository, private=plan.private, exist_ok=True)
        operations = [CommitOperationAdd(name, str(file)) for name, file in output.files.items()]
        total = sum(each.upload_info.size for each in operations)
        for done, each in _one_by_one(operations):
            api.preupload_lfs_files(place.repository, [each], free_memory=False)
            progress("upload", done, total)
        operations += [CommitOperationAdd(name, text) for name, text in texts.items()]
        message = f"Upload {output.path.name} ({output.card.recipe}) by fewbits"
        commit = api.create_commit(place.repository, operations, commit_message=message)
        _require_same(api, place.repository, commit.oid, operations, output.sha256)
    size = sum(each.upload_info.size for each in operations)
    return Pushed(place.repository, commit.oid, str(commit.commit_url), tuple(o.path_in_repo for o in operations), size)


def _one_by_one(operations: list[Any]) -> list[tuple[int, Any]]:
    """(bytes up to and with this one, operation): files go one after the other, so that what is broken off is one."""
    done, found = 0, []
    for each in operations:
        done += each.upload_info.size
        found.append((done, each))
    return found


def _require_same(api: Any, repository: str, commit: str, operations: list[Any], sha256: Mapping[str, str]) -> None:
    """Compare names, sizes and digests of what the hub has at `commit` with what was sent."""
    stated = {each.path: each for each in api.get_paths_info(repository, [*_names(operations)], revision=commit)}
    for each in operations:
        there = stated.get(each.path_in_repo)
        digest = there.lfs.sha256 if there is not None and there.lfs else None
        expected = sha256.get(each.path_in_repo)
        if there is None or there.size != each.upload_info.size or (digest and expected and digest != expected):
            raise HubError(
                f"{repository} does not hold {each.path_in_repo} as it was sent; run the same command again."
            )


def _names(operations: list[Any]) -> list[str]:
    return [each.path_in_repo for each in operations]


def _readme(output: Output, place: Destination, base: str | None, license: Mapping[str, str]) -> bytes:
    """The model card: this output first, then what else of ours the repository holds."""
    sections = [Section(output.card, output.quality), *_others(place, set(output.texts))]
    library = _library(output.path)
    text = model_card(place.repository, sections, base_model=base, license=license, library=library)
    return text.encode()


def _others(place: Destination, own: set[str]) -> list[Section]:
    """Sections of the cards that the repository has already; one that cannot be read is somebody else's and stays."""
    found = []
    for name in sorted(n for n in place.files if n.endswith(".card.json") and n not in own):
        try:
            card = facts_of(_json_of(place, name), f"{place.repository}/{name}")
            beside = name.removesuffix(".card.json") + ".compare.json"
            known = beside in place.files
            quality = quality_of(_json_of(place, beside), f"{place.repository}/{beside}") if known else None
        except FewbitsError:
            continue
        found.append(Section(card, quality))
    return found


def _json_of(place: Destination, name: str) -> dict[str, Any]:
    from huggingface_hub import hf_hub_download

    path = Path(hf_hub_download(place.repository, name, revision=place.commit))
    return parse_object(path.read_bytes(), f"{place.repository}/{name}")


_LIBRARIES = {dialects.OWN: "fewbits", "mlx": "mlx"}
"""Dialect of a model directory -> who loads it; all others are loaded by transformers."""


def _library(path: Path) -> str:
    if path.is_file():
        return "gguf"
    stated = load_object(path / "config.json").get("quantization_config")
    if not isinstance(stated, dict):
        return "transformers"
    known = dialects.recognized(stated)
    return _LIBRARIES.get(known.name if known else str(stated.get("quant_method")), "transformers")
