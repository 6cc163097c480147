"""Exact rewrites before anything is measured: batch normalization goes into the product before it, no-ops go away."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from fewbits.static.exporting import Exported
from fewbits.static.operators import PRODUCTS
from fewbits.static.program import Program, Ref, Step, alive, substituted

NORM = "aten._native_batch_norm_legit_no_training.default"
NOTHING = frozenset(
    {
        "aten.clone.default",
        "aten.alias.default",
        "aten.detach.default",
        "aten.contiguous.default",
        "aten.dropout.default",
        "aten.lift_fresh_copy.default",
    }
)
"""Operations that give back what they got, once nothing writes in place and nothing trains."""

VIEWS = frozenset({"aten.view.default", "aten._unsafe_view.default"})


def folded(found: Exported) -> tuple[Exported, tuple[str, ...]]:
    """The program with every batch normalization that can go into a product there, and the products that took one."""
    program = without_nothing(with_numbers(found))
    constants = dict(found.constants)
    users, makers = program.users(), {step.name: step for step in program.steps}
    gone: dict[str, str] = {}
    changed: dict[str, Step] = {}
    for norm in program.steps:
        product = _product_before(norm, makers, users, found)
        results = users.get(norm.name, [])
        if product is None or not all(step.op == "operator.getitem" and step.args[1] == 0 for step in results):
            continue
        weight, bias = _with_norm(product, norm, constants)
        names = f"{product.name}/weight", f"{product.name}/bias"
        constants |= dict(zip(names, (weight, bias), strict=True))
        changed[product.name] = replace(
            product, args=(product.args[0], Ref(names[0]), Ref(names[1]), *product.args[3:])
        )
        gone |= {step.name: product.name for step in results}
    steps = tuple(changed.get(step.name, step) for step in program.steps)
    result = alive(renamed(replace(program, steps=steps), gone))
    paths = dict(found.paths) | {f"{name}/weight": _path(makers[name], found.paths) for name in changed}
    return Exported(result, constants, paths), tuple(changed)


def _path(product: Step, paths: Mapping[str, str]) -> str:
    return paths.get(product.args[1].name, product.name)


def with_numbers(found: Exported) -> Program:
    """The program in which convolutions padded by a word, "same" or "valid", are padded by numbers.

    A convolution whose padding would be uneven keeps its word, and with it stays in float.
    """

    def numbered(step: Step) -> Step:
        space, name, overload = (*step.op.split("."), "")[:3]
        weight = step.args[1] if len(step.args) > 1 else None
        if overload != "padding" or not isinstance(weight, Ref) or weight.name not in found.constants:
            return step
        kernel = found.constants[weight.name].shape[2:]
        stated: tuple[Any, ...] = (*step.args[2:], *(None, (1,), "valid", (1,), 1)[len(step.args) - 2 :])
        bias, stride, word, dilation, groups = stated
        spread = tuple(dilation) * len(kernel) if len(dilation) == 1 else tuple(dilation)
        whole = [d * (size - 1) for d, size in zip(spread, kernel, strict=True)]
        if word == "same" and any(each % 2 for each in whole):
            return step
        padding = tuple(each // 2 if word == "same" else 0 for each in whole)
        args = (*step.args[:2], bias, stride, padding, dilation, groups)
        return replace(step, op=f"{space}.{name}.default", args=args)

    return replace(found.program, steps=tuple(numbered(step) for step in found.program.steps))


def without_nothing(program: Program) -> Program:
    """The program without operations that give back what they got.

    A clone may have brought numbers into the order that a view wants: views become what needs no order.
    """
    gone = {step.name: step.args[0].name for step in program.steps if step.op in NOTHING}
    steps = tuple(replace(step, op="aten.reshape.default") if step.op in VIEWS else step for step in program.steps)
    return alive(renamed(replace(program, steps=steps), gone))


def renamed(program: Program, gone: Mapping[str, str]) -> Program:
    """The program in which every name of `gone` is read as another."""

    def name(ref: Ref) -> Ref:
        while ref.name in gone:
            ref = Ref(gone[ref.name])
        return ref

    steps = tuple(
        replace(
            step,
            args=substituted(step.args, name),
            kwargs=tuple((key, substituted(value, name)) for key, value in step.kwargs),
        )
        for step in program.steps
        if step.name not in gone
    )
    return Program(program.inputs, steps, substituted(program.outputs, name), program.structure)


def _product_before(
    norm: Step, makers: Mapping[str, Step], users: Mapping[str, list[Step]], found: Exported
) -> Step | None:
    """The product whose only reader is `norm`, with its outputs in the dimension that `norm` has numbers for."""
    product = makers.get(norm.args[0].name) if norm.op == NORM else None
    if product is None or product.op not in PRODUCTS or len(users[product.name]) > 1:
        return None
    read = {*product.reads()[1:], *norm.reads()[1:]}
    if product.name in found.program.given() or not read <= set(found.constants):
        return None
    # Behind a linear layer the outputs are the last dimension, and batch normalization is over the second one.
    exact = product.op != "aten.linear.default" or len(product.shape or ()) == 2
    return product if exact else None


def _with_norm(product: Step, norm: Step, constants: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of the product with the normalization in them, by float64.

    gamma * (w x + b - mean) / sqrt(variance + epsilon) + beta (Jacob et al. 2018, arXiv:1712.05877, section 3.2).
    """
    given = [constants[each.name].double() if isinstance(each, Ref) else None for each in norm.args[1:5]]
    gamma, beta, mean, variance = given
    assert mean is not None
    assert variance is not None
    factor = (variance + norm.args[6]).rsqrt() * (1.0 if gamma is None else gamma)
    weight = constants[product.args[1].name]
    old = product.args[2] if len(product.args) > 2 else None
    bias = constants[old.name].double() if isinstance(old, Ref) else torch.zeros_like(mean)
    new = (bias - mean) * factor + (0.0 if beta is None else beta)
    scaled = weight.double() * factor.reshape(-1, *[1] * (weight.dim() - 1))
    return scaled.float(), new.float()
