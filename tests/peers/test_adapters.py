"""Adapters among others: llama.cpp adds what peft does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fewbits
from fewbits.training import adapter_to_gguf, add_lora, save_adapter

llama_cpp = pytest.importorskip("llama_cpp")

TEXT = "The with statement is used to wrap the execution of a block with methods defined by a context manager."


def _logits(file: Path, ids: list[int], **options: Any) -> np.ndarray[Any, Any]:
    model = llama_cpp.Llama(str(file), n_ctx=256, n_threads=2, logits_all=True, verbose=False, **options)
    model.eval(ids)
    found: np.ndarray[Any, Any] = np.array(model.scores[: len(ids)], np.float64)
    return found


def test_llama_cpp_adds_the_adapter(pocket: Path, tmp_path: Path) -> None:
    """Heads are rotated in pairs there: a B whose rows had not moved would change other logits."""
    fewbits.quantize(pocket, tmp_path / "base.gguf", to="F32")
    base = fewbits.load(tmp_path / "base.gguf")
    model = add_lora(base, rank=4, alpha=8)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    save_adapter(model, tmp_path / "adapter")
    adapter_to_gguf(tmp_path / "adapter", tmp_path / "base.gguf", tmp_path / "adapter.gguf")

    ids = fewbits.load_tokenizer(pocket)(TEXT)["input_ids"]
    with torch.inference_mode():
        expected = model.eval()(torch.tensor([ids])).logits[0].double().numpy()
    plain = _logits(tmp_path / "base.gguf", ids)
    found = _logits(tmp_path / "base.gguf", ids, lora_path=str(tmp_path / "adapter.gguf"))

    scale = np.abs(expected).max()
    assert np.abs(found - expected).max() < 2e-2 * scale
    assert np.abs(plain - expected).max() > 0.2 * scale
