"""Operations of experts against sums that are written down: tokens of several experts, experts without a token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fewbits import formats, kernels
from fewbits.kernels.module import native_module
from references.rounded_products import bfloat_product, product

TOKENS, OUTPUTS, SLOTS = range(3)
EXPERTS, CHOSEN, UNREACHED = 5, 2, 3
WIDTHS = ((32, 1), (96, 37), (64, 64), (256, 65), (64, 130))
"""Columns and rows of an expert: less than a unit of rows, a whole one, and some over."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """Numbers of tokens, and experts with biases."""

    x: Floats
    router: Floats
    router_bias: Floats
    stacks: Floats
    biases: Floats

    @staticmethod
    def drawn(cols: int, rows: int, tokens: int) -> Case:
        rng = np.random.default_rng(cols + rows + tokens)
        shapes = (tokens, cols), (EXPERTS, cols), (EXPERTS,), (EXPERTS, rows, cols), (EXPERTS, rows)
        x, router, router_bias, stacks, biases = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
        router_bias[UNREACHED] = -1e9
        return Case(x, router, router_bias, stacks, biases)


def stored(name: str, w: Floats) -> npt.NDArray[np.uint8]:
    row_bytes = formats.get(name).bits(1, w.shape[-1]) // 8
    rows = w.reshape(-1, w.shape[-1])
    return np.asarray(kernels.encode_rows(name, rows.view(np.uint8), "F32", row_bytes).stored)


def run(case: Case, name: str, how: int, *, threads: int, exact: bool, adds: bool = False, factor: float = 1) -> Floats:
    """The weighted sums (tokens, rows) of what each token's experts say."""
    tokens, cols = case.x.shape
    rows = case.stacks.shape[1]
    machine: Any = native_module().Machine(threads, exact=exact)
    table, router, stack = case.x.view(np.uint8), case.router.view(np.uint8), stored(name, case.stacks)
    weights = [("F32", 1, tokens, cols, table), ("F32", 1, EXPERTS, cols, router), (name, EXPERTS, rows, cols, stack)]
    embedding, routing, experts = (machine.add_weight(*w[:4], w[4].ravel(), mapped=False) for w in weights)
    machine.set_experts_per_token(CHOSEN)
    x, scores, wide, said, out = (
        machine.add_buffer(per, width)
        for per, width in ((TOKENS, cols), (TOKENS, EXPERTS), (SLOTS, cols), (SLOTS, rows + 3), (TOKENS, rows + 2))
    )
    wanted = machine.add_buffer(OUTPUTS, rows)
    biases = [machine.add_vector(each.ravel().tolist()) for each in (case.router_bias, case.biases)]
    machine.add_op("embed", [x, 0, embedding], [1.0])
    machine.add_op("linear", [x, 0, routing, scores, 0, biases[0], 0], [])
    machine.add_op("route", [scores, 0, EXPERTS, how, 0], [factor])
    machine.add_op("scatter", [wide, 0, x, 0, cols], [])
    machine.add_op("expert_linear", [wide, 0, experts, said, 3, biases[1]], [])
    machine.add_op("gather", [out, 2, said, 3, rows, 0], [])
    if adds:
        machine.add_op("gather", [out, 2, said, 3, rows, 1], [])
    machine.add_op("select", [wanted, 0, out, 2, rows], [])
    session = native_module().Session(machine, 1, tokens, tokens, "F32")
    numbers = np.arange(tokens, dtype=np.int32)
    result = np.full((tokens, rows), np.nan, np.float32)
    session.run(numbers, np.zeros(tokens, np.int32), numbers, numbers, wanted, result)
    return result


def said(w: npt.NDArray[np.float32], x: npt.NDArray[np.float32], name: str, *, exact: bool) -> npt.NDArray[np.float64]:
    """What one expert (rows, cols) says to one token, as the engine rounds it for weights of this type."""
    if exact or name == "F32":
        return w.astype(np.float64) @ x.astype(np.float64)
    return bfloat_product(w, x[None])[0] if name == "BF16" else product(w, x[None])[0]


def expected(case: Case, name: str, how: int, *, exact: bool) -> npt.NDArray[np.float64]:
    """The same, token by token, in double precision."""
    shape = case.stacks.shape
    w = kernels.decode_rows(name, stored(name, case.stacks), shape[2]).reshape(shape)
    out = np.zeros((len(case.x), shape[1]))
    for token, x in enumerate(case.x.astype(np.float64)):
        scores = case.router.astype(np.float64) @ x + case.router_bias
        chosen = np.argsort(-scores)[:CHOSEN]
        among = scores if how == 0 else scores[chosen]
        weights = np.exp(scores[chosen] - among.max()) / np.exp(among - among.max()).sum()
        for weight, expert in zip(weights, chosen, strict=True):
            own = said(w[expert], case.x[token], name, exact=exact)
            out[token] += weight * (own + case.biases[expert])
    return out


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("name", ["F32", "BF16", "Q8_0", "Q4_0", "MXFP4"])
def test_the_weighted_sum_of_experts(name: str, exact: bool) -> None:
    for cols, rows in WIDTHS:
        for tokens in (1, 2, 9, 40):
            case = Case.drawn(cols, rows, tokens)
            for how in (0, 1):
                wanted = expected(case, name, how, exact=exact)
                results = [run(case, name, how, threads=threads, exact=exact) for threads in (1, 2)]
                np.testing.assert_allclose(results[0], wanted, rtol=0, atol=3e-5 * np.abs(wanted).max())
                assert np.array_equal(results[0], results[1])


def test_adding_and_factors() -> None:
    case = Case.drawn(64, 40, 7)
    once = run(case, "F32", 0, threads=2, exact=True)
    np.testing.assert_allclose(run(case, "F32", 0, threads=2, exact=True, adds=True), 2 * once, rtol=1e-6)
    np.testing.assert_allclose(run(case, "F32", 0, threads=2, exact=True, factor=2.5), 2.5 * once, rtol=1e-5, atol=1e-5)


def test_scores_that_are_no_numbers_choose_some_experts() -> None:
    """Of damaged weights: nothing is read or written beside what is there."""
    case = Case.drawn(64, 40, 7)
    case.router[:] = np.nan
    for how in (0, 1):
        assert run(case, "F32", how, threads=2, exact=True).shape == (7, 40)
