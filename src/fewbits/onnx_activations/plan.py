"""Which nodes compute with whole numbers, which values are rounded for them, and whose scale each of these has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fewbits.onnx_activations.graph import Facts
from fewbits.onnx_activations.operations import ABSORBED, FOLLOWS, MOVES, PRODUCT, Operation, operation_of


@dataclass(frozen=True)
class Stays:
    """A node that might have been computed with whole numbers and is not."""

    output: str
    operator: str
    why: str


@dataclass(frozen=True)
class Plan:
    """What is to become of a graph."""

    operations: Mapping[str, Operation]
    """By output, in the order of the graph."""
    values: Mapping[str, str]
    """Rounded value -> the value whose scale it has, itself where nothing hands codes on."""
    routed: frozenset[str]
    """Rounded values that all their users see rounded: what makes them gives codes."""
    stays: tuple[Stays, ...]

    @property
    def products(self) -> list[Operation]:
        """What multiplies."""
        return [each for each in self.operations.values() if each.kind == PRODUCT]

    @property
    def roots(self) -> list[str]:
        """Values whose range is measured."""
        return list(dict.fromkeys(self.values.values()))


def make_plan(facts: Facts, kept: Mapping[str, str], *, constants: bool = False) -> Plan:
    """The plan for a graph; `kept` has outputs of nodes that stay as they are, and why.

    With `constants` only products with constant matrices are planned for, as when scales are found at run time.
    """
    growth = _Growth(facts, kept)
    for node in facts.graph.model.graph.node:
        growth.see(node, products_alone=constants)
    growth.prune()
    return growth.plan()


class _Growth:
    """Operations, found along the graph; `carried` leads from what codes come out as to who computes them."""

    def __init__(self, facts: Facts, kept: Mapping[str, str]) -> None:
        self.facts, self.kept = facts, kept
        self.found: dict[str, Operation] = {}
        self.carried: dict[str, str] = {}
        self.ends: dict[str, str] = {}
        """Operation -> the value that its codes come out as, behind a Relu that they absorb."""
        self.stays: list[Stays] = []

    def see(self, node: Any, *, products_alone: bool) -> None:
        """Take in the next node."""
        if not node.output or not node.output[0]:
            return
        output = node.output[0]
        found = operation_of(node, self.facts)
        if found is None:
            self._absorb(node)
            return
        if isinstance(found, Operation) and found.kind == PRODUCT:
            hidden = [name for name in (*found.values, output) if name in self.facts.hidden]
            why = self.kept.get(output) or (f"a graph inside of a node uses {hidden[0]!r}" if hidden else "")
            if products_alone and not found.weight:
                why = why or "it multiplies two values"
            found = why or found
        if isinstance(found, str):
            self.stays.append(Stays(output, node.op_type, found))
            return
        if found.kind != PRODUCT and (products_alone or not self._goes_on(found)):
            return
        self.found[output] = found
        self.carried[output] = self.ends[output] = output

    def _goes_on(self, found: Operation) -> bool:
        """Whether all its inputs are codes already."""
        return found.output not in self.facts.hidden and all(name in self.carried for name in found.values)

    def _absorb(self, node: Any) -> None:
        """A Relu or Clip that sees the output of an operation alone."""
        if node.op_type not in ABSORBED or node.input[0] not in self.carried:
            return
        value, output = node.input[0], node.output[0]
        known = self.facts
        alone = known.users[value] == 1 and value not in known.outputs and output not in known.hidden
        bounds = all(name in known.constants for name in node.input[1:] if name)
        maker = self.carried[value]
        if alone and bounds and value == maker and self.found[maker].kind != MOVES:
            self.carried[output] = maker
            self.ends[maker] = output

    def prune(self) -> None:
        """Take away what follows or moves without an operation behind it that wants codes."""
        for output in reversed(list(self.found)):
            end = self.ends[output]
            wanted = any(end in each.values for each in self.found.values() if each.output != output)
            if self.found[output].kind in (FOLLOWS, MOVES) and not wanted:
                del self.found[output]

    def plan(self) -> Plan:
        """What was found."""
        values: dict[str, str] = {}
        routed = set()
        for output, each in self.found.items():
            for name in each.values:
                values.setdefault(name, name)
            end = self.ends[output]
            if each.rounds_output:
                values[end] = values[each.values[0]] if each.kind == MOVES else end
                routed.add(end)
        return Plan(self.found, values, frozenset(routed), tuple(self.stays))


def kept_because(why: str, outputs: Iterable[str]) -> dict[str, str]:
    """All of `outputs` for one reason."""
    return dict.fromkeys(outputs, why)
