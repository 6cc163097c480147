"""What calibration asks of a vocabulary beyond ids: the token that ends a text, and the chat template."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import fewbits
from fewbits.engine.conversation import Message, choose_template
from fewbits.engine.vocabulary import read_vocabulary
from fewbits.errors import EvaluationError
from fewbits.evaluation.model_files import Vocabulary, open_model

TEMPLATE = (
    "{{ eos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system here') }}"
    "{% endif %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
)
TURNS = [{"role": "user", "content": "How?"}, {"role": "assistant", "content": "So."}]


def with_template(pocket: Path, target: Path) -> Path:
    shutil.copytree(pocket, target)
    config = target / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text(encoding="utf-8")), "chat_template": TEMPLATE}))
    return target


@pytest.fixture(scope="module", params=["directory", "GGUF"])
def chatting(request: pytest.FixtureRequest, pocket: Path, tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    folder = tmp_path_factory.mktemp("chat")
    source = with_template(pocket, folder / "model")
    if request.param == "GGUF":
        source, directory = folder / "model.gguf", source
        fewbits.quantize(directory, source, to="Q8_0")
    return open_model(source).vocabulary()


def test_the_template_of_either_container_writes_conversations(chatting: Vocabulary) -> None:
    assert chatting.render(TURNS) == "<|endoftext|>[user] How?\n[assistant] So.\n"  # type: ignore[attr-defined]
    assert chatting.end_token == chatting.encode("<|endoftext|>")[0]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", [None, "chatml", "gemma", "llama3"])
def test_the_engine_writes_conversations_as_transformers_does(pocket: Path, tmp_path: Path, name: str | None) -> None:
    source = with_template(pocket, tmp_path / "model")
    template = choose_template(read_vocabulary(source), name)
    theirs = open_model(source).vocabulary().tokenizer  # type: ignore[attr-defined]
    theirs.chat_template = template.source

    for reply in (False, True):
        text = theirs.apply_chat_template(TURNS, tokenize=False, add_generation_prompt=reply)
        assert template.render([Message(**turn) for turn in TURNS], reply=reply) == text


def test_what_a_template_refuses_is_said(chatting: Vocabulary) -> None:
    with pytest.raises(EvaluationError, match=r"chat template refuses a conversation \(no system here\)"):
        chatting.render([{"role": "system", "content": "x"}])  # type: ignore[attr-defined]


def test_without_a_template_nothing_is_rendered(pocket: Path) -> None:
    assert open_model(pocket).vocabulary().render(TURNS) is None  # type: ignore[attr-defined]
