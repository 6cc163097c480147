"""Native error feedback gives the bits of columns taken one by one, on every instruction set; planted faults show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fewbits import formats, kernels
from fewbits.errors import KernelError
from fewbits.formats.overrides import Feedback
from fewbits.kernels import feedback, overrides
from fewbits.kernels.module import native_module
from fewbits.methods.gptq import importance_of
from fewbits.testing import check_feedback
from fewbits.testing.inputs import normal

FLOATS = ("F64", "F32", "F16", "BF16")
"""Their grids are number types; a sweep over them is nothing that a kernel has to be fast at."""
MORE = ["uint1_g16_asym", "int1_g16_sym", "learned7_g32", "ternary_g7", "fp6_e2m3_g32", "int8_tensor_sym"]
NAMES = [name for name in formats.FORMATS if name not in FLOATS]


@pytest.mark.parametrize("name", [*NAMES, *MORE])
def test_kernel(name: str) -> None:
    check_feedback(formats.get(name))


@pytest.mark.parametrize("name", FLOATS)
def test_other_grids_are_left_to_torch(name: str) -> None:
    grid = formats.get(name).grid(formats.Params({}), slice(0, 2))
    two = torch.zeros(1, 2)
    assert (
        feedback.round_columns(grid, Feedback(two, two.double(), torch.eye(2).double(), two.double(), two[0])) is None
    )


@pytest.mark.parametrize("name", NAMES)
def test_fits_are_those_of_torch(name: str) -> None:
    format, cols = formats.get(name), 3 * max(formats.get(name).span, 16)
    w, importance = normal(5, cols) ** 3, importance_of(normal(cols, cols, 3).square())
    weights = format.weights(w, importance)
    wanted = format.fit(w, importance=weights)
    codes = format.encode(w, wanted, importance=weights)

    fitted, encoded = overrides.fit(format, w, importance), overrides.encode(format, w, importance, None)

    assert fitted is not None
    assert encoded is not None
    for params in (fitted, encoded[1]):
        assert params.rows == wanted.rows
        assert all(torch.equal(params[key], array) for key, array in wanted.arrays.items())
    assert torch.equal(encoded[0], codes)


def product(
    rows: int, terms: int, cols: int, isa: str, right: torch.Tensor | None = None, *, minus: bool
) -> torch.Tensor:
    """What `add_product` makes of sums that are there before."""
    left, sums = normal(rows, terms, 5).double(), normal(rows, cols, 6).double()
    right = normal(terms, cols, 7).double() if right is None else right
    feedback.add_product(sums, left, right, minus=minus, isa=isa)
    return sums


SIZES = [(1, 1, 1), (3, 0, 2), (5, 7, 17), (13, 255, 9), (12, 256, 16), (97, 257, 33), (25, 600, 1030)]


@pytest.mark.parametrize(("rows", "terms", "cols"), SIZES)
@pytest.mark.parametrize("minus", [False, True])
def test_products_are_the_same_on_every_instruction_set(rows: int, terms: int, cols: int, minus: bool) -> None:
    by_torch = (1 - 2 * minus) * normal(rows, terms, 5).double() @ normal(terms, cols, 7).double()
    scalar = product(rows, terms, cols, "scalar", minus=minus)

    torch.testing.assert_close(scalar, normal(rows, cols, 6).double() + by_torch, rtol=0, atol=1e-12 * (1 + terms))
    assert all(torch.equal(product(rows, terms, cols, isa, minus=minus), scalar) for isa in kernels.available())


@pytest.mark.parametrize("isa", kernels.available())
def test_no_part_of_a_product_depends_on_the_rest(isa: str) -> None:
    whole, right = product(40, 300, 50, isa, minus=False), normal(300, 50, 7)
    part, left = normal(40, 50, 6).double()[9:22, 3:44], normal(40, 300, 5).double()[9:22]

    feedback.add_product(part, left, right.double()[:, 3:44], isa=isa)

    assert torch.equal(part, whole[9:22, 3:44])
    assert torch.equal(product(40, 300, 50, isa, right, minus=False), whole)  # single precision holds the same numbers
    assert torch.equal(product(40, 300, 50, isa, right.T.contiguous().T, minus=False), whole)


def test_products_that_do_not_fit_are_refused() -> None:
    sums, left = torch.zeros(2, 3).double(), torch.zeros(2, 4).double()
    for right, message in ((torch.zeros(5, 3).double(), "do not fit"), (torch.zeros(4, 2).double(), "a sum per row")):
        with pytest.raises(ValueError, match=message):
            feedback.add_product(sums, left, right)
    with pytest.raises(ValueError, match="no floats or doubles"):
        feedback.add_product(sums, left, torch.zeros(4, 3).int())


def turned(part: str, change: Callable[[Any], Any]) -> Callable[..., Any]:
    def ladder(kind: Any, starts: list[float], numbers: list[float], codes: list[float]) -> Any:
        given = {"kind": kind, "starts": starts, "numbers": numbers, "codes": codes}
        return native_module().ladder(*{**given, part: change(given[part])}.values())

    return ladder


FAULTS = [
    ("Q4_K", "kind", lambda kind: (kind[0], 1, *kind[2:])),
    ("mxfp4", "starts", lambda starts: [start * 1.01 for start in starts]),
    ("fp8_e4m3_row", "kind", lambda kind: (*kind[:3], 0, kind[4])),
    ("IQ4_NL", "numbers", lambda numbers: [number * 1.001 for number in numbers]),
    ("nf4_g64", "codes", lambda codes: codes[::-1]),
    ("uint4_g64_floatzero_f16", "kind", lambda kind: (0, *kind[1:])),
]


@pytest.mark.parametrize(("name", "part", "change"), FAULTS)
def test_a_planted_fault_is_seen(
    name: str, part: str, change: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    caches = (feedback._ladder, feedback._table_ladder, feedback._element_ladder)
    for cache in caches:
        cache.cache_clear()
    monkeypatch.setattr(feedback, "native_module", lambda: replaced)
    replaced = type("Module", (), {"ladder": turned(part, change), "round_columns": native_module().round_columns})
    with pytest.raises(AssertionError, match=r"chooses|errors"):
        check_feedback(formats.get(name))
    for cache in caches:
        cache.cache_clear()


def test_a_module_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fewbits.kernels.module.import_module", lambda name: type("Old", (), {}))
    with pytest.raises(KernelError, match="another version of its source"):
        native_module.__wrapped__()
