"""What a user reads when something went wrong: one sentence, never a traceback."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import traceback

import click

from fewbits.errors import FewbitsError

DEBUG = "FEWBITS_DEBUG"
ISSUES = "the project's issue tracker"

_REASONS = {
    errno.ENOSPC: "no space is left on the device; free some, or write to another disk",
    errno.EDQUOT: "the disk quota is used up; free some space, or write to another disk",
    errno.EFBIG: "the file is larger than this system allows; write to another disk or raise the limit",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the file system is read-only; write elsewhere",
    errno.EISDIR: "this is a directory, and a file is needed",
    errno.ENOTDIR: "a part of this path is not a directory",
    errno.ENOENT: "there is no such file or directory",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n)",
}


def debugging() -> bool:
    """Whether FEWBITS_DEBUG asks for tracebacks."""
    return os.environ.get(DEBUG, "") not in {"", "0"}


def describe(error: BaseException) -> str:
    """The sentence for `error`.

    >>> describe(FewbitsError("model.gguf: it is\\ntruncated."))
    'model.gguf: it is truncated.'
    """
    if isinstance(error, FewbitsError):
        return one_line(str(error))
    if isinstance(error, click.ClickException):
        return one_line(f"{error.format_message().rstrip('.')}; see `fewbits --help`.")
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return "interrupted; nothing half-done was left behind."
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return "the memory of this machine is not enough for this; close other programs or use a larger machine."
    if isinstance(error, OSError):
        return one_line(_describe_os_error(error))
    return one_line(
        f"internal error ({type(error).__name__}: {error}); this is a bug in fewbits: please report it with the output "
        f"of the same command under {DEBUG}=1."
    )


def complain(sentence: str, error: BaseException) -> None:
    """Print the sentence on stderr, after the traceback when debugging."""
    with contextlib.suppress(OSError, ValueError):  # stderr may be closed or full; there is no third place to say so
        if debugging():
            traceback.print_exception(error, file=sys.stderr)
        sys.stderr.write(f"fewbits: {sentence}\n")
        sys.stderr.flush()


def one_line(text: str) -> str:
    """`text` on one line, with control characters (a hostile tensor name's escape codes) made visible.

    >>> one_line("a  b\\x1b[31m")
    'a b\\\\x1b[31m'
    """
    joined = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in joined)


def _describe_os_error(error: OSError) -> str:
    reason = _REASONS.get(error.errno or 0) or (error.strerror or str(error) or type(error).__name__)
    where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
    return f"{where}{reason}."
