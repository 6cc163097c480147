"""`fewbits`: runs the command line, and turns whatever goes wrong into one sentence and exit code 2."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, or 2 after one sentence on stderr."""
    # numpy's linear algebra starts threads that wait in busy loops; nothing here multiplies matrices with it.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        _tolerate_any_encoding()
        from fewbits.cli.commands import run  # here, so that even an interrupted import ends in a sentence

        code = run(list(sys.argv[1:] if arguments is None else arguments) or ["--help"])
        sys.stdout.flush()
    except BaseException as error:  # the last place where a traceback can be kept from the user
        # Whoever read our output has left (`| head`), and there is nobody to tell; rich makes a SystemExit of it.
        if isinstance(error, BrokenPipeError) or isinstance(error.__context__, BrokenPipeError):
            _abandon_stdout()
            return 2
        from fewbits.cli.failure import complain, describe

        complain(describe(error), error)
        _abandon_stdout()
        return 2
    return code


def _abandon_stdout() -> None:
    """Keep the flush at exit from failing a second time on what a full disk or a closed pipe did not take."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _tolerate_any_encoding() -> None:
    """Print file names that the terminal's encoding lacks as escapes instead of failing on them."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
