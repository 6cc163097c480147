"""Search: descent equals the slow one, parts know of each other, other methods' results can be the start."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewbits import formats, methods
from fewbits.errors import CalibrationError
from fewbits.methods.descent import Part, descend
from fewbits.methods.gptq import GPTQ, objective
from fewbits.methods.parts import better_of, joined, part_of, parts_of, rounded
from fewbits.methods.search import Search, refine
from fewbits.qtensor import QTensor
from references.descents import descended
from references.hessians import hessian_of, weights


def choices(q: QTensor, count: int) -> np.ndarray:  # type: ignore[type-arg]
    """(rows, cols, numbers): what every number can become."""
    every = [q.format.decode(torch.full_like(q.codes, code), q.params) for code in range(count)]
    return torch.stack(every, -1).double().numpy()


@pytest.mark.parametrize(("name", "codes"), [("uint2_g64_asym_f16", 4), ("nf3_g64", 8), ("int4_row_sym", 16)])
def test_one_pass_equals_the_slow_descent(name: str, codes: int) -> None:
    w, h, format = weights(3, 64, 1), hessian_of(64, 1).double(), formats.get(name)
    q = rounded(w, format)

    found = descend(Part(w.double(), h, torch.zeros(3, 64).double()), format.grid(q.params, slice(None)), q.codes)

    start = q.dequantize().double().numpy()
    wanted = descended(w.double().numpy(), start, h.numpy(), choices(q, codes), range(64))
    assert np.array_equal(format.decode(found, q.params).double().numpy(), wanted)
    assert not torch.equal(found, q.codes)


def test_a_part_knows_what_the_errors_of_the_others_ask_of_it() -> None:
    w, h, format = weights(2, 128, 2), hessian_of(128, 2).double(), formats.get("uint2_g64_asym_f16")
    q = rounded(w, format)
    error = w.double() - q.dequantize().double()
    second = part_of(q, 1)
    outside = error[:, :64] @ h[:64, 64:]

    found = descend(
        Part(w[:, 64:].double(), h[64:, 64:], outside), format.grid(second.params, slice(None)), second.codes
    )

    start = q.dequantize().double().numpy()
    wanted = descended(w.double().numpy(), start, h.numpy(), choices(q, 4), range(64, 128))
    assert np.array_equal(format.decode(found, second.params).double().numpy(), wanted[:, 64:])


@pytest.mark.parametrize("name", ["Q2_K", "Q4_0", "IQ3_S", "IQ2_XS", "nf4_g64_dq", "nvfp4", "fp8_e4m3_tile128", "BF16"])
@pytest.mark.parametrize("start", ["nearest", "gptq", "hqq"])
def test_no_row_costs_more_than_at_the_start(name: str, start: str) -> None:
    format = formats.get(name)
    w, h = weights(150, 512, 4)[: 150 if format.rows == 128 else 9], hessian_of(512, 4)
    q = methods.get(start).solve(w, format, {"hessian": h})

    found = refine(w, q, h, passes=1, clips=(1.0, 0.8))

    before, after = objective(w, q, h), objective(w, found, h)
    if format.rows == 128:
        before, after = (torch.stack([c[:128].sum(), c[128:].sum()]) for c in (before, after))
    assert bool((after <= before * (1 + 1e-9)).all())
    assert float(after.sum()) < 0.97 * float(before.sum())


def test_search_after_gptq_beats_both() -> None:
    w, h, format = weights(8, 512, 5), hessian_of(512, 5), formats.get("Q4_K")
    swept = GPTQ().solve(w, format, {"hessian": h})
    cost = {
        "gptq": float(objective(w, swept, h).sum()),
        "search": float(objective(w, Search().solve(w, format, {"hessian": h}), h).sum()),
        "both": float(objective(w, refine(w, swept, h, clips=(1.0,)), h).sum()),
    }

    assert cost["both"] < cost["search"] < cost["gptq"]


def test_more_passes_never_cost_more() -> None:
    w, h, format = weights(6, 256, 6), hessian_of(256, 6), formats.get("Q3_K")
    q = rounded(w, format)
    costs = [float(objective(w, refine(w, q, h, passes=n), h).sum()) for n in (0, 1, 2, 4)]

    assert costs == sorted(costs, reverse=True)
    assert costs[1] < 0.8 * costs[0]


@pytest.mark.parametrize("name", ["int8_tensor_sym", "nf4_g64_dq", "nvfp4", "learned4_g64"])
def test_what_all_rows_share_stays_for_some_rows_of_many(name: str) -> None:
    w, h, format = weights(8, 128, 7), hessian_of(128, 7), formats.get(name)
    like = format.prepare([w])
    assert like is not None

    q = Search().solve(w[:4], format, {"hessian": h}, like=like.slice(0, 4))

    shared = [array for array, rows in like.rows.items() if rows == 0]
    assert shared
    assert all(torch.equal(q.params[array], like[array]) for array in shared)


def test_columns_that_nothing_reaches_stay() -> None:
    w, h, format = weights(3, 64, 8), hessian_of(64, 8), formats.get("int4_row_sym")
    h[5, :] = h[:, 5] = 0
    q = rounded(w, format)

    found = descend(
        Part(w.double(), h.double(), torch.zeros(3, 64).double()), format.grid(q.params, slice(None)), q.codes
    )

    assert torch.equal(found[:, 5], q.codes[:, 5])


def test_without_any_input_nothing_changes() -> None:
    w, format = weights(3, 256, 9), formats.get("IQ2_XS")
    q = rounded(w, format)

    assert torch.equal(refine(w, q, torch.zeros(256, 256), clips=(1.0,)).codes, q.codes)


def test_numbers_that_are_none_are_refused() -> None:
    with pytest.raises(CalibrationError, match="NaN or infinite"):
        Search().solve(weights(2, 32), formats.get("Q4_0"), {"hessian": torch.full((32, 32), torch.nan)})


@pytest.mark.parametrize("name", ["Q4_K", "IQ3_S", "nf4_g64_dq", "nvfp4", "int8_row_sym", "fp8_e4m3_tile128"])
def test_parts_put_together_are_the_whole(name: str) -> None:
    q = rounded(weights(130, 512, 3), formats.get(name))
    back = joined([part_of(q, place) for place in range(parts_of(q))])

    assert torch.equal(back.codes, q.codes)
    assert all(torch.equal(back.params[array], q.params[array]) for array in q.params.arrays)


def test_rows_that_share_a_scale_choose_together() -> None:
    format = formats.get("fp8_e4m3_tile128")
    w = weights(130, 128, 3)
    one, other = rounded(w, format), rounded(0.5 * w, format)
    cost = torch.ones(130, 1).double()
    lower = cost.clone()
    lower[:128] = 1.001
    lower[128:] = 0.5

    best, costs = better_of(one, other, cost, lower)

    assert torch.equal(best.dequantize()[:128], one.dequantize()[:128])
    assert torch.equal(best.dequantize()[128:], other.dequantize()[128:])
    assert costs.flatten().tolist() == [1.0] * 128 + [0.5] * 2
