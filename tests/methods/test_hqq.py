"""HQQ: near the least sum of roots of errors that all scales and zero points allow, and never above nearest's."""

from __future__ import annotations

import pytest
import torch

from devices.other_device import other_device
from fewbits import formats
from fewbits.methods.hqq import HQQ, SQUARES, sparse_cost
from fewbits.methods.parts import rounded
from references.descents import least_roots
from references.hessians import weights


def test_near_the_least_of_a_fine_raster() -> None:
    w, format = weights(6, 64, 3) ** 3, formats.get("uint3_g64_asym")
    nearest = rounded(w, format)
    found, plain = (float(sparse_cost(w, q).sum()) for q in (HQQ().solve(w, format, {}), nearest))
    squares = SQUARES * (w.double() - nearest.dequantize().double()).square().sum(1)
    least = sum(least_roots(row.double().numpy(), 7, float(limit)) for row, limit in zip(w, squares, strict=True))

    assert least <= found * 1.001
    assert (plain - found) / (plain - least) > 0.5  # more than half of what there is to gain


def test_the_offset_moves_where_a_few_weights_are_far_away() -> None:
    w, format = 0.1 * weights(1, 32, 3) + 1.0, formats.get("Q4_1")
    w[0, 7] = 9.0
    errors = [(w - q.dequantize()).abs().median() for q in (HQQ().solve(w, format, {}), rounded(w, format))]

    assert float(errors[0]) < 0.8 * float(errors[1])


def test_every_part_chooses_for_itself() -> None:
    w, format = weights(3, 96, 4) ** 3, formats.get("Q4_0")
    whole = HQQ().solve(w, format, {})

    for start in (0, 32, 64):
        alone = HQQ().solve(w[:, start : start + 32], format, {})
        assert torch.equal(alone.codes, whole.codes[:, start : start + 32])


def test_tails_are_not_given_up_for_the_many() -> None:
    w, format = weights(20, 128, 5) ** 3, formats.get("int4_g64_sym_f16")
    squares = [(w - q.dequantize()).square().sum() for q in (HQQ().solve(w, format, {}), rounded(w, format))]

    assert float(squares[0]) <= SQUARES * float(squares[1])


@pytest.mark.parametrize("name", ["Q4_1", "Q4_K", "nf4_g64_dq", "int8_tensor_sym"])
def test_the_same_on_every_device(name: str) -> None:
    w, format = weights(3, 256, 6) ** 3, formats.get(name)
    wanted = HQQ(rounds=3).solve(w, format, {})
    with other_device() as device:
        found = HQQ(rounds=3).solve(w.to(device), format, {}).to("cpu")

    assert torch.equal(found.codes, wanted.codes)
    assert all(torch.equal(found.params[array], wanted.params[array]) for array in wanted.params.arrays)
