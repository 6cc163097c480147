"""Conversations as the text that a model was trained on: its own chat template, or one that the user names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from fewbits.checkpoints.quoting import quoted
from fewbits.engine.vocabulary import Vocabulary
from fewbits.errors import EngineError

TEMPLATES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "chatml": ("<|im_end|>",),
        "gemma": ("<end_of_turn>",),
        "llama2": ("</s>",),
        "llama3": ("<|eot_id|>",),
        "mistral": ("</s>",),
        "phi3": ("<|end|>",),
        "plain": ("\nUser:",),
        "zephyr": ("</s>",),
    }
)
"""Templates that come along (templates/NAME.jinja) -> what ends a turn, where the vocabulary has no such token."""

MOST_BYTES = 1 << 20
"""Of a template; real ones have up to 20,000."""

DEADLINE = 300.0
"""Seconds until a template is given up whose process did not use up its own: a machine may be busy, or stand still."""

_START = "import runpy, sys; sys.path[:] = sys.argv[1:-1]; runpy.run_path(sys.argv[-1], run_name='__main__')"


@dataclass(frozen=True)
class Message:
    """What somebody said: `role` is "system", "user" or "assistant"."""

    role: str
    content: str


@dataclass(frozen=True)
class Template:
    """A chat template; `name` is what a user calls it, `special` are the texts of special tokens that it may write."""

    name: str
    source: str
    special: Mapping[str, str] = field(default_factory=dict)
    stops: tuple[str, ...] = ()
    """What ends a turn, beside the tokens that do."""

    def render(self, messages: Sequence[Message], *, reply: bool = True) -> str:
        """`messages` as text, up to where the model's reply begins; EngineError where the template refuses them.

        It runs in a process of its own (rendering.py): however hostile, it hangs nothing and reads no file.
        """
        turns = [{"role": each.role, "content": each.content} for each in messages]
        variables = {
            **self.special,
            "messages": turns,
            "add_generation_prompt": reply,
            "tools": None,
            "documents": None,
        }
        answer = _run({"template": self.source, "variables": variables})
        if "text" in answer:
            return answer["text"]
        raise EngineError(
            f"the chat template {self.name} refuses the conversation ({_brief(answer['error'])}); "
            f"choose another with --template ({', '.join(TEMPLATES)}, or a file)."
        )


def choose_template(vocabulary: Vocabulary, asked: str | None = None) -> Template:
    """The template called `asked`, a built-in one or a file, or else the model's own; EngineError where it has none."""
    special = {f"{role}_token": vocabulary.special_text(role) for role in ("bos", "eos")}
    if asked is None:
        return Template(f"of {vocabulary.path.name}", _own(vocabulary), special)
    return Template(asked, named_template(asked), special, TEMPLATES.get(asked, ()))


def named_template(asked: str) -> str:
    """The source of the chat template called `asked`, a built-in one or a file; EngineError where there is none."""
    if asked in TEMPLATES:
        return (Path(__file__).parent / "templates" / f"{asked}.jinja").read_text(encoding="utf-8")
    return _from_file(Path(asked))


def _own(vocabulary: Vocabulary) -> str:
    stated = vocabulary.metadata.get("tokenizer.chat_template")
    if stated is not None and isinstance(stated.value, str) and stated.value.strip():
        return _sized(stated.value, str(vocabulary.path))
    raise EngineError(
        f"{vocabulary.path}: the model says nothing of conversations (it has no chat template); say how its turns are "
        f"written with --template ({', '.join(TEMPLATES)}, or a file), or continue a text with fewbits run."
    )


def _from_file(path: Path) -> str:
    if not path.is_file():
        known = ", ".join(TEMPLATES)
        raise EngineError(f"{path}: there is no such chat template, and no such file; known are {known}, or a file.")
    try:
        return _sized(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise EngineError(f"{path}: not UTF-8 text (byte {error.start}), as a chat template has to be.") from None


def _sized(source: str, where: str) -> str:
    if len(source) <= MOST_BYTES:
        return source
    raise EngineError(f"{where}: the chat template has {len(source)} characters, and at most {MOST_BYTES} are read.")


def _run(asked: Mapping[str, object]) -> Mapping[str, str]:
    """The child's answer; what ends it otherwise is an answer too."""
    # Nothing is imported from the current directory, where a downloaded model may lie.
    command = [sys.executable, "-I", "-S", "-c", _START, *filter(os.path.isabs, sys.path)]
    command.append(str(Path(__file__).with_name("rendering.py")))
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and our own file
            command,
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=DEADLINE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"it does not end within {DEADLINE:.0f} seconds"}
    if done.returncode == 0:
        answer: Mapping[str, str] = json.loads(done.stdout)
        return answer
    if "No module named 'jinja2'" in done.stderr:
        return {"error": "jinja2, which reads templates, is not installed: pip install jinja2"}
    return {"error": "it wants more time or memory than a template may have"}


def _brief(text: str) -> str:
    """A template's own words, which may be long or hold anything."""
    return quoted(text.strip().rstrip("."))[1:-1]
