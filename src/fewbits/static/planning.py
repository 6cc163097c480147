"""What runs in whole numbers, what in float and why, and which values need a range: decided on the steps alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from fewbits.calibration.observers import Range
from fewbits.static import operators
from fewbits.static.affine import Affine
from fewbits.static.layers import Target
from fewbits.static.operators import ADD, EMBEDDING, LIMITS, MOVES, PRODUCTS, SUMS, averaged, is_average, summands
from fewbits.static.program import Program, Ref, Shape, Step
from fewbits.static.weights import sums_fit

Constants = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Plan:
    """A program's steps, told apart."""

    coded: frozenset[str]
    """Steps whose results are codes."""
    summed: frozenset[str]
    """Linear layers that read codes and whose results, which only floats read, are floats."""
    tails: Mapping[str, str]
    """Step that takes the bounds of what follows it -> the name of the bounded value."""
    limits: Mapping[str, tuple[float, float]]
    """Value -> its bounds, where it has any."""
    reasons: Mapping[str, str]
    """Step that stays in float -> why."""

    @property
    def whole(self) -> frozenset[str]:
        """Steps that compute with codes."""
        return self.coded | self.summed

    def tail(self, step: Step) -> str:
        """The name of the value that a step makes, bounds included."""
        return self.tails.get(step.name, step.name)


def plan(program: Program, constants: Constants, kept: Mapping[str, str]) -> Plan:
    """Tell steps apart; `kept` are products that stay in float, with the reason."""
    return _Planner(program, constants, kept).plan()


@dataclass
class _Planner:
    program: Program
    constants: Constants
    kept: Mapping[str, str]
    born: set[str] = field(default_factory=set)
    reasons: dict[str, str] = field(default_factory=dict)

    def plan(self) -> Plan:
        """What can be codes, from the first step on; what shall be, from the last."""
        users, given = self.program.users(), self.program.given()
        for step in self.program.steps:
            reason = self._reason(step)
            if reason is None:
                self.born.add(step.name)
            elif reason:
                self.reasons[step.name] = reason
        tails = {
            step.name: users[step.name][0].name
            for step in self.program.steps
            if step.name in self.born and self._arithmetic(step) and step.name not in given
            if len(users.get(step.name, ())) == 1 and users[step.name][0].op in LIMITS
        }
        coded, summed = self._modes(users, tails)
        tails = {name: tail for name, tail in tails.items() if name in coded}
        for step in self.program.steps:
            if step.name in self.born - coded - summed and step.op not in MOVES:
                self.reasons[step.name] = "nothing that reads it computes with codes"
        limits = {step.name: LIMITS[step.op](step) for step in self.program.steps if step.op in LIMITS}
        return Plan(frozenset(coded), frozenset(summed), tails, limits, self.reasons)

    def _reason(self, step: Step) -> str | None:
        """Why a step cannot work on codes; None where it can, "" where nobody needs to be told."""
        if not step.floating:
            return ""
        if step.op in PRODUCTS:
            return self.kept.get(step.name) or self._product_reason(step)
        if step.op in MOVES or step.op in LIMITS:
            source = step.args[0]
            fine = isinstance(source, Ref) and source.name in self.born
            return None if fine else "" if step.op in MOVES else "what it reads is in float"
        if step.op in SUMS or is_average(step):
            return self._inputs_reason(step)
        if step.op == EMBEDDING:
            table = "" if _constant(step.args[0], self.constants) else "its table is no constant"
            return self.kept.get(step.name, table)
        return "" if step.op.startswith("operator.") else f"{step.op} has no form in whole numbers"

    def _product_reason(self, step: Step) -> str | None:
        weight, *bias = step.args[1:3]
        if not _constant(weight, self.constants) or not all(
            _constant(b, self.constants) for b in bias if b is not None
        ):
            return "its weight is no constant"
        if not sums_fit(self.constants[weight.name]):
            return "sums of so many products may not fit 32 bits"
        return None

    def _inputs_reason(self, step: Step) -> str | None:
        parts = step.args[:1] if step.op not in SUMS else summands(step)
        if parts is None or (step.op == ADD and len(parts) != 2):
            return "it adds more than activations"
        if any(self._size(parts[0].name, dim) is None for dim in averaged(step) or ()):
            return "how many numbers it averages differs from run to run"
        return None if all(part.name in self.born for part in parts) else "what it reads is in float"

    def _size(self, name: str, dim: int) -> int | None:
        """The size of a dimension of a value."""
        shapes: dict[str, Shape | None] = {each.name: each.shape for each in self.program.inputs}
        shape = (shapes | {step.name: step.shape for step in self.program.steps})[name]
        return shape[dim] if shape is not None else None

    def _arithmetic(self, step: Step) -> bool:
        return step.op in PRODUCTS or step.op in SUMS or is_average(step)

    def _modes(self, users: Mapping[str, list[Step]], tails: Mapping[str, str]) -> tuple[set[str], set[str]]:
        """Steps with codes for results, and those that only read codes: from the last step to the first."""
        coded: set[str] = set()
        summed: set[str] = set()

        def wanted(name: str) -> bool:
            return any(
                user.name in coded | summed and name in self._read_as_codes(user) for user in users.get(name, ())
            )

        for step in reversed(self.program.steps):
            if step.name not in self.born:
                continue
            if step.op == "aten.linear.default":
                (coded if wanted(step.name) else summed).add(step.name)
            elif step.op in PRODUCTS or wanted(step.name):
                coded.add(step.name)
        coded |= {tail for name, tail in tails.items() if name in coded}
        return coded, summed

    @staticmethod
    def _read_as_codes(step: Step) -> tuple[str, ...]:
        return step.reads() if step.op in SUMS else step.reads()[:1]


