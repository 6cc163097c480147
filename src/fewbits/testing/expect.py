"""Assertions that also hold under `python -O`, each with its own sentence."""

from __future__ import annotations


def expect(condition: bool, message: str) -> None:
    """Raise AssertionError with `message` unless `condition` holds.

    >>> expect(1 + 1 == 2, "arithmetic is broken")
    """
    if not condition:
        raise AssertionError(message)


def expect_equal(found: object, wanted: object, what: str) -> None:
    """Raise AssertionError naming `what` unless both are equal."""
    expect(found == wanted, f"{what}: {found} where {wanted} is right")
