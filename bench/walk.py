"""Time and memory of calibrated quantization per decoder layer, on a random Llama's first layers.

    python bench/walk.py WORK_DIR [--to int4_g128_sym_f16 Q4_K] [--method gptq] [--windows 32] [--layers 2]
                                  [--threads 2]

The shape is that of a model of 1.1 B parameters; embedding and head stay as they are. The seconds are those of the
whole call, from tokens to a verified file, the guard included, and `walk` those of the walk's parts, wall clock. A
call on a model of one small layer goes before it, not in them, so that what is loaded once is there. What GPTQModel
takes for the same layers and windows, `bench/peers/gptqmodel_layers.py` says: run both when nothing else runs.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import fewbits
from fewbits.calibrated import beginning, judging, layers, solving
from fewbits.calibrated.ground import Ground
from random_llama import ONE_BILLION, Shape, make_llama

SMALL = Shape(hidden=256, layers=1, ffn=512, heads=4, kv_heads=2, vocab=32000)
KEPT = {"token_embd": "BF16", "output": "BF16"}

PARTS: dict[str, tuple[Any, str]] = {
    "begin": (beginning, "_keep_reference"),
    "measure": (layers, "_measure"),
    "solve": (layers, "solve"),
    "factor": (layers, "_stats"),
    "errors": (solving, "_energies"),
    "run again": (Ground, "through"),
    "judge": (judging, "_compare"),
}
"""What is timed: name -> where it is looked up. Errors are a part of solve."""


def main() -> int:
    """Print the seconds of each format."""
    options = parse()
    print(f"load average {os.getloadavg()[0]:.1f}, {options.threads} threads", flush=True)
    shape = replace(ONE_BILLION, layers=options.layers)
    model = make_llama(options.folder / f"model-{options.layers}", shape)
    small = make_llama(options.folder / "model-small", SMALL)
    for recipe in options.to:
        quantize(small, options, recipe, windows=2)
        with timed() as spent:
            record, seconds = quantize(model, options, recipe, windows=options.windows)
        parts = ", ".join(f"{name} {spent[name]:.1f}" for name in PARTS)
        print(
            f"{recipe}: {seconds:.1f} s for {options.layers} layers on {options.windows} windows of 512 tokens: "
            f"{seconds / options.layers:.1f} s per layer; peak {record.peak_memory / 2**30:.2f} GiB; "
            f"load average {os.getloadavg()[0]:.1f}\n  walk: {parts}",
            flush=True,
        )
    return 0


def quantize(model: Path, options: argparse.Namespace, recipe: str, *, windows: int) -> tuple[Any, float]:
    """The record, and the seconds of the call."""
    output = options.folder / ("out.gguf" if recipe.upper() == recipe else "out")
    asked = {"method": options.method, "windows": windows, "threads": options.threads, "tensors": KEPT, "force": True}
    start = time.perf_counter()
    record = fewbits.quantize(model, output, to=recipe, **asked)
    return record, time.perf_counter() - start


@contextmanager
def timed() -> Iterator[dict[str, float]]:
    """Seconds spent in each part while the block runs."""
    spent: dict[str, float] = defaultdict(float)
    patches = [
        patch.object(owner, name, clocked(getattr(owner, name), part, spent)) for part, (owner, name) in PARTS.items()
    ]
    for each in patches:
        each.start()
    try:
        yield spent
    finally:
        for each in patches:
            each.stop()


def clocked(function: Callable[..., Any], part: str, spent: dict[str, float]) -> Callable[..., Any]:
    """`function`, whose seconds are added up."""

    def run(*arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            spent[part] += time.perf_counter() - start

    return run


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="WORK_DIR")
    parser.add_argument("--to", nargs="+", default=["int4_g128_sym_f16", "Q4_K"], metavar="FORMAT")
    parser.add_argument("--method", default="gptq")
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
