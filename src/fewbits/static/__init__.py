"""Static quantization of torch modules: whole numbers of 8 bits, with scales fixed by a calibration set."""

from __future__ import annotations

from fewbits.static.module import StaticModule
from fewbits.static.onnx_writing import to_onnx
from fewbits.static.quantizing import quantize
from fewbits.static.record import Record

__all__ = ["Record", "StaticModule", "quantize", "to_onnx"]
