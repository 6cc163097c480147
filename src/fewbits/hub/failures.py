"""Whatever goes wrong between us and the hub, as one sentence that holds no token and no signed address."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fewbits.errors import FewbitsError, HubError

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"

NOT_CACHED = (
    "{what} is not in the cache of this machine, or not all of it, and the hub cannot be asked: check the network, and "
    "HF_HUB_OFFLINE, which forbids it where it is set."
)

_SECRET = re.compile(r"\bhf_\w+|(?i:bearer)\s+\S+|(?<=\?)\S+")
"""Tokens, and what stands behind the question mark of an address, which may be a signature."""

_NETWORKS = ("httpx", "httpx2", "httpcore", "requests", "urllib3")
"""Packages whose errors say that nobody answered; which of them is beneath depends on huggingface_hub's version."""

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def told(what: str, *, after: str = "") -> Iterator[None]:
    """Raise as HubError, with `after` at the end, what the hub's client raises about `what` ("org/name")."""
    try:
        yield
    except FewbitsError:
        raise
    except Exception as error:  # the client raises errors of its own, of its HTTP package and of the system
        raise HubError(f"{sentence(what, error)}{after}") from error


def sentence(what: str, error: BaseException) -> str:
    """What went wrong with `what`, and what to do about it."""
    from huggingface_hub import errors

    kinds: tuple[tuple[type[BaseException], str], ...] = (
        (
            errors.GatedRepoError,
            f"{{what}} is gated: accept its terms on its page at the hub, and {LOG_IN} with that account.",
        ),
        (errors.RevisionNotFoundError, "{what} has no such revision; look at its branches, tags and commits."),
        (
            errors.RepositoryNotFoundError,
            f"{{what}} is not on the hub, or is private and this login may not see it; check the name, or {LOG_IN}.",
        ),
        (
            errors.LocalEntryNotFoundError,
            NOT_CACHED,
        ),
        (errors.OfflineModeIsEnabled, "HF_HUB_OFFLINE is set, so {what} cannot be asked for; unset it."),
    )
    for kind, text in kinds:
        if isinstance(error, kind):
            return text.format(what=what)
    if isinstance(error, errors.HfHubHTTPError) and getattr(error, "response", None) is not None:
        return _answered(what, error)
    return _without_answer(what, error)


def unreachable(error: BaseException) -> bool:
    """Whether nobody answered: no network, no server, too slow, or forbidden to ask."""
    from huggingface_hub import errors

    if isinstance(error, errors.HfHubHTTPError) and getattr(error, "response", None) is not None:
        return bool(error.response.status_code >= 500)
    return isinstance(error, (ConnectionError, TimeoutError)) or type(error).__module__.split(".")[0] in _NETWORKS


_STATUS: dict[int, str] = {
    401: f"refuses this login to {{what}}; {LOG_IN} with a token that is valid.",
    403: f"does not allow this login to do that with {{what}}; {LOG_IN} with a token that may (write, for an upload).",
    409: "says that {what} was changed by somebody else meanwhile; run the same command again.",
    413: "finds that too large for {what}.",
    429: "was asked too often about {what}; wait some minutes and run the same command again.",
}


def _answered(what: str, error: Any) -> str:
    code = error.response.status_code
    said = without_secrets(error.server_message or error.response.headers.get("X-Error-Message") or "")
    if code in _STATUS:
        return f"the hub {_STATUS[code].format(what=what)}" + (f" It says: {said}." if said else "")
    remedy = "run the same command again later" if code >= 500 else "look at what it says"
    return f"the hub answered {code} to a question about {what}{f' ({said})' if said else ''}; {remedy}."


def _without_answer(what: str, error: BaseException) -> str:
    found = _cause(error, lambda each: isinstance(each, OSError) and each.errno in _FULL)
    if found is not None:
        from huggingface_hub.constants import HF_HUB_CACHE

        return (
            f"the disk is full: {what} does not fit into the cache {HF_HUB_CACHE}; free some space, or set HF_HOME to "
            "a folder on another disk."
        )
    if _cause(error, unreachable) is not None:
        return (
            f"the hub cannot be reached, or the connection broke off too often, over {what}; check the network (and "
            "HF_ENDPOINT, where it is set) and run the same command again: files that are complete are kept."
        )
    return f"{what} and the hub: {without_secrets(str(error)) or type(error).__name__}."


def _cause(error: BaseException | None, wanted: Callable[[BaseException], bool]) -> BaseException | None:
    """The first of `error` and what it came from that is `wanted`."""
    while error is not None and not wanted(error):
        error = error.__cause__ or error.__context__
    return error


def without_secrets(text: str) -> str:
    """The first line of `text` without its full stop, tokens and signatures blacked out.

    >>> without_secrets("Bearer abc sent hf_AbC to https://x/y?sig=1 now.\\nand more")
    '*** sent *** to https://x/y?*** now'
    """
    first = (text.strip().splitlines() or [""])[0]
    return _SECRET.sub("***", first).rstrip(".")
