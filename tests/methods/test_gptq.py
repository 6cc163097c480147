"""GPTQ on every format: equal to a slow float64 sweep, never nearest in disguise, never worse by its own objective."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch

from fewbits import formats, methods
from fewbits.errors import CalibrationError, RecipeError
from fewbits.formats import Params
from fewbits.formats.overrides import encode
from fewbits.methods.factor import DAMPING, Factor, factored
from fewbits.methods.gptq import GPTQ, importance_of, objective
from fewbits.methods.nearest import Nearest
from fewbits.methods.order import ORDERS, Factors
from fewbits.methods.sweep import VectorGrid, sweep
from fewbits.qtensor import QTensor
from fewbits.testing import check_method
from fewbits.workers import Workers
from references.hessians import hessian_of, weights, width
from references.obq import Doubles
from references.obq import sweep as slow_sweep


def near(hessian: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"importance": (hessian.diagonal() / hessian.diagonal().mean()).float()}


@pytest.fixture
def _swept_whatever_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep alone: rows that come out worse than rounded to nearest stay."""
    monkeypatch.setattr("fewbits.methods.gptq._better", lambda w, swept, plain, factor: swept.q)


@pytest.mark.parametrize("name", ["int4_row_sym", "uint4_row_asym", "nf4_row", "int8_tensor_sym", "fp8_e4m3_row"])
@pytest.mark.usefixtures("_swept_whatever_comes")
def test_equals_the_slow_sweep_over_a_committed_grid(name: str) -> None:
    format, w, h = formats.get(name), weights(5, 48, 3), hessian_of(48, 3)
    found = GPTQ().solve(w, format, {"hessian": h})

    def rounded(row: int, x: Doubles, at: int, metric: Doubles) -> Doubles:
        grid = format.grid(found.params, slice(at, at + 1))
        column = torch.full((5, 1), float(x[0]))
        value: Doubles = grid.value(grid.nearest(column))[row].double().numpy()
        return value

    damped = h.double() + DAMPING[0] * h.double().diagonal().mean() * torch.eye(48)
    assert np.array_equal(found.dequantize().double().numpy(), slow_sweep(w.double().numpy(), damped.numpy(), rounded))


@pytest.mark.usefixtures("_swept_whatever_comes")
@pytest.mark.parametrize("name", ["Q4_0", "int4_g32_sym_f16", "nf4_g32", "mxfp4"])
def test_equals_the_slow_sweep_where_spans_are_fitted_to_what_columns_before_made_of_them(name: str) -> None:
    format, w, h = formats.get(name), weights(3, 128, 3), hessian_of(128, 3)
    found, importance, params = GPTQ().solve(w, format, {"hessian": h}), importance_of(h), []

    def rounded(row: int, x: Doubles, at: int, metric: Doubles) -> Doubles:
        if at % 32 == 0:
            span = torch.from_numpy(x[:32])[None].float()
            params.append(format.fit(span, importance=format.weights(span, importance[at : at + 32])))
        grid = format.grid(params[-1], slice(at % 32, at % 32 + 1))
        value: Doubles = grid.value(grid.nearest(torch.full((1, 1), float(x[0]))))[0].double().numpy()
        return value

    damped = h.double() + DAMPING[0] * h.double().diagonal().mean() * torch.eye(128)
    assert np.array_equal(found.dequantize().double().numpy(), slow_sweep(w.double().numpy(), damped.numpy(), rounded))


