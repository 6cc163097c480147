"""Samples as tokens, with a label for each: itself where it is to be learned, else IGNORED."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fewbits.engine.conversation import TEMPLATES, named_template
from fewbits.errors import TrainingError
from fewbits.evaluation.model_files import first_sentence, open_model
from fewbits.loading.tokens import load_tokenizer
from fewbits.training.fitting.losses import IGNORED
from fewbits.training.material.data import MESSAGES, PAIRS, Sample, Samples

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Example:
    """A sample as tokens (n,) and labels (n,)."""

    where: str
    ids: Ids
    labels: Ids

    @property
    def learned(self) -> int:
        """How many of its tokens are to be predicted; nothing predicts the first."""
        return int((self.labels[1:] != IGNORED).sum())


@dataclass(frozen=True)
class Words:
    """The tokens of a model, and the way in which it writes conversations."""

    tokenizer: Any
    start: int | None
    """Stands in front of every sample; None where the model knows no such token."""
    end: int | None
    """Stands behind every sample, so that its end is learned too."""
    limit: int
    """The most tokens that the model was made for."""
    path: Path

    @staticmethod
    def of(path: Path, template: str | None = None) -> Words:
        """The tokens of the model at `path`; `template` is the name of a chat template that comes along, or a file."""
        file = open_model(path)
        vocabulary = file.vocabulary()
        if file.encoder:
            raise TrainingError(
                f"{path} is an encoder and continues no text, so that it cannot be trained on texts here."
            )
        tokenizer = load_tokenizer(path)
        if template is not None:
            tokenizer.chat_template = named_template(template)
        return Words(
            tokenizer, vocabulary.start_token, getattr(vocabulary, "end_token", None), file.context_limit, path
        )

    @property
    def pad(self) -> int:
        """What fills rows that are shorter than others; it is neither seen nor learned."""
        own = self.tokenizer.pad_token_id
        return next((token for token in (own, self.end) if token is not None), 0)

    def examples(self, samples: Samples) -> list[Example]:
        """The samples as tokens; raises TrainingError naming the line of one that holds nothing to learn."""
        make = {MESSAGES: self._conversation, PAIRS: self._pair}.get(samples.kind, self._text)
        if samples.kind == MESSAGES and not self.tokenizer.chat_template:
            raise TrainingError(
                f"{self.path}: the model says nothing of conversations (it has no chat template); say how its "
                f"turns are written with --template ({', '.join(TEMPLATES)}, or a file)."
            )
        return [make(sample) for sample in samples.samples]

    def _text(self, sample: Sample) -> Example:
        return self._example(sample.where, sample.parts[0][1], ((0, None),))

    def _pair(self, sample: Sample) -> Example:
        (_, prompt), (_, completion) = sample.parts
        return self._example(sample.where, prompt + completion, ((len(prompt), None),))

    def _conversation(self, sample: Sample) -> Example:
        """What the assistant says is learned, and how it ends a turn."""
        turns = [{"role": role, "content": content} for role, content in sample.parts]
        whole = self._rendered(sample.where, turns, reply=False)
        spans: list[tuple[int, int | None]] = []
        for number, turn in enumerate(turns):
            if turn["role"] != "assistant":
                continue
            before = self._rendered(sample.where, turns[:number], reply=True)
            through = (
                whole if number + 1 == len(turns) else self._rendered(sample.where, turns[: number + 1], reply=False)
            )
            if whole.startswith(before) and whole.startswith(through):
                spans.append((len(before), len(through)))
            elif number + 1 == len(turns):
                raise TrainingError(
                    f"{sample.where} where the last answer begins cannot be told, because the chat template writes a "
                    "conversation otherwise when it goes on; choose another with --template."
                )
        if not spans:
            raise TrainingError(f"{sample.where} has no message of the assistant to learn from; add one or remove it.")
        return self._example(sample.where, whole, tuple(spans), ends=False)

    def _rendered(self, where: str, turns: list[dict[str, str]], *, reply: bool) -> str:
        if not turns and reply:
            return ""  # a conversation that the assistant begins
        try:
            text: str = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=reply)
        except Exception as error:  # templates are programs, and raise whatever they like
            raise TrainingError(
                f"{where} is refused by the chat template ({first_sentence(error)}); correct or remove it, or choose "
                "another with --template."
            ) from error
        return text

    def _example(
        self, where: str, text: str, spans: tuple[tuple[int, int | None], ...], *, ends: bool = True
    ) -> Example:
        """`text` as tokens, of which those that begin within `spans` of characters are learned."""
        ids, begins = self._encoded(where, text, whole=spans == ((0, None),))
        learned = [
            any(first <= begin < (len(text) if last is None else last) for first, last in spans) for begin in begins
        ]
        if self.start is not None and ids[:1] != [self.start]:
            ids, learned = [self.start, *ids], [False, *learned]
        if ends and self.end is not None and ids[-1:] != [self.end]:
            ids, learned = [*ids, self.end], [*learned, True]
        found = np.asarray(ids, dtype=np.int64)
        example = Example(where, found, np.where(learned, found, IGNORED))
        if not example.learned:
            raise TrainingError(f"{where} holds nothing to learn: no token comes after another one; remove it.")
        return example

    def _encoded(self, where: str, text: str, *, whole: bool) -> tuple[list[int], list[int]]:
        """The ids of `text`, and at which character each begins (0 where that need not be known)."""
        if whole and not self.tokenizer.is_fast:
            ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            return ids, [0] * len(ids)
        if not self.tokenizer.is_fast:
            raise TrainingError(
                f"{where} is a conversation or a pair, and the tokenizer of {self.path} does not tell where a token "
                "begins, so that answers cannot be told from questions; give whole texts."
            )
        found: Mapping[str, Any] = self.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        return list(found["input_ids"]), [begin for begin, _ in found["offset_mapping"]]