def _constant(argument: object, constants: Constants) -> bool:
    return isinstance(argument, Ref) and argument.name in constants


def observed(program: Program, plan: Plan) -> frozenset[str]:
    """The values whose ranges a plan, or one with more in float, can ask for."""
    names: set[str] = set()
    for step in program.steps:
        if step.op in PRODUCTS:
            names |= {step.args[0].name, plan.tail(step)}
        elif step.op in SUMS or is_average(step):
            names |= {plan.tail(step), *step.reads()}
    floating = {step.name for step in program.steps if step.floating}
    floating |= {each.name for each in program.inputs if each.dtype.is_floating_point}
    return frozenset(names & floating)


def affines(
    program: Program, plan: Plan, choose: Callable[[str], Range], kind: str, *, symmetric: bool
) -> dict[str, Affine]:
    """How every value that is ever in codes is rounded, by its name.

    What moves or bounds numbers has the codes of its input; what is only put beside others has the codes of the whole.
    """
    found: dict[str, Affine] = {}

    def over(name: str) -> Affine:
        return Affine.over(choose(name), kind, symmetric=symmetric)

    for step in program.steps:
        if step.op in PRODUCTS and step.name in plan.whole:
            source = step.args[0].name
            found.setdefault(source, over(source) if source not in found else found[source])
        if step.name not in plan.coded or step.name in plan.tails.values():
            continue
        passes = step.op in MOVES or step.op in LIMITS
        found[plan.tail(step)] = found[step.args[0].name] if passes else over(plan.tail(step))
    return found | _shared(program, plan, found)


def _shared(program: Program, plan: Plan, found: Mapping[str, Affine]) -> dict[str, Affine]:
    """Values that are read by one concatenation alone -> its codes, so that they need no second rounding."""
    users, given = program.users(), program.given()
    merged = set(plan.tails.values())
    makers = {plan.tail(step): step for step in program.steps if step.name in plan.coded - merged}
    shared = {}
    for join in program.steps:
        if join.op != operators.JOIN or join.name not in plan.coded:
            continue
        for part in join.reads():
            maker = makers.get(part)
            moved = maker is None or maker.op in MOVES or maker.op in LIMITS
            if not moved and len(users[part]) == 1 and part not in given:
                shared[part] = found[plan.tail(join)]
    return shared


def target(name: str, plan: Plan, affine: Affine) -> Target:
    """What the value `name` becomes, with its bounds as codes."""
    low, high = plan.limits.get(name, (-math.inf, math.inf))
    return Target(affine, max(affine.low, _code(low, affine)), min(affine.high, _code(high, affine)))


def _code(bound: float, affine: Affine) -> int:
    """The code of a bound, however far away."""
    return affine.zero + round(max(-1e6, min(1e6, bound / affine.scale)))