@pytest.mark.usefixtures("_swept_whatever_comes")
@pytest.mark.parametrize("name", ["int4_row_sym", "Q4_0", "nf4_g32"])
def test_equals_the_slow_sweep_where_large_inputs_come_first(name: str) -> None:
    format, w, h = formats.get(name), weights(5, 64, 3), hessian_of(64, 3)
    found, order = GPTQ(order="activation").solve(w, format, {"hessian": h}), h.diagonal().argsort(descending=True)

    def rounded(row: int, x: Doubles, at: int, metric: Doubles) -> Doubles:
        grid = format.grid(found.params, order[at : at + 1])
        value: Doubles = grid.value(grid.nearest(torch.full((5, 1), float(x[0]))))[row].double().numpy()
        return value

    damped = (h.double() + DAMPING[0] * h.double().diagonal().mean() * torch.eye(64))[order][:, order]
    swept = slow_sweep(w[:, order].double().numpy(), damped.numpy(), rounded)
    assert np.array_equal(found.dequantize()[:, order].double().numpy(), swept)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", ["Q4_K", "IQ3_XXS", "int4_g32_sym_f16", "nf4_g64_dq", "fp8_e4m3_tile32", "mxfp4"])
def test_any_order_of_columns_finds_better_codes_and_counts_what_they_cost(name: str, order: str) -> None:
    w, h, format = weights(70, 512, 11), hessian_of(512, 11) + 20 * torch.rand(512).diag(), formats.get(name)
    plain = QTensor(format, *encode(format, w, importance_of(h)))

    swept = sweep(w, plain, Factors(h, order).of(format), importance_of(h), 128)

    assert torch.allclose(swept.objective, objective(w, swept.q, h), rtol=1e-9)
    assert float(swept.objective.sum()) < float(objective(w, plain, h).sum())
    if order != "storage":
        assert not torch.equal(swept.q.codes, sweep(w, plain, factored(h), importance_of(h), 128).q.codes)


def test_an_unknown_order_is_refused() -> None:
    with pytest.raises(RecipeError, match="did you mean 'activation'"):
        GPTQ(order="activations").prepare({"hessian": torch.eye(4)})


@pytest.mark.usefixtures("_swept_whatever_comes")
def test_equals_the_slow_sweep_where_eight_columns_are_rounded_together() -> None:
    format, w, h = formats.get("IQ2_XS"), weights(2, 256, 5), hessian_of(256, 5)
    found = GPTQ().solve(w, format, {"hessian": h})  # one span: its parameters are those of the plain weights

    def rounded(row: int, x: Doubles, at: int, metric: Doubles) -> Doubles:
        grid = cast(VectorGrid, format.grid(found.params, slice(at, at + 8)))
        columns, weights = (torch.tensor(each).float().expand(2, 8).contiguous() for each in (x[:8], metric.diagonal()))
        value: Doubles = grid.value(grid.nearest(columns, weights))[row].double().numpy()
        return value

    damped = h.double() + DAMPING[0] * h.double().diagonal().mean() * torch.eye(256)
    assert np.array_equal(
        found.dequantize().double().numpy(), slow_sweep(w.double().numpy(), damped.numpy(), rounded, 8)
    )


@pytest.mark.parametrize("name", ["Q4_0", "Q2_K", "IQ3_S", "int4_g32_sym_f16", "int3_g96_asym_f16", "nf4_g64_dq"])
@pytest.mark.parametrize("chunk", [32, 96, 1024])
def test_the_chunk_changes_nothing(name: str, chunk: int) -> None:
    format, cols = formats.get(name), 3 * max(width(formats.get(name)), 192)
    w, h = weights(3, cols, 7), hessian_of(cols, 7)

    one, other = (GPTQ(chunk=c).solve(w, format, {"hessian": h}) for c in (128, chunk))

    assert torch.equal(one.codes, other.codes)


@pytest.mark.parametrize("name", ["Q4_0", "Q8_0", "int4_row_sym", "nf4_g64"])
def test_inputs_that_do_not_depend_on_each_other_give_nearest(name: str) -> None:
    w, format = weights(4, 128, 1), formats.get(name)

    q = GPTQ().solve(w, format, {"hessian": torch.eye(128)})

    assert torch.equal(q.codes, Nearest().solve(w, format, {"importance": torch.ones(128)}).codes)


