"""Raise the version of the standard operators, where no node of the graph would mean anything else then."""

from __future__ import annotations

from typing import Any

from fewbits.checkpoints.onnx.graphs import all_nodes
from fewbits.checkpoints.onnx.products import STANDARD
from fewbits.checkpoints.quoting import quoted
from fewbits.errors import CheckpointError

FIRST = 13
"""Below it Softmax and its kin mean something else, and much is an attribute that became an input."""
CHANGED = frozenset(
    {
        ("Split", 18),
        ("Resize", 18),
        ("LpPool", 18),
        ("AveragePool", 19),
        ("RoiAlign", 16),
        ("GroupNormalization", 21),
        ("Attention", 24),
    }
)
"""Operators whose new version means something else, or wants more, though nothing in its signature was taken away."""


def raise_opset(model: Any, wanted: int, why: str) -> bool:
    """Make `model` state at least version `wanted`; whether it had stated a lower one.

    Raises CheckpointError where a node would mean something else; `why` says who wants it.
    """
    stated = next((each for each in model.opset_import if each.domain in STANDARD), None)
    if stated is None:
        stated = model.opset_import.add(domain="", version=wanted)
        return False
    if stated.version >= wanted:
        return False
    what = f"{why} needs version {wanted} of ONNX's operators, and the graph states {stated.version}"
    if stated.version < FIRST:
        raise CheckpointError(f"{what}, of which too much meant something else; {_remedy(wanted)}.")
    if model.functions:
        raise CheckpointError(f"{what} and has functions of its own, which state theirs; {_remedy(wanted)}.")
    for node in all_nodes(model.graph):
        if node.domain in STANDARD and not _same(node.op_type, stated.version, wanted):
            raise CheckpointError(
                f"{what}, where the operator {quoted(node.op_type)} of node {quoted(node.name or node.output[0])} "
                f"means something else or is said otherwise; {_remedy(wanted)}."
            )
    stated.version = wanted
    return True


def _remedy(wanted: int) -> str:
    return f"export the model with opset {wanted}, or take --dialect matmulnbits, which needs none"


def _same(operator: str, old: int, new: int) -> bool:
    """Whether the operator means the same in both versions of the standard."""
    from onnx import defs

    try:
        before, after = defs.get_schema(operator, old), defs.get_schema(operator, new)
    except defs.SchemaError:
        return False
    if after.deprecated:
        return False
    while before.since_version < after.since_version:
        step = _next(operator, before.since_version, new)
        if (operator, step.since_version) in CHANGED or not _widens(before, step):
            return False
        before = step
    return True


def _next(operator: str, old: int, new: int) -> Any:
    """The version of the operator that follows `old`."""
    from onnx import defs

    every = (defs.get_schema(operator, version) for version in range(old + 1, new + 1))
    return next(schema for schema in every if schema.since_version > old)


def _widens(before: Any, after: Any) -> bool:
    """Whether `after` only allows more: types, optional inputs and attributes."""
    same = _sides(before.inputs) == _sides(after.inputs)[: len(before.inputs)]
    optional = all(side.option.name == "Optional" for side in list(after.inputs)[len(before.inputs) :])
    kept = all(
        name in after.attributes and _said(told) == _said(after.attributes[name])
        for name, told in before.attributes.items()
    )
    new = all(not told.required for name, told in after.attributes.items() if name not in before.attributes)
    return same and optional and _sides(before.outputs) == _sides(after.outputs) and kept and new


def _sides(several: Any) -> list[tuple[str, str]]:
    return [(side.name, side.option.name) for side in several]


def _said(attribute: Any) -> tuple[str, bool, bytes]:
    return str(attribute.type), bool(attribute.required), attribute.default_value.SerializeToString()
