"""Bad input: one sentence that says which, what was expected and what came."""

from __future__ import annotations

import io
import logging
import sys
import threading
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import nn

from fewbits import FewbitsError, static
from fewbits.errors import CalibrationError, StaticError
from fewbits.static.quiet import torch_is_quiet


class Two(nn.Module):
    """Two inputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return self.layer(left + right)  # type: ignore[no-any-return]


def pair(rows: int = 3, cols: int = 4, **changed: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"left": torch.randn(rows, cols), "right": torch.randn(rows, cols)} | changed


NAN = torch.full((3, 4), torch.nan)


@pytest.mark.parametrize(
    ("calibration", "said"),
    [
        ([], "the calibration set is empty"),
        (torch.randn(3, 4), "the calibration set is a Tensor; expected an iterable of batches"),
        (pair(), "the calibration set is a dict; expected an iterable of batches"),
        ([pair(), "text"], "batch 1 of the calibration set is a str; expected a tensor"),
        (
            [{"left": torch.randn(3, 4), "right": 5}],
            "batch 0 of the calibration set is a dict in which 'right' is a int",
        ),
        ([(torch.randn(3, 4), [1])], "batch 0 of the calibration set is a tuple of (Tensor, list)"),
        (
            [pair(), {"left": torch.ones(3, 4), "wrong": torch.ones(3, 4)}],
            "batch 1 of the calibration set has 'wrong'; Two expects left, right.",
        ),
        ([(torch.ones(3, 4),) * 3], "batch 0 of the calibration set has 3 tensors; Two expects left, right."),
        ([pair(), {"left": torch.ones(3, 4)}], "batch 1 of the calibration set has left; expected left, right"),
        (
            [pair(), pair(right=torch.ones(3, 4, dtype=torch.int64))],
            "right in batch 1 of the calibration set is torch.int64; expected torch.float32",
        ),
        (
            [pair(), pair(right=torch.ones(3, 5))],
            "right in batch 1 of the calibration set has the shape (3, 5); expected (3, 4)",
        ),
        ([pair(), pair(left=NAN)], "left in batch 1 of the calibration set holds NaN or infinite numbers"),
        ([pair(rows=1)], "the calibration set is one batch of one sample"),
        ([pair(cols=5)] * 2, "torch.export cannot export Two"),
    ],
)
def test_calibration_sets(calibration: Iterable[Any], said: str) -> None:
    with pytest.raises(FewbitsError) as caught:
        static.quantize(Two(), calibration)

    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_one_batch_is_noted() -> None:
    assert static.quantize(Two(), [pair()]).record.notes == ("the ranges come from one batch.",)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"observer": "minmx"}, "unknown observer 'minmx'; did you mean 'minmax'?"),
        ({"activation": "uint4"}, "unknown type of activations 'uint4'"),
        ({"weights": "row"}, "weights='row' is not known; expected 'channel' or 'tensor'."),
        ({"weight_bits": 4}, "weight_bits=4 is not known; expected 8 or 7."),
        ({"float_layers": ["lay"]}, "float_layers has 'lay', which no layer matches; there are layer."),
        ({"tolerance": 0.0}, "nothing of Two can be quantized"),
    ],
)
def test_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(FewbitsError) as caught:
        static.quantize(Two(), [pair(), pair()], **options)

    assert str(caught.value).startswith(said)


class Branching(nn.Module):
    """Goes one way or the other by what its numbers say."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) if x.sum() > 0 else x


class Counting(nn.Module):
    """Changes itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += 1
        return self.layer(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (Branching(), "torch.export cannot export Branching, so it cannot be quantized statically:"),
        (Counting(), "Counting changes seen when it runs"),
        (nn.Sequential(nn.Linear(4, 4).half()), "0.weight of Sequential is torch.float16"),
        (nn.Sequential(nn.ReLU()), "nothing of Sequential can be quantized: "),
    ],
)
def test_networks(network: nn.Module, said: str) -> None:
    with pytest.raises(StaticError) as caught:
        static.quantize(network, [torch.randn(3, 4), torch.randn(3, 4)])

    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_torch_logs_nothing_of_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(StaticError):
        static.quantize(Branching(), [torch.randn(3, 4), torch.randn(3, 4)])

    assert capfd.readouterr() == ("", "")


def test_other_threads_are_heard_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    printed, logged = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", printed)
    handler, logger = logging.StreamHandler(logged), logging.getLogger("torch.export")

    def say(who: str) -> None:
        sys.stderr.write(f"{who} ")
        logger.error(who)

    logger.addHandler(handler)
    try:
        with torch_is_quiet():
            say("this")
            thread = threading.Thread(target=say, args=["another"])
            thread.start()
            thread.join()
        say("afterwards")
    finally:
        logger.removeHandler(handler)

    assert printed.getvalue().split() == ["another", "afterwards"]
    assert logged.getvalue().split() == ["another", "afterwards"]


def test_weights_that_are_no_numbers() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    network[0].weight.data[0, 0] = torch.nan

    with pytest.raises(CalibrationError, match=r"the values of linear.* hold NaN"):
        static.quantize(network, [torch.randn(3, 4), torch.randn(3, 4)])


def test_other_inputs_than_it_was_measured_with(perceptron_codes: static.StaticModule) -> None:
    for given, said in [
        ((), "this network was quantized with the inputs x; it got 0 by position and none by name."),
        ((torch.ones(3, 11),), r"x is torch.float32 of shape \(3, 11\); this network was quantized for"),
        ((torch.ones(3, 12, dtype=torch.float64),), "x is torch.float64"),
    ]:
        with pytest.raises(StaticError, match=said):
            perceptron_codes(*given)