@pytest.mark.parametrize("name", ["Q4_K", "IQ2_XS", "int4_g32_sym_f16", "nf4_g64_dq", "fp8_e4m3_tile32"])
def test_threads_and_slabs_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    w, h, format = weights(200, 512, 12), hessian_of(512, 12), formats.get(name)
    one = GPTQ().solve(w, format, {"hessian": h})
    monkeypatch.setattr("fewbits.methods.sweep.ROWS", 96)
    torch.set_num_threads(3)  # one_thread puts it back

    other = GPTQ().solve(w, format, {"hessian": h})

    assert torch.equal(one.codes, other.codes)
    assert all(torch.equal(one.params[key], other.params[key]) for key in one.params.arrays)


@pytest.mark.parametrize("name", ["Q5_K", "mxfp8_e4m3", "IQ3_XXS", "IQ1_M", "uint4_g32_asym_f16"])
def test_the_native_sweep_is_that_of_torch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    w, h, format = weights(5, 512, 13), hessian_of(512, 13), formats.get(name)
    native = GPTQ().solve(w, format, {"hessian": h})
    for function in ("fit", "encode", "round_columns"):
        monkeypatch.setattr(f"fewbits.kernels.overrides.{function}", lambda *arguments: None)

    slow = GPTQ().solve(w, format, {"hessian": h})

    assert torch.equal(native.codes, slow.codes)


def test_rows_do_not_influence_each_other() -> None:
    w, h, format = weights(9, 256, 2), hessian_of(256, 2), formats.get("Q4_K")
    order = torch.tensor([3, 1, 8, 0, 7, 2, 6, 5, 4])

    whole = GPTQ().solve(w, format, {"hessian": h}).packed()

    assert np.array_equal(GPTQ().solve(w[order], format, {"hessian": h}).packed(), whole[order.numpy()])


def test_laws_of_methods() -> None:
    def total(w: torch.Tensor, q: QTensor, stats: Mapping[str, Any]) -> float:
        return float(objective(w, q, stats["hessian"]).sum())

    some = [formats.get(n) for n in ("BF16", "Q4_0", "Q5_1", "Q6_K", "IQ4_XS", "int4_g64_sym_dq", "nf4_g64", "mxfp4")]
    check_method(GPTQ(), formats=some, stats=lambda cols: {"hessian": hessian_of(cols)}, objective=total)


def test_the_laws_see_a_sweep_in_the_wrong_direction(monkeypatch: pytest.MonkeyPatch) -> None:
    h, w = hessian_of(96), weights(4, 96)
    good = float(objective(w, GPTQ().solve(w, formats.get("int4_row_sym"), {"hessian": h}), h).sum())

    def turned(hessian: torch.Tensor, order: torch.Tensor | None, workers: None) -> Factor:
        factor = factored(hessian, order)
        return replace(factor, upper=2 * torch.eye(len(hessian)).double() - factor.upper)

    monkeypatch.setattr("fewbits.methods.order.factored", turned)
    monkeypatch.setattr("fewbits.methods.gptq._better", lambda w, swept, plain, factor: swept.q)

    bad = float(objective(w, GPTQ().solve(w, formats.get("int4_row_sym"), {"hessian": h}), h).sum())

    assert bad > 1.2 * good


def test_columns_that_nothing_reaches_are_rounded_alone() -> None:
    h = hessian_of(64, 4)
    h[:, 5] = h[5, :] = 0.0
    w, format = weights(3, 64, 4), formats.get("int4_row_sym")
    params = Nearest().solve(w, format, near(h)).params

    codes = GPTQ().solve(w, format, {"hessian": h}).codes

    assert torch.equal(codes[:, 5], format.encode(w, params)[:, 5])


