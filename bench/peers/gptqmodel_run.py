"""GPTQModel on windows of tokens, timed."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from gptqmodel import GPTQModel, QuantizeConfig
from gptqmodel.models import BaseQModel


def quantize(folder: Path, windows: torch.Tensor) -> tuple[BaseQModel, float]:
    """The tool's model, and the seconds from tokens to packed matrices; loading the model is not in them."""
    model = GPTQModel.load(str(folder), QuantizeConfig(bits=4, group_size=128, sym=True), device="cpu")
    data = [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in windows]
    started = time.perf_counter()
    model.quantize(data, batch_size=1)
    return model, time.perf_counter() - started
