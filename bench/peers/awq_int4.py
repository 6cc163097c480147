"""llm-compressor's AWQ int4 (W4A16: symmetric, groups of 128 columns), decoded, for bench/calibrated.py.

    python bench/peers/awq_int4.py MODEL_DIR TOKENS.npy OUT_DIR

Everything else is as the tool sets it: 20 steps of the grid, weights and activations in the scales.
AWQ multiplies columns and puts the inverse into the norm or matrix before; it runs in float32, so that what it writes
back is not rounded twice.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch
from compressed_tensors.quantization.lifecycle.forward import dequantize, quantize
from datasets import Dataset
from decoded import parse, read_windows, write
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.awq import AWQModifier
from llmcompressor.pipelines.cache import IntermediatesCache
from transformers import AutoModelForCausalLM

TOGETHER = 8
"""Windows of a forward; all are as long, so that nothing is padded."""


def main() -> int:
    """Quantize, decode, write."""
    options = parse(__doc__)
    model, seconds = run(options)
    print(f"quantization took {seconds:.1f} s", flush=True)
    layers = {f"{name}.weight": m for name, m in model.named_modules() if hasattr(m, "weight_scale")}
    before: Mapping[str, torch.Tensor] = {name: layer.weight for name, layer in layers.items()}
    folded = {name: tensor for name, tensor in model.named_parameters() if tensor.dim() == 1 and "norm" in name}
    write(options, {name: decode(layer) for name, layer in layers.items()}, before=before, folded=folded)
    return 0


def run(options: argparse.Namespace) -> tuple[torch.nn.Module, float]:
    """The model with scaled weights and the scales of their codes, and the seconds that it took."""
    windows = read_windows(options.tokens)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    data = Dataset.from_dict({"input_ids": windows.tolist(), "attention_mask": torch.ones_like(windows).tolist()})
    recipe = [AWQModifier(), QuantizationModifier(targets=["Linear"], scheme="W4A16", ignore=["lm_head"])]
    if not torch.accelerator.is_available():  # the tool pins its cache for one and stops where there is none
        IntermediatesCache.pin_memory = lambda *_: None
    started = time.perf_counter()
    oneshot(
        model=model,
        dataset=data,
        recipe=recipe,
        batch_size=TOGETHER,
        max_seq_length=windows.shape[1],
        num_calibration_samples=len(windows),
    )
    return model, time.perf_counter() - started


@torch.no_grad()
def decode(layer: Any) -> torch.Tensor:
    """A layer's matrix from the codes and scales that the tool would pack."""
    how = layer.quantization_scheme.weights
    scale, zero = layer.weight_scale, layer.weight_zero_point
    codes = quantize(x=layer.weight, scale=scale, zero_point=zero, args=how, dtype=torch.int8)
    matrix: torch.Tensor = dequantize(x_q=codes, scale=scale, zero_point=zero, args=how, dtype=torch.float32)
    return matrix


if __name__ == "__main__":
    sys.exit(main())
