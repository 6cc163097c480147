"""Whole numbers are exact: every operation equals Python's, on codes and sums at their ends too."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewbits.static.affine import Affine
from fewbits.static.arithmetic import (
    BITS,
    add_codes,
    conv_codes,
    conv_sums,
    exact_type,
    linear_codes,
    linear_sums,
    multipliers,
    rescale_codes,
)
from fewbits.static.layers import Add, Average, AveragePool, Concatenate, Convolution, Linear, Target
from fewbits.static.weights import RoundedWeight, WeightFormat, with_bias
from references import static_numbers as slow


@pytest.fixture(params=["native", "torch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The processor's own kernels, and what other devices take."""
    if request.param == "torch":
        monkeypatch.setattr("fewbits.static.arithmetic.natively", lambda x: False)
    return str(request.param)


def codes(*shape: int, signed: bool = False, seed: int = 0) -> torch.Tensor:
    low, high, dtype = (-128, 128, torch.int8) if signed else (0, 256, torch.uint8)
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def weights(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(-127, 128, shape, generator=torch.Generator().manual_seed(seed)).to(torch.int8)


def zero_of(number: int) -> torch.Tensor:
    return torch.tensor(number, dtype=torch.int32)


@settings(deadline=None)
@given(st.floats(1e-12, 2.0**20))
def test_multipliers_are_those_of_whole_numbers(real: float) -> None:
    m, shift = multipliers(torch.tensor([real], dtype=torch.float64))

    assert (int(m), int(shift)) == slow.multiplier(real) or math.ldexp(int(m), -int(shift)) == math.ldexp(
        slow.multiplier(real)[0], -slow.multiplier(real)[1]
    )
    if real > 2.0**-40:
        assert abs(math.ldexp(int(m), -int(shift)) / real - 1) <= 2.0**-BITS


def whole(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.int32)


@settings(deadline=None)
@given(
    st.integers(-(2**30), 2**30),
    st.integers(-(2**29), 2**29),
    st.integers(1, 2**BITS),
    st.integers(1, 62),
    st.integers(0, 255),
)
def test_float64_rescales_exactly(total: int, bias: int, m: int, shift: int, zero: int) -> None:
    rounding = [whole(bias), whole(m), whole(shift), zero_of(zero), whole(3, 250)]

    found = rescale_codes(whole(total), rounding, False)

    assert found.tolist() == [slow.code(total + bias, m, shift, zero, (3, 250))]


@settings(deadline=None)
@given(
    st.integers(0, 255), st.integers(1, 2**BITS), st.integers(22, 53), st.integers(-1, 1), st.integers(-(2**29), 2**29)
)
def test_sums_beside_a_half_go_to_the_right_side(code: int, m: int, shift: int, beside: int, bias: int) -> None:
    total = min(max(((2 * code + 1) << (shift - 1)) // m + beside - bias, -(2**30)), 2**30)
    rounding = [whole(bias), whole(m), whole(shift), zero_of(0), whole(0, 255)]

    assert rescale_codes(whole(total), rounding, False).tolist() == [slow.code(total + bias, m, shift, 0, (0, 255))]


@pytest.mark.parametrize("zero", [0, 117, 255])
@pytest.mark.parametrize("cols", [1, 7, 33])
def test_linear_sums(way: str, cols: int, zero: int) -> None:
    x, w = codes(5, cols), weights(6, cols)

    assert linear_sums(x, zero_of(zero), w).tolist() == slow.linear(x.tolist(), zero, w.tolist())


def test_sums_beyond_what_float32_can_tell_are_exact(way: str) -> None:
    cols = 1200
    x, w = codes(3, cols), weights(4, cols)
    x[0], w[0] = 255, 127
    w[1] = torch.where(torch.arange(cols) % 2 == 0, 127, -126)

    assert exact_type(w) is torch.float64
    assert exact_type(w[:, :100]) is torch.float32
    assert linear_sums(x, zero_of(0), w).tolist() == slow.linear(x.tolist(), 0, w.tolist())
    image = x.reshape(3, 48, 5, 5).contiguous()
    kernel = w.reshape(4, 48, 5, 5).contiguous()
    found = convolved(image, 0, kernel, (1, 1), (2, 2), (1, 1), 1)
    assert found == slow.convolution(image.tolist(), 0, kernel.tolist(), (1, 1), (2, 2), (1, 1), 1)


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups"),
    [
        ((1, 1), (0, 0), (1, 1), 1),
        ((2, 1), (1, 2), (1, 1), 2),
        ((1, 2), (2, 0), (2, 1), 4),
        ((3, 3), (1, 1), (1, 2), 1),
    ],
)
@pytest.mark.parametrize("signed", [False, True])
def test_convolution_sums(
    stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int], groups: int, signed: bool
) -> None:
    x, w, zero = codes(2, 4, 7, 6, signed=signed), weights(8, 4 // groups, 3, 2), -5 if signed else 131

    assert convolved(x, zero, w, stride, padding, dilation, groups) == slow.convolution(
        x.tolist(), zero, w.tolist(), stride, padding, dilation, groups
    )


def convolved(x: torch.Tensor, zero: int, w: torch.Tensor, *geometry: Any) -> Any:
    """The sums of a convolution as the layer has them."""
    stride, padding, dilation, groups = geometry
    sums = conv_sums(x, zero_of(zero), w.to(exact_type(w)), list(stride), list(padding), list(dilation), groups)
    return sums.to(torch.int64).tolist()


def target(scale: float, zero: int, low: int = 0, high: int = 255) -> Target:
    return Target(Affine(scale, zero), low, high)


def coded(sums: torch.Tensor, layer: torch.nn.Module, bias: torch.Tensor, channels: int) -> list[int]:
    """Codes of sums, one by one."""
    m, shift = layer.get_buffer("m").tolist(), layer.get_buffer("shift").tolist()
    zero, bounds = int(layer.get_buffer("out_zero")), layer.get_buffer("bounds").tolist()
    moved = sums.movedim(channels, -1)
    found = [
        slow.code(int(total) + int(bias[i % len(bias)]), m[i % len(m)], shift[i % len(shift)], zero, bounds)
        for i, total in ((place % moved.shape[-1], total) for place, total in enumerate(moved.flatten().tolist()))
    ]
    return torch.tensor(found).reshape(moved.shape).movedim(-1, channels).tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("scales", ["channel", "tensor"])
def test_products_to_codes(way: str, scales: str) -> None:
    generator = torch.Generator().manual_seed(5)
    source, aim = Affine(0.02, 120), target(0.05, 90, 90, 250)
    matrix, bias = torch.randn(6, 18, generator=generator), torch.randn(6, generator=generator)
    whole, numbers = with_bias(matrix, bias, WeightFormat(scales), source.scale)
    x = codes(5, 18)
    layer = Linear(source, whole, numbers, aim)
    sums = torch.tensor(slow.linear(x.tolist(), 120, whole.codes.tolist()))
    assert layer(x).tolist() == coded(sums, layer, numbers, 1)
    assert {int(code) for code in layer(x).flatten()} != {90, 250}

    kernel = RoundedWeight(whole.codes.reshape(6, 2, 3, 3), whole.scale)
    convolution = Convolution(source, kernel, numbers, aim, ((1, 1), (1, 1), (1, 1), 1))
    image = codes(2, 2, 4, 5)
    sums = torch.tensor(slow.convolution(image.tolist(), 120, kernel.codes.tolist(), (1, 1), (1, 1), (1, 1), 1))
    assert convolution(image).tolist() == coded(sums, convolution, numbers, 1)


def test_sums_of_two_scales(way: str) -> None:
    one, other, aim = Affine(0.031, 7), Affine(0.0124, 201), target(0.04, 100)
    layer, a, b = Add([one, other], aim), codes(64, seed=1), codes(64, seed=2)
    m, [shift] = layer.get_buffer("m").tolist(), layer.get_buffer("shift").tolist()

    wanted = [
        slow.code((x - 7) * m[0] + (y - 201) * m[1], 1, shift, 100, (0, 255))
        for x, y in zip(a.tolist(), b.tolist(), strict=True)
    ]

    assert layer(a, b).tolist() == wanted
    numbers = one.decode(a) + other.decode(b)
    assert float((aim.affine.decode(layer(a, b)) - numbers.clamp(-4.0, 6.2)).abs().max()) <= 0.0201


def test_multipliers_of_scales_far_apart_share_a_shift_and_fit() -> None:
    layer = Add([Affine(3.0, 0), Affine(1e-4, 0)], target(0.04, 100))

    m, [shift] = layer.get_buffer("m").tolist(), layer.get_buffer("shift").tolist()
    assert [each / 2**shift for each in m] == pytest.approx([3.0 / 0.04, 1e-4 / 0.04], abs=2.0**-shift)
    assert 2**20 <= max(m) <= 2**21


def test_concatenations_at_one_scale_and_at_several() -> None:
    one, other, aim = Affine(0.031, 7), Affine(0.0124, 201), target(0.031, 7)
    layer, a, b = Concatenate([one, other], aim, 1), codes(3, 4, seed=1), codes(3, 5, seed=2)
    m, [shift] = layer.get_buffer("m").tolist(), layer.get_buffer("shift").tolist()

    found = layer(a, b)

    assert found[:, :4].tolist() == a.tolist()
    assert found[:, 4:].tolist() == [[slow.code(y - 201, m[1], shift, 7, (0, 255)) for y in row] for row in b.tolist()]


def test_means() -> None:
    source, aim = Affine(0.02, 120), target(0.015, 60)
    x = codes(2, 3, 4, 6)
    whole = Average(source, aim, (-2, -1), False, 24)
    [m], [shift] = whole.get_buffer("m").tolist(), whole.get_buffer("shift").tolist()
    sums = (x.long() - 120).sum((-2, -1))
    numbers = source.decode(x)
    assert float((aim.affine.decode(whole(x)) - numbers.mean((-2, -1))).abs().max()) <= 0.00751
    assert whole(x).tolist() == [[slow.code(int(s), m, shift, 60, (0, 255)) for s in row] for row in sums]

    parts = AveragePool(source, aim, (2, 3), (2, 3))
    [m], [shift] = parts.get_buffer("m").tolist(), parts.get_buffer("shift").tolist()
    sums = (x.long() - 120).reshape(2, 3, 2, 2, 2, 3).sum((3, 5)).flatten()
    means = torch.nn.functional.avg_pool2d(numbers, (2, 3), (2, 3))
    apart = aim.affine.decode(parts(x)) - means.clamp(60 * -0.015, 195 * 0.015)
    assert float(apart.abs().max()) <= 0.00751
    assert parts(x).flatten().tolist() == [slow.code(int(s), m, shift, 60, (0, 255)) for s in sums]


def test_nothing_depends_on_the_batch_or_on_threads(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = codes(9, 4, 11, 11), weights(16, 4, 3, 3)
    rounding = [
        weights(16).int(),
        weights(16).int().abs() * 9000 + 1,
        torch.full((16,), 30),
        zero_of(90),
        whole(0, 255),
    ]
    arguments = (zero_of(99), w, rounding, False, [1, 1], [1, 1], [1, 1], 1)
    before = torch.get_num_threads()
    found = conv_codes(x, *arguments)
    try:
        torch.set_num_threads(3)
        assert torch.equal(conv_codes(x, *arguments), found)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(torch.cat([conv_codes(part, *arguments) for part in x.split(1)]), found)
    monkeypatch.setattr("fewbits.static.arithmetic.PIECE", 1000)
    assert torch.equal(conv_codes(x, *arguments), found)
    assert len(found.unique()) > 100


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups"),
    [([1, 1], [1, 1], [1, 1], 1), ([2, 1], [0, 2], [1, 2], 2), ([1, 2], [1, 0], [2, 1], 1)],
)
def test_both_ways_have_the_same_codes_in_the_same_places(
    stride: list[int], padding: list[int], dilation: list[int], groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, w = codes(3, 6, 13, 11, signed=True), weights(24, 6 // groups, 3, 2)
    rounding = [weights(24).int(), weights(24).int().abs() * 9000 + 1, torch.full((24,), 30), zero_of(9), whole(0, 255)]
    geometry = (stride, padding, dilation, groups)
    single = [whole(5), whole(2**21), whole(23), zero_of(7), whole(0, 200)]

    def results() -> list[torch.Tensor]:
        found = conv_codes(x, zero_of(-3), w, rounding, False, *geometry)
        line = conv_codes(
            x[:, :, 0], zero_of(-3), w[:, :, 0], rounding, False, *(each[1:] for each in geometry[:3]), groups
        )
        sums = add_codes(
            found, found.flip(1).contiguous(memory_format=torch.channels_last), whole(3, 4), whole(2, 1), single, False
        )
        return [found, line, sums]

    native = results()
    monkeypatch.setattr("fewbits.static.arithmetic.natively", lambda x: False)
    for one, other in zip(native, results(), strict=True):
        assert torch.equal(one, other)
        assert one.stride() == other.stride()
        assert len(one.unique()) > 20


def test_a_row_of_next_to_no_weights_keeps_its_bias() -> None:
    matrix = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    matrix[1] = 1e-20
    bias = torch.tensor([0.1, 2.5, -0.3])

    whole, numbers = with_bias(matrix, bias, WeightFormat("channel"), 0.01)

    assert (numbers.double() * whole.scale.double() * 0.01).tolist() == pytest.approx(bias.tolist(), rel=1e-2)


def test_custom_operations_state_their_shapes(way: str) -> None:
    zero, one = zero_of(3), whole(1)
    rounding, x, w = [one, one, one, zero, whole(0, 255)], codes(2, 4, 5, 5), weights(4, 2, 3, 3)
    torch.library.opcheck(linear_sums, (codes(2, 5), zero, weights(4, 5)))
    torch.library.opcheck(linear_codes, (codes(2, 5), zero, weights(4, 5), rounding, False))
    torch.library.opcheck(conv_codes, (x, zero, w, rounding, True, [1, 2], [1, 0], [1, 1], 2))
    torch.library.opcheck(add_codes, (x, x[:1], whole(1, 2), whole(3, 4), rounding, False))
    torch.library.opcheck(rescale_codes, (torch.ones(2, 3, dtype=torch.int32), rounding, False))
