"""How codes under one scale per group are made and read, in numbers: what a native kernel has to know of a member."""

from __future__ import annotations

from dataclasses import dataclass

STEPS = ("symmetric", "sign", "zero", "table")
"""What a code means in units of the scale: code - middle, 2 * code - 1, code - zero point, table[code]."""


@dataclass(frozen=True)
class Coding:
    """Codes of `bits` bits from `bottom` to `top`, `group` columns under one scale (0: all).

    `flip` is combined bit by bit with what is stored; `levels` are the candidates of the search. `table` has a number
    for each code, 0 among them; where it is learned, parameters bring it. With `fives`, codes are 0, 1 and 2, and five
    of them make a byte.
    """

    steps: str
    bits: int
    group: int
    bottom: int = 0
    top: int = 0
    middle: int = 0
    flip: int = 0
    levels: tuple[float, ...] = ()
    table: tuple[float, ...] = ()
    fives: bool = False

    def __post_init__(self) -> None:
        assert self.steps in STEPS, f"no kernel knows steps of the kind {self.steps}"
        assert not self.table or (len(self.table) == 2**self.bits and 0.0 in self.table), (
            "a number for each code, with 0"
        )
