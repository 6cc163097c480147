"""The repository that an output goes to: everything that can be refused is refused before work and before an upload."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewbits.errors import HubError
from fewbits.hub.failures import LOG_IN, told
from fewbits.hub.locating import HUB_ID
from fewbits.hub.model_card import MARK
from fewbits.reporting.card import card_path
from fewbits.reporting.record import PushPlan

README = "README.md"


@dataclass(frozen=True)
class Destination:
    """A repository as it is now."""

    repository: str
    exists: bool
    private: bool
    public_asked: bool
    files: frozenset[str] = frozenset()
    """Names of what it holds."""
    own_readme: bool = True
    """Whether its README may be written: there is none, or it is ours."""
    commit: str | None = None

    def plan(self, files: tuple[str, ...], notes: tuple[str, ...] = ()) -> PushPlan:
        """What uploading `files` and a model card will do."""
        said = list(notes)
        if self.exists and self.public_asked and self.private:
            said.append(f"{self.repository} exists and stays private; change that on its page at the hub.")
        if not self.own_readme:
            said.append(f"The {README} of {self.repository} was not written by fewbits and stays as it is.")
        names = (*files, README) if self.own_readme else files
        return PushPlan(self.repository, not self.exists, self.private, names, tuple(said))


def look(repository: str, *, public: bool = False) -> Destination:
    """`repository` ("org/name") as a place to upload to; raises HubError where this login cannot, or nobody can.

    A repository that is not there will be created, private unless `public` is asked for.
    """
    if not HUB_ID.fullmatch(repository):
        raise HubError(f"{repository} is no name of a repository; give org/name, your own name being the org.")
    from huggingface_hub import HfApi, get_token

    if get_token() is None:
        raise HubError(f"uploading to {repository} needs a login at the Hugging Face hub: {LOG_IN}.")
    api = HfApi(library_name="fewbits")
    with told(repository):
        _require_namespace(repository, api.whoami())
        found = _existing(api, repository)
    if found is None:
        return Destination(repository, exists=False, private=not public, public_asked=public)
    names = frozenset(each.rfilename for each in found.siblings or ())
    with told(repository):
        own = README not in names or MARK in _readme(repository, str(found.sha))
    return Destination(repository, True, bool(found.private), public, names, own, str(found.sha))


def _require_namespace(repository: str, login: dict[str, Any]) -> None:
    own = [str(login.get("name")), *(str(each.get("name")) for each in login.get("orgs") or ())]
    space = repository.split("/", maxsplit=1)[0]
    if space.lower() not in {name.lower() for name in own}:
        raise HubError(
            f"{repository} cannot be written by this login, which may upload to {', '.join(own)}; choose one of these, "
            f"or {LOG_IN} of an account that belongs to {space}."
        )


def _existing(api: Any, repository: str) -> Any:
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return api.model_info(repository)
    except RepositoryNotFoundError:
        return None


def _readme(repository: str, commit: str) -> str:
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(repository, README, revision=commit)).read_text(encoding="utf-8", errors="replace")


def names_of(output: Path) -> tuple[str, ...]:
    """What is known of the files to upload before `output` is there.

    >>> names_of(Path("out/model.gguf"))
    ('model.gguf', 'model.card.json')
    """
    first = output.name if output.suffix.lower() == ".gguf" else f"the files of {output.name}"
    return first, card_path(output).name
