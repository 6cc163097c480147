"""Registries: a name is taken once, and what is added later is loaded when it is asked for."""

from __future__ import annotations

import pytest

from fewbits.errors import FewbitsError
from fewbits.registry import Registry


def test_a_taken_name_is_refused_and_keeps_its_item() -> None:
    registry = Registry[int]("number", FewbitsError)
    registry.add("one", 1)
    with pytest.raises(ValueError, match="'one' is registered already"):
        registry.add("one", 2)
    with pytest.raises(ValueError, match="'one' is registered already"):
        registry.add_later("one", lambda: 2)

    assert registry.get("one") == 1


def test_what_is_added_later_is_loaded_once_and_when_asked_for() -> None:
    registry = Registry[int]("number", FewbitsError)
    loaded: list[str] = []

    def load() -> int:
        loaded.append("two")
        return 2

    registry.add_later("two", load)
    assert list(registry) == ["two"]
    assert loaded == []
    assert (registry.get("two"), registry.get("two"), loaded) == (2, 2, ["two"])


def test_the_rest_is_added_before_the_first_question_that_wants_it() -> None:
    registry = Registry[int]("number", FewbitsError)
    registry.add("one", 1)
    added: list[str] = []

    def rest() -> None:
        added.append("rest")
        registry.add("three", 3)
        registry.add_family("n[0-9]+", lambda name: int(name[1:]))

    registry.add_rest(rest)
    assert (registry.get("one"), added) == (1, [])
    assert (registry.get("n17"), registry.get("three"), list(registry)) == (17, 3, ["one", "three"])
    assert added == ["rest"]
