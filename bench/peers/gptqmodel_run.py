"""GPTQModel on windows of tokens, timed; in bfloat16, which the tool takes on every CPU, or in float32."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from gptqmodel import GPTQModel, QuantizeConfig
from gptqmodel.models import BaseQModel


def quantize(folder: Path, windows: torch.Tensor, dtype: str = "bfloat16") -> tuple[BaseQModel, float]:
    """The tool's model, and the seconds from tokens to packed matrices; loading the model is not in them."""
    how = QuantizeConfig(bits=4, group_size=128, sym=True)
    model = GPTQModel.load(str(folder), how, device="cpu", dtype=getattr(torch, dtype))
    if model.model.dtype != getattr(torch, dtype):
        raise SystemExit(f"the tool loaded the model as {model.model.dtype}, not as {dtype}.")
    data = [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in windows]
    started = time.perf_counter()
    model.quantize(data, batch_size=1)
    return model, time.perf_counter() - started
