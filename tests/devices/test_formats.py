"""Whatever is registered runs on a device beside the CPU, without the native module; and planted faults are seen."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from devices.other_device import other_device
from fewbits import formats
from fewbits.formats import Format, Params
from fewbits.testing import check_device
from fewbits.testing.inputs import normal

# Where all rows share what a histogram found, no listed member has a fixed table or such a scale in 16 bits.
UNLISTED = ("nf4_tensor", "nf3_tensor_f16", "learned2_tensor", "uint1_tensor_asym", "ternary_tensor_f16")


@pytest.mark.parametrize("name", [*formats.FORMATS, *UNLISTED])
def test_format(name: str) -> None:
    with other_device() as device:
        check_device(formats.get(name), device)


def test_no_native_module_is_loaded() -> None:
    program = (
        "import sys, torch\nfrom fewbits import formats\nfrom fewbits.methods import get\n"
        "for name in ('Q4_K', 'IQ2_XS', 'nf4_g64_dq'):\n"
        "    format = formats.get(name); q = get('nearest').solve(torch.ones(256, 256), format, {})\n"
        "    q.from_fields(format, q.fields(), q.shape).dequantize()\n"
        "assert not any(module.startswith('fewbits.kernels') for module in sys.modules), sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


@dataclass
class Faulty:
    """A format with some of its members replaced."""

    base: Format
    replaced: dict[str, Callable[..., Any]]

    def __getattr__(self, name: str) -> Any:
        fault = self.replaced.get(name)
        return getattr(self.base, name) if fault is None else lambda *a, **options: fault(self.base, *a, **options)


def codes_on_the_cpu(base: Format, w: torch.Tensor, params: Params, **options: Any) -> torch.Tensor:
    return base.encode(w, params, **options).cpu()


def arange_without_device(base: Format, codes: torch.Tensor, params: Params) -> torch.Tensor:
    return base.decode(codes, params) + torch.arange(codes.shape[1])


def table_without_device(base: Format, w: torch.Tensor, params: Params, **options: Any) -> torch.Tensor:
    return torch.where(torch.ones(w.shape, dtype=torch.bool), base.encode(w, params, **options), 0)


def index_into_the_cpu(base: Format, codes: torch.Tensor, params: Params) -> torch.Tensor:
    return base.decode(codes, params) + torch.zeros(256)[codes.long()]


def through_numpy(base: Format, codes: torch.Tensor, params: Params) -> Any:
    return base.fields(codes, params) if codes.numpy() is not None else None


def with_the_native_module(base: Format, w: torch.Tensor, **options: Any) -> Params:
    from fewbits.kernels import isa

    return base.fit(w, **options) if isa() else Params({})


def slightly_larger(base: Format, codes: torch.Tensor, params: Params) -> torch.Tensor:
    """Another number elsewhere, by one bit."""
    back = base.decode(codes, params)
    return back if back.device.type == "cpu" else back * (1.0 + 2.0**-23)


def other_codes(base: Format, w: torch.Tensor, params: Params, **options: Any) -> torch.Tensor:
    """One code is another elsewhere."""
    codes = base.encode(w, params, **options)
    if codes.device.type != "cpu":
        codes[-1, -1] ^= 1
    return codes


def divided_by_a_number(base: Format, w: torch.Tensor, **options: Any) -> Params:
    return base.fit(w / 3.0 * 3.0, **options)


def summed_in_any_order(base: Format, w: torch.Tensor, **options: Any) -> Params:
    return base.fit(w + 0.0 * w.sum(), **options)


FAULTS: dict[str, dict[str, Callable[..., Any]]] = {
    "codes on cpu, not on the device": {"encode": codes_on_the_cpu},
    "add.Tensor: a tensor on a device meets one on the CPU": {"decode": arange_without_device},
    "where.self: a tensor on a device meets one on the CPU": {"encode": table_without_device},
    "index.Tensor: a tensor on a device meets one on the CPU": {"decode": index_into_the_cpu},
    "numpy": {"fields": through_numpy},
    "native module of fewbits cannot be loaded": {"fit": with_the_native_module},
    "decode to other numbers": {"decode": slightly_larger},
    "1 codes differ": {"encode": other_codes},
    "multiplies with the inverse of 3": {"fit": divided_by_a_number},
    "not the same on every device": {"fit": summed_in_any_order},
}


@pytest.mark.parametrize("name", ["Q4_K", "int4_g32_sym_f16", "uint4_tensor_asym"])
@pytest.mark.parametrize("message", FAULTS)
def test_a_planted_fault_is_seen(name: str, message: str) -> None:
    with other_device() as device, pytest.raises(Exception, match=message):
        check_device(Faulty(formats.get(name), FAULTS[message]), device)  # type: ignore[arg-type]


@pytest.mark.parametrize(("differing", "seen"), [(1e-3, False), (1e-9, True)])
def test_a_share_of_codes_may_differ(differing: float, seen: bool) -> None:
    """As on a real device; the fault changes a code in 2 * 22 * 768, the last of the most negative constants."""
    base = formats.get("Q4_K")
    with other_device() as device:
        if not seen:
            check_device(Faulty(base, {"encode": other_codes}), device, differing=differing)  # type: ignore[arg-type]
            return
        with pytest.raises(AssertionError, match="of all codes differ"):
            check_device(Faulty(base, {"encode": other_codes}), device, differing=differing)  # type: ignore[arg-type]


def test_other_numbers_are_seen_where_codes_may_differ() -> None:
    def wider(base: Format, w: torch.Tensor, **options: Any) -> Params:
        return base.fit(w if w.device.type == "cpu" else 1.01 * w, **options)

    with other_device() as device, pytest.raises(AssertionError, match="other numbers are stored"):
        check_device(Faulty(formats.get("Q8_0"), {"fit": wider}), device, differing=1.0)  # type: ignore[arg-type]


def test_matrices_move_as_a_whole() -> None:
    from fewbits.methods import get

    format = formats.get("fp8_e4m3_tile128")
    q = get("nearest").solve(normal(3, 128), format, {})
    with other_device() as device:
        moved = q.to(device)
        assert {moved.codes.device, *(a.device for a in moved.params.arrays.values())} == {device}
        assert moved.params.rows == q.params.rows
        assert torch.equal(moved.to("cpu").codes, q.codes)
