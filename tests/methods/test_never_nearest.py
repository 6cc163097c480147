"""No method is nearest in disguise: on every format other codes, and less of what the method makes small."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from fewbits import formats, methods
from fewbits.methods.gptq import objective
from fewbits.methods.hqq import sparse_cost
from fewbits.methods.nearest import Nearest
from fewbits.qtensor import QTensor
from fewbits.testing import check_method, check_not_nearest
from references.hessians import hessian_of, weights, width

Statistics = Mapping[str, Any]
EXACT = ("F64", "F32")
QUANTIZED = [name for name in formats.FORMATS if name not in EXACT]
NOTHING_TO_CHOOSE = {
    "F16": "no parameters",
    "BF16": "no parameters",
    "mxfp8_e4m3": "a scale twice as large moves floats to the same floats",
    "mxfp8_e5m2": "a scale twice as large moves floats to the same floats",
    "mxfp6_e3m2": "a scale twice as large moves floats to the same floats",
    "MXFP4": "a scale twice as large or small costs more",
    "mxint8": "a scale twice as large or small costs more",
    "learned8_tensor": "256 numbers of a table that is learned from as many weights",
}
"""Formats whose parameters leave HQQ, which does not choose codes, nothing to do on ordinary weights."""


def by_outputs(w: torch.Tensor, q: QTensor, stats: Statistics) -> float:
    return float(objective(w, q, stats["hessian"]).sum())


def by_roots(w: torch.Tensor, q: QTensor, stats: Statistics) -> float:
    return float(sparse_cost(w, q).sum())


def correlated(cols: int) -> Statistics:
    hessian = hessian_of(cols)
    return {"hessian": hessian, "importance": (hessian.diagonal() / hessian.diagonal().mean()).float()}


def test_every_method_is_asked() -> None:
    assert set(methods.METHODS) == {"nearest", "hqq"} | {m for m in methods.METHODS if methods.get(m).needs}


@pytest.mark.parametrize("name", QUANTIZED)
@pytest.mark.parametrize("method", [name for name in methods.METHODS if "hessian" in methods.get(name).needs])
def test_by_a_dense_hessian(method: str, name: str) -> None:
    format = formats.get(name)
    cols = width(format)
    check_not_nearest(
        methods.get(method), format, weights(12, cols), correlated(cols), objective=by_outputs, at_most=0.95
    )


@pytest.mark.parametrize("name", [name for name in QUANTIZED if name not in NOTHING_TO_CHOOSE])
def test_without_data(name: str) -> None:
    format = formats.get(name)
    check_not_nearest(
        methods.get("hqq"), format, weights(12, 2 * width(format)), {}, objective=by_roots, at_most=0.9999
    )


@pytest.mark.parametrize("name", NOTHING_TO_CHOOSE)
def test_nothing_to_choose_gives_nearest(name: str) -> None:
    w, format = weights(12, 2 * width(formats.get(name))), formats.get(name)
    found, plain = methods.get("hqq").solve(w, format, {}).fields(), Nearest().solve(w, format, {}).fields()

    assert all(np.array_equal(found[field], plain[field]) for field in plain)


def test_the_check_sees_a_method_that_is_nearest() -> None:
    with pytest.raises(AssertionError, match="what nearest gives"):
        check_not_nearest(
            Nearest(), formats.get("Q4_K"), weights(3, 256), {}, objective=lambda w, q, stats: 1.0, at_most=1.0
        )


def test_the_check_sees_a_method_that_gains_nothing() -> None:
    with pytest.raises(AssertionError, match="the objective"):
        check_not_nearest(
            methods.get("hqq"), formats.get("Q4_K"), weights(3, 256), {}, objective=lambda w, q, s: 1.0, at_most=0.99
        )


SOME = ("BF16", "Q4_0", "Q5_1", "Q6_K", "IQ4_XS", "int4_g64_sym_dq", "nf4_g64", "mxfp4", "fp8_e4m3_tile128")


@pytest.mark.parametrize("method", [name for name in methods.METHODS if "hessian" in methods.get(name).needs])
def test_laws_by_a_dense_hessian(method: str) -> None:
    check_method(methods.get(method), formats=[formats.get(n) for n in SOME], stats=correlated, objective=by_outputs)


def test_laws_without_data() -> None:
    check_method(methods.get("hqq"), formats=[formats.get(n) for n in SOME], objective=by_roots)
