"""Whatever is registered is tested; and the suite sees planted faults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fewbits import formats
from fewbits.formats import Format, Params
from fewbits.testing import check_format


@pytest.mark.parametrize("name", list(formats.FORMATS))
def test_format(name: str) -> None:
    check_format(formats.get(name))


class Faulty:
    """A format with some of its members replaced."""

    def __init__(self, base: Format, **replaced: Any) -> None:
        self._base, self._replaced = base, replaced

    def __getattr__(self, name: str) -> Any:
        return self._replaced[name] if name in self._replaced else getattr(self._base, name)


def fit_by_number_of_rows(base: Format, w: torch.Tensor, **options: Any) -> Params:
    return base.fit(w * (1.0 + 1e-3 * len(w)) if "codes" not in options else w, **options)


def fit_in_place(base: Format, w: torch.Tensor, **options: Any) -> Params:
    w[0, 0] += 1.0
    return base.fit(w, **options)


def fit_against_importance(base: Format, w: torch.Tensor, **options: Any) -> Params:
    if options.get("importance") is not None:
        options["importance"] = 1.0 / options["importance"]
    return base.fit(w, **options)


def fit_without_codes(base: Format, w: torch.Tensor, **options: Any) -> Params:
    """At given codes, the parameters of twice the range."""
    return base.fit(3.0 * w, **{**options, "codes": None}) if "codes" in options else base.fit(w, **options)


def downwards(base: Format, w: torch.Tensor, params: Params) -> torch.Tensor:
    """The code below where the nearest is not the smallest."""
    return (base.encode(w, params).int() - 1).clamp(min=1).to(torch.uint8)


def two_percent(base: Format, codes: torch.Tensor, params: Params) -> torch.Tensor:
    return 1.02 * base.decode(codes, params)


def columns_in_order(base: Format, params: Params, cols: slice | torch.Tensor) -> Any:
    """An index array read as if it were sorted."""
    return base.grid(params, cols.sort().values if isinstance(cols, torch.Tensor) else cols)


FAULTS: dict[str, dict[str, Callable[..., Any]]] = {
    "depends on": {"fit": fit_by_number_of_rows},
    "input was changed": {"fit": fit_in_place},
    "importance": {"fit": fit_against_importance},
    "fitted to its own codes": {"fit": fit_without_codes},
    "nearer code|idempotent": {"encode": downwards},
    "nearer|bound|idempotent": {"decode": two_percent},
    "columns tensor": {"grid": columns_in_order},
}


@pytest.mark.parametrize("name", ["Q4_0", "Q5_1", "Q4_K", "Q6_K"])
@pytest.mark.parametrize("message", FAULTS)
def test_a_planted_fault_is_seen(name: str, message: str) -> None:
    base = formats.get(name)
    replaced = {
        key: lambda *a, fault=fault, **options: fault(base, *a, **options) for key, fault in FAULTS[message].items()
    }
    with pytest.raises(AssertionError, match=message):
        check_format(Faulty(base, **replaced))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"error_bound": 1e-3}, "off by"),
        ({"error_floor": 0.0}, "off by"),
        ({"largest": 1e9}, "off by|no number"),
        ({"span_bytes": 20}, "bytes per row"),
        ({"source": " "}, "does not state its source"),
    ],
)
def test_a_wrong_statement_is_seen(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_format(Faulty(formats.get("Q5_1"), **changed))


def test_bytes_in_another_order_are_seen() -> None:
    base = formats.get("Q4_0")
    swapped = Faulty(base, pack=lambda codes, params: base.pack(codes, params)[:, ::-1].copy())
    with pytest.raises(AssertionError, match="survive packing"):
        check_format(swapped)
