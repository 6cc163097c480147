"""GPTQModel's int4 (symmetric, groups of 128 columns), decoded, for bench/calibrated.py.

    GPTQMODEL_CPU_WORKERS=2 python bench/peers/gptqmodel_int4.py MODEL_DIR TOKENS.npy OUT_DIR

Everything else is as the tool sets it: columns in an order of activations that leaves groups together, damping of 0.05.
It runs in float32, as ours does. The codes and scales are read from the files that the tool saves.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from decoded import parse, read_windows, shards, write
from gptqmodel_run import quantize
from safetensors.torch import load_file

ZERO = 8
"""The code of zero in a symmetric set of sixteen."""


def main() -> int:
    """Quantize, decode, write."""
    options = parse(__doc__)
    model, seconds = quantize(options.model, read_windows(options.tokens), "float32")
    print(f"quantization took {seconds:.1f} s", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        model.save(folder)
        saved = {name: tensor for path in shards(Path(folder)) for name, tensor in load_file(path).items()}
    layers = [name.removesuffix(".qweight") for name in saved if name.endswith(".qweight")]
    write(options, {f"{layer}.weight": decode(saved, layer) for layer in layers})
    return 0


def decode(saved: Mapping[str, torch.Tensor], layer: str) -> torch.Tensor:
    """A layer's matrix (rows, columns): four bits of the packed columns, less the code of zero, by a group's scale."""
    shifts = torch.arange(0, 32, 4, dtype=torch.int32)
    packed = saved[f"{layer}.qweight"]
    codes = (packed[:, None, :] >> shifts[None, :, None]) & 15
    zeros = (saved[f"{layer}.qzeros"][:, :, None] >> shifts) & 15
    if int(zeros.min()) != int(zeros.max()):
        sys.exit(f"{layer}: the zero points differ, which a symmetric set has not.")
    scales = saved[f"{layer}.scales"].float()[saved[f"{layer}.g_idx"].long()]
    return ((codes.reshape(-1, packed.shape[1]) - ZERO).float() * scales).T


if __name__ == "__main__":
    sys.exit(main())
