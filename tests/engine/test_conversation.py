"""Chat templates: what each writes, what a hostile one cannot do, and starts that are not doubled."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

import pytest

from fewbits.checkpoints.base import Value
from fewbits.engine import conversation
from fewbits.engine.chat import Conversation
from fewbits.engine.conversation import TEMPLATES, Message, Template, choose_template
from fewbits.engine.sampling import Sampling
from fewbits.engine.vocabulary import Vocabulary, read_vocabulary
from fewbits.engine.writing import Writer
from fewbits.errors import EngineError
from references.fake_engine import FakeModel

TURNS = [Message("system", "Brief."), Message("user", "Hi"), Message("assistant", "Yo!"), Message("user", "Bye")]
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}

WRITTEN = {
    "chatml": "<|im_start|>system\nBrief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    "<|im_start|>assistant\nYo!<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n",
    "gemma": "<start_of_turn>user\nBrief.\n\nHi<end_of_turn>\n<start_of_turn>model\nYo!<end_of_turn>\n"
    "<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n",
    "llama2": "[INST] <<SYS>>\nBrief.\n<</SYS>>\n\nHi [/INST] Yo! </s><s>[INST] Bye [/INST]",
    "llama3": "<|start_header_id|>system<|end_header_id|>\n\nBrief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nYo!<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral": "[INST] Brief.\n\nHi [/INST] Yo!</s>[INST] Bye [/INST]",
    "phi3": "<|system|>\nBrief.<|end|>\n<|user|>\nHi<|end|>\n"
    "<|assistant|>\nYo!<|end|>\n<|user|>\nBye<|end|>\n<|assistant|>\n",
    "plain": "Brief.\n\nUser: Hi\nAssistant: Yo!\nUser: Bye\nAssistant:",
    "zephyr": "<|system|>\nBrief.</s>\n<|user|>\nHi</s>\n<|assistant|>\nYo!</s>\n<|user|>\nBye</s>\n<|assistant|>\n",
}


@pytest.fixture(scope="module")
def tokens(pocket: Path) -> Vocabulary:
    return read_vocabulary(pocket)


def with_metadata(vocabulary: Vocabulary, **changes: Value) -> Vocabulary:
    stated = {key.replace("__", "."): value for key, value in changes.items()}
    return Vocabulary(
        vocabulary.path, MappingProxyType({**vocabulary.metadata, **stated}), vocabulary.ends, vocabulary.tokenizer_file
    )


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_every_template_that_comes_along_writes_a_conversation(tokens: Vocabulary, name: str) -> None:
    chosen = choose_template(tokens, name)
    template = Template(name, chosen.source, SPECIAL)

    assert template.render(TURNS) == WRITTEN[name]
    assert chosen.special == {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    assert chosen.stops == TEMPLATES[name]


def test_the_model_s_own_template_gets_what_transformers_gives_it(tokens: Vocabulary) -> None:
    source = (
        "{%- for m in messages %}\n{%- if loop.first %}{{ bos_token }}{% endif %}\n  {% generation %}[{{ m['role'] }}]"
        "{{ m.content | trim }}{% endgeneration %}\n"
        "{%- if m.role == 'assistant' %}{% break %}{% endif %}\n{%- endfor %}"
        "{{ {'a': 'é<'} | tojson }}{{ strftime_now('%Y')[:2] }}{{ tools is none }}{{ add_generation_prompt }}"
    )
    own = with_metadata(tokens, tokenizer__chat_template=Value(source, "string"))

    text = choose_template(own).render([Message("user", " x "), Message("assistant", "y"), Message("user", "z")])

    assert text == '<|endoftext|>[user]x[assistant]y{"a": "é<"}20TrueTrue'


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ raise_exception('No system, please.') }}", "No system, please"),
        ("{% if %}", "line 1: Expected an expression"),
        ("a\n{{ messages[0].content.a.b }}", "has no attribute 'a'"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe|not callable|safe"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{{ 'a' * 10**10 }}", "more memory"),
        ("{{ '%9999999999d' % 1 }}", "more memory"),
        ("{{ 'a' | center(10**10) }}", "more memory"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
        ("{{ 'a' * (2**24 + 1) }}", "16777217 characters"),
    ],
)
def test_what_a_hostile_template_does_is_one_sentence(source: str, expected: str) -> None:
    with pytest.raises(
        EngineError, match=rf"^the chat template x refuses the conversation \(.*({expected}).*\); .+\.$"
    ):
        Template("x", source).render(TURNS)


@pytest.mark.parametrize(
    ("deadline", "expected"), [(0.5, "does not end within 0 seconds"), (None, "wants more time or memory")]
)
def test_a_template_without_end_is_ended(
    monkeypatch: pytest.MonkeyPatch, deadline: float | None, expected: str
) -> None:
    monkeypatch.setattr(conversation, "DEADLINE", deadline or conversation.DEADLINE)
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"  # hours

    with pytest.raises(EngineError, match=expected):
        Template("x", loop).render(TURNS)


def test_nothing_is_imported_from_where_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "jinja2.py").write_text("raise SystemExit('a stranger ran')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")

    assert Template("x", "{{ messages[0].content }}").render(TURNS) == "Brief."


def test_a_model_without_a_template_says_what_to_do(tokens: Vocabulary) -> None:
    with pytest.raises(
        EngineError, match=r"has no chat template\); say how .+ --template \(chatml, .+, or a file\), or"
    ):
        choose_template(tokens)


def test_a_template_from_a_file(tokens: Vocabulary, tmp_path: Path) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text("<{{ messages[-1].content }}>", encoding="utf-8")

    assert choose_template(tokens, str(path)).render(TURNS) == "<Bye>"
    path.write_bytes(b"\xff")
    with pytest.raises(EngineError, match=r"not UTF-8 text \(byte 0\)"):
        choose_template(tokens, str(path))
    path.write_text("x" * (conversation.MOST_BYTES + 1))
    with pytest.raises(EngineError, match="at most 1048576 are read"):
        choose_template(tokens, str(path))
    with pytest.raises(
        EngineError, match=r"nothere: there is no such chat template, and no such file; known are chatml"
    ):
        choose_template(tokens, "nothere")


def conversing(tokens: Vocabulary, *replies: str, context: int = 400, template: str = "plain") -> Conversation:
    model = FakeModel(tokens.path, [tokens.encode(reply) for reply in replies])
    writer = Writer(model.session(context=context), tokens, 4096)
    chosen = choose_template(tokens, template)
    return Conversation(writer, chosen, Sampling(seed=1), system="Be kind.", stop=(), tokens=context, cache="F16")


def test_of_each_message_only_what_is_new_is_read(tokens: Vocabulary) -> None:
    talk = conversing(tokens, " Hello there.\nUser: me?", " Goodbye.\nUser:", " Again.\nUser:")

    first, second = talk.say("Hi"), talk.say("Bye")

    assert (first.text, second.text) == (" Hello there.", " Goodbye.")
    assert [each.role for each in talk.messages] == ["system", "user", "assistant", "user", "assistant"]
    # Of the first turn only its last token may be read again, which nobody had asked about.
    assert second.reused >= first.prompt_tokens + len(first.tokens) - 1
    assert second.prompt_tokens - second.reused < 20
    talk.reset()
    assert [each.role for each in talk.messages] == ["system"]
    assert talk.say("Hi").reused == first.prompt_tokens - 1


def test_a_start_token_that_the_template_writes_is_not_doubled(tokens: Vocabulary) -> None:
    wanting = with_metadata(tokens, tokenizer__ggml__add_bos_token=Value(True, "bool"))
    assert wanting.start == 0

    for source in ("{{ bos_token }}[{{ messages[-1].content }}]", "[{{ messages[-1].content }}]"):
        talk = conversing(wanting, "ok")
        talk.template = Template("x", source, {"bos_token": "<|endoftext|>"})
        talk.say("Hi")
        assert talk.writer.session.tokens[:5].count(0) == 1  # type: ignore[attr-defined]
        assert talk.writer.session.tokens[0] == 0  # type: ignore[attr-defined]


def test_a_conversation_that_outgrows_its_context_stays_as_it_was(tokens: Vocabulary) -> None:
    talk = conversing(tokens, " One.\nUser:", " Two.\nUser:", context=60)
    talk.say("Hi")
    before = list(talk.messages)

    with pytest.raises(EngineError, match=r"has \d+ tokens by now, and the context has room for 60; begin .+/reset"):
        talk.say("and " * 80)
    assert talk.messages == before
    assert talk.say("Go on").text == " Two."


def test_no_message_is_empty_or_broken(tokens: Vocabulary) -> None:
    talk = conversing(tokens, "x")

    with pytest.raises(EngineError, match="an empty message"):
        talk.say("  ")
    with pytest.raises(EngineError, match=r"the message is no UTF-8 text \(from character 1 on\)"):
        talk.say("a\udcff")
