"""JSON that any parser reads."""

from __future__ import annotations

import json

import pytest

from fewbits.cli.output import print_json


def test_numbers_that_json_lacks_become_null(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": float("inf"), "b": [float("nan"), 1.5], "c": {"d": ("x", float("-inf"))}})

    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {
        "a": None,
        "b": [None, 1.5],
        "c": {"d": ["x", None]},
    }
