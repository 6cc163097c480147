"""Runs one chat template and ends: the child process in which a model's own program cannot do harm.

A template is code out of a file that somebody else made. It sees messages and nothing else of Python (jinja2's
immutable sandbox), and its process has little memory and time, and may open no file any more when the template starts.
Whoever started it waits only so long. It reads one JSON object from stdin and answers with one on stdout.
"""

from __future__ import annotations

import contextlib
import json
import sys
from datetime import datetime
from typing import Any, NoReturn

MEMORY = 1 << 30
"""Bytes of address space."""

SECONDS = 1
"""Of the processor's time, or up to one more."""

MOST_TEXT = 1 << 24
"""Characters of what comes out: far more than any context holds."""


def _environment() -> Any:
    """What transformers gives a chat template: its blocks, filters and functions, in the sandbox."""
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}`, which marks what a model is trained on: here its content alone."""

        tags = {"generation"}  # noqa: RUF012 - jinja2 says so

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation])
    made.filters["tojson"] = _to_json
    made.globals["raise_exception"] = _refuse
    made.globals["strftime_now"] = lambda form: datetime.now().strftime(form)  # the user's own day
    return made


def _to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    wanted = {key: options[key] for key in ("separators", "sort_keys") if key in options}
    return json.dumps(value, ensure_ascii=False, indent=indent, **wanted)


def _refuse(message: str) -> NoReturn:
    from jinja2.exceptions import TemplateError

    raise TemplateError(message)


def _confine() -> None:
    """Little memory and time from here on, and no more files."""
    with contextlib.suppress(ImportError):  # other systems have the deadline of whoever waits
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        for limit, most in (
            (resource.RLIMIT_AS, MEMORY),
            (resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + SECONDS),
            (resource.RLIMIT_FSIZE, 0),
            (resource.RLIMIT_NOFILE, 0),
        ):
            resource.setrlimit(limit, (most, most))


_FIRST = (
    r"{{ 'a\n' | tojson }}{{ strftime_now('%d %B') }}{{ [2] | sort | random }}{% for a in 'b' %}{{ a }}{% endfor %}"
)
"""A template that makes Python and jinja2 load what they load when it is first needed."""


def _answer(asked: dict[str, Any]) -> dict[str, str]:
    from jinja2 import debug, exceptions  # noqa: F401 - jinja2 imports debug when a template fails

    environment = _environment()
    environment.from_string(_FIRST).render()
    _confine()
    try:
        text = environment.from_string(asked["template"]).render(**asked["variables"])
    except exceptions.TemplateSyntaxError as error:
        return {"error": f"line {error.lineno}: {error.message}"}
    except MemoryError:
        return {"error": "it wants more memory than a template may have"}
    except Exception as error:  # templates raise whatever they like
        return {"error": str(error) or type(error).__name__}
    return {"text": text} if len(text) <= MOST_TEXT else {"error": f"it writes {len(text)} characters"}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_answer(json.load(sys.stdin))))