def test_the_damping_grows_until_columns_can_be_told_apart() -> None:
    alike = torch.ones(8, 8, dtype=torch.float64)
    factor = factored(alike)

    back = factor.upper @ factor.energy.diag() @ factor.upper.T
    assert torch.allclose(back, alike + DAMPING[0] * torch.eye(8, dtype=torch.float64), atol=1e-12)
    assert factor.remarks == ()
    negative = torch.eye(8)
    negative[0, 1] = negative[1, 0] = 5.0  # no sum of squares; the ladder ends at 10
    q = GPTQ().solve(weights(2, 32), formats.get("Q4_0"), {"hessian": torch.block_diag(negative, torch.eye(24))})
    assert q.remarks == ("damping 10",)


def test_matrices_with_the_same_inputs_share_a_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    h, w, format = hessian_of(64), weights(3, 64), formats.get("Q4_0")
    alone = GPTQ().solve(w, format, {"hessian": h})
    shared = GPTQ().prepare({"hessian": h})
    GPTQ().solve(w, format, shared)
    monkeypatch.setattr("fewbits.methods.order.factored", lambda *_: pytest.fail("the factor was made again"))

    assert np.array_equal(GPTQ().solve(w, format, shared).packed(), alone.packed())


@pytest.mark.parametrize("vector", [1, 4, 8])
def test_what_a_sweep_costs_is_what_its_errors_cost(vector: int) -> None:
    name = {1: "Q4_K", 4: "IQ3_S", 8: "IQ2_XS"}[vector]
    w, h, format = weights(3, 512, 8), hessian_of(512, 8), formats.get(name)
    plain = Nearest().solve(w, format, near(h))

    swept = sweep(w, plain, factored(h), importance_of(h), 128)

    assert torch.allclose(swept.objective, objective(w, swept.q, h), rtol=1e-9)
    costs, errors = objective(w, plain, h), w - plain.dequantize()
    assert torch.allclose(factored(h).cost(errors), costs, rtol=1e-4)
    assert factored(h).dearer(errors, costs * 0.999).all()
    assert not factored(h).dearer(errors, costs * 1.001).any()


@pytest.mark.parametrize(("bad", "message"), [(torch.nan, "NaN or infinite"), (torch.inf, "NaN or infinite")])
def test_numbers_that_are_none_are_refused(bad: float, message: str) -> None:
    h = hessian_of(32)
    h[3, 4] = bad
    with pytest.raises(CalibrationError, match=message):
        GPTQ().solve(weights(2, 32), formats.get("Q4_0"), {"hessian": h})


def test_what_no_damping_makes_definite_is_refused() -> None:
    h = torch.eye(32)
    h[0, 1] = h[1, 0] = 100.0
    with pytest.raises(CalibrationError, match="too much alike"):
        GPTQ().solve(weights(2, 32), formats.get("Q4_0"), {"hessian": h})


def test_parameters_of_spans_lie_side_by_side() -> None:
    format, w = formats.get("Q4_K"), weights(3, 512)
    spans = [format.fit(part) for part in (w[:, :256], w[:, 256:])]
    whole = format.fit(w)

    joined = Params.side_by_side(spans)

    assert all(torch.equal(joined[name], array) for name, array in whole.arrays.items())


def test_the_registry_knows_it() -> None:
    assert methods.get("gptq") == GPTQ()
    assert replace(GPTQ(), chunk=64).needs == {"hessian"}


@pytest.mark.parametrize("cols", [1, 255, 256, 257, 1100])
@pytest.mark.parametrize("threads", [0, 1, 3])
def test_a_factor_found_stripe_by_stripe_is_that_of_the_whole(cols: int, threads: int) -> None:
    h = hessian_of(cols, 21)
    with Workers(max(threads, 1)) as workers:
        found = factored(h, None, workers if threads else None)

    turned = h.double() + found.added.diag()
    lower = torch.linalg.cholesky(turned.flip(0, 1)).flip(0, 1)
    assert torch.allclose(found.upper * found.energy.sqrt(), lower, rtol=1e-9, atol=1e-9)
    assert torch.equal(found.upper, factored(h).upper)
