"""What is measured of a model on text: statistics of what reaches its matrices."""

from __future__ import annotations

from fewbits.calibration.stats import STATS, AbsMax, Hessian, MeanSquare, MinMax, Stat

__all__ = ["STATS", "AbsMax", "Hessian", "MeanSquare", "MinMax", "Stat"]
