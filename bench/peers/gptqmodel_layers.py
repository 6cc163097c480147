"""GPTQModel's time per decoder layer on this machine, on a model cut down to its first layers.

    GPTQMODEL_CPU_WORKERS=2 python bench/peers/gptqmodel_layers.py MODEL_DIR --warm SMALL_DIR
                                                                   [--windows 32] [--layers 2] [--dtype float32]

MODEL_DIR is any Llama-like directory with one model.safetensors; bench/random_llama.py makes one of 1.1 B parameters.
The seconds are those of the tool's `quantize`, from tokens (random, windows of 512) to packed matrices: inputs caught,
forward, Hessians, rounding, packing, and the layer run again. A call on one layer of a small model goes before it, not
in them, so that what the tool loads and compiles once is there. The tool computes in bfloat16 unless --dtype says
float32, which processors without products of bfloat16 may be faster in.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from gptqmodel_run import quantize
from safetensors import safe_open
from safetensors.torch import save_file

LENGTH = 512

SMALLEST_VOCABULARY = 256
"""Ids below this are in every vocabulary."""


def main() -> int:
    """Print the seconds of each layer."""
    options = parse()
    torch.set_num_threads(options.threads)
    print(f"load average {os.getloadavg()[0]:.1f}, {options.threads} threads", flush=True)
    vocabulary = json.loads((options.model / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    windows = torch.randint(vocabulary, (options.windows, LENGTH), generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as temporary:
        if options.warm:
            warm = cut(options.warm, Path(temporary) / "warm", 1)
            quantize(warm, windows[:1] % SMALLEST_VOCABULARY, options.dtype)
        folder = cut(options.model, Path(temporary) / "cut", options.layers)
        _, seconds = quantize(folder, windows, options.dtype)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{seconds:.1f} s for {options.layers} layers on {options.windows} windows of {LENGTH} tokens: "
        f"{seconds / options.layers:.1f} s per layer; peak {peak:.2f} GiB; load average {os.getloadavg()[0]:.1f}"
    )
    return 0


def cut(model: Path, folder: Path, layers: int) -> Path:
    """A copy of the model with its first `layers` layers only."""
    folder.mkdir()
    for path in model.glob("*.json"):
        shutil.copyfile(path, folder / path.name)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": layers}), encoding="utf-8")
    with safe_open(model / "model.safetensors", framework="pt") as file:
        names = [name for name in file.keys() if layer_number(name) < layers]  # noqa: SIM118 - not a mapping
        save_file({n: file.get_tensor(n) for n in names}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def layer_number(name: str) -> int:
    """The layer that a tensor belongs to; -1 for what is outside of layers.

    >>> layer_number("model.layers.12.mlp.up_proj.weight"), layer_number("lm_head.weight")
    (12, -1)
    """
    parts = name.split(".")
    return int(parts[parts.index("layers") + 1]) if "layers" in parts else -1


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL_DIR")
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--warm", type=Path, metavar="SMALL_DIR", help="a small model to load and compile with")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
