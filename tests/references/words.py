"""A tokenizer that can be read with the eyes: one id per word."""

from __future__ import annotations

from collections.abc import Sequence


class Words:
    """A tokenizer of words: a word's id is its place among the words seen first; special tokens have ids below 10."""

    def __init__(self, start_token: int | None = None, end_token: int | None = None, *, chat: bool = False) -> None:
        self.start_token = start_token
        self.end_token = end_token
        self.ids: dict[str, int] = {"<turn>": 8, "<start>": start_token or 9}
        if chat:
            self.render = lambda messages: "".join(f"<turn> {m['role']} {m['content']} " for m in messages)

    def encode(self, text: str) -> Sequence[int]:
        return [self.ids.setdefault(word, 10 + len(self.ids)) for word in text.split()]
