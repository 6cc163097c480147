"""What is measured of a model on text: the text, and statistics of what reaches its matrices."""

from __future__ import annotations

from fewbits.calibration.data import CalibrationData, read_calibration
from fewbits.calibration.mix import guard_text
from fewbits.calibration.packing import Tokenizer
from fewbits.calibration.stats import STATS, AbsMax, Hessian, MeanSquare, MinMax, Stat

__all__ = [
    "STATS",
    "AbsMax",
    "CalibrationData",
    "Hessian",
    "MeanSquare",
    "MinMax",
    "Stat",
    "Tokenizer",
    "guard_text",
    "read_calibration",
]
