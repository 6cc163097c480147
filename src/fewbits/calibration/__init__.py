"""What is measured of a model on text: the text, statistics of what reaches its matrices, and ranges from them."""

from __future__ import annotations

from fewbits.calibration.data import CalibrationData, read_calibration
from fewbits.calibration.histogram import Histogram, SampleRange
from fewbits.calibration.mix import guard_text
from fewbits.calibration.observers import OBSERVERS, Observer, Range
from fewbits.calibration.packing import Tokenizer
from fewbits.calibration.stats import (
    STATS,
    AbsMax,
    Hessian,
    MeanSquare,
    MinMax,
    RunningAverage,
    Stat,
    merged,
)
from fewbits.calibration.unlikeness import Seen, Unlikeness, tokens_report, unlikeness

STATS.add("histogram", Histogram)
STATS.add("sample_range", SampleRange)

__all__ = [
    "OBSERVERS",
    "STATS",
    "AbsMax",
    "CalibrationData",
    "Hessian",
    "Histogram",
    "MeanSquare",
    "MinMax",
    "Observer",
    "Range",
    "RunningAverage",
    "SampleRange",
    "Seen",
    "Stat",
    "Tokenizer",
    "Unlikeness",
    "guard_text",
    "merged",
    "read_calibration",
    "tokens_report",
    "unlikeness",
]
