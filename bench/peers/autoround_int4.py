"""AutoRound's int4 (W4A16: symmetric, groups of 128 columns), decoded, for bench/calibrated.py.

    python bench/peers/autoround_int4.py MODEL_DIR TOKENS.npy OUT_DIR

Everything else is as the tool sets it: 200 iterations per layer, 8 windows each, learned ranges, bfloat16 arithmetic.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import torch
from auto_round import AutoRound
from decoded import parse, read_windows, write
from transformers import AutoTokenizer

TOGETHER = 8
"""Windows of a forward, the tool's own default."""


def main() -> int:
    """Quantize, decode, write."""
    options = parse(__doc__)
    model, seconds = quantize(options)
    print(f"quantization took {seconds:.1f} s", flush=True)
    write(options, {f"{name}.weight": decode(m) for name, m in model.named_modules() if hasattr(m, "scale")})
    return 0


def quantize(options: argparse.Namespace) -> tuple[torch.nn.Module, float]:
    """The model with the tool's weights, scales and zero points, and the seconds that it took."""
    windows = read_windows(options.tokens)
    parts = [windows[i : i + TOGETHER] for i in range(0, len(windows), TOGETHER)]
    tool = AutoRound(
        str(options.model),
        AutoTokenizer.from_pretrained(options.model),
        scheme="W4A16",
        dataset=[{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in parts],
        seqlen=windows.shape[1],
        nsamples=len(windows),
        device_map="cpu",
    )
    started = time.perf_counter()
    model, _ = tool.quantize()
    return model, time.perf_counter() - started


def decode(layer: Any) -> torch.Tensor:
    """A layer's matrix from the codes and scales that the tool would pack."""
    weight, scale, zero = layer.weight.float(), layer.scale.float(), layer.zp
    groups = weight.reshape(*scale.shape, -1)
    codes = (groups / scale[..., None]).round()
    zero = zero if isinstance(zero, int | float) else zero.float()[..., None]
    if int((codes + zero).min()) < 0 or int((codes + zero).max()) > 15:
        sys.exit("a code lies outside four bits.")
    matrix: torch.Tensor = (codes * scale[..., None]).reshape(weight.shape)
    return matrix


if __name__ == "__main__":
    sys.exit(main())
