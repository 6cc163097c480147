"""Speed of quantized linear layers in torch, beside torch's own bfloat16 and float32 and other packages' layers.

    python bench/layers.py [--batches 1 256] [--only NAME ...] [--rows 14336] [--cols 4096] [--threads 2] [--rounds 5]
    python bench/layers.py --generate WORK_DIR [--tokens 16] [--threads 2] [--rounds 3]

Every row has as many distinct layers as 512 MB of its weights fill and takes them in turn, so that none is in a cache
when its turn comes; what a layer makes of its weights at first use is made before. Rows take turns in a round, every
other round backwards; a ratio is the median of the rounds' ratios, with the lowest and the highest.
bitsandbytes' and torchao's rows are there where the packages are. --generate lets one transformers loop write with a
random Llama of 1.1 B parameters in bfloat16, then with its matrices in nf4.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

import fewbits
from fewbits import kernels
from random_llama import ONE_BILLION, make_llama

DISTINCT = 512 << 20
"""Bytes of weights that are taken in turn."""
PRODUCTS = 30
"""Calls of a row in a round with one token; with many, one call is long enough."""

Call = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Row:
    """Layers of one kind: how many are distinct, and one call."""

    name: str
    calls: tuple[Call, ...]

    def seconds(self, x: torch.Tensor, turn: int) -> float:
        """Seconds of one call, from layer `turn` on."""
        count = PRODUCTS if len(x) == 1 else 1
        began = time.perf_counter()
        for at in range(count):
            self.calls[(turn + at) % len(self.calls)](x)
        return (time.perf_counter() - began) / count


Make = Callable[[torch.Tensor], Iterator[tuple[Call, int]]]
"""Weights (rows, cols) bfloat16 -> distinct layers without end, each with the bytes of its weights."""


def plain(dtype: torch.dtype) -> Make:
    """Torch's own layer with weights of a type."""

    def make(w: torch.Tensor) -> Iterator[tuple[Call, int]]:
        while True:
            own = w.to(dtype, copy=True)
            yield partial(_multiplied, own), own.nbytes

    return make


def _multiplied(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.linear(x.to(w.dtype), w)


def copies(first: Callable[[torch.Tensor], tuple[torch.nn.Module, int]]) -> Make:
    """Copies of one layer."""

    def make(w: torch.Tensor) -> Iterator[tuple[Call, int]]:
        layer, size = first(w)
        while True:
            yield copy.deepcopy(layer), size

    return make


def of_bitsandbytes(w: torch.Tensor) -> tuple[torch.nn.Module, int]:
    """Linear4bit with nf4."""
    nn: Any = import_module("bitsandbytes.nn")
    layer = nn.Linear4bit(w.shape[1], w.shape[0], bias=False, quant_type="nf4", compute_dtype=torch.bfloat16)
    layer.weight = nn.Params4bit(w.clone(), requires_grad=False, quant_type="nf4")
    return layer.to("cpu"), w.numel() // 2


def of_torchao(w: torch.Tensor) -> tuple[torch.nn.Module, int]:
    """Weights of 8 bits, inputs as they are."""
    torchao: Any = import_module("torchao.quantization")
    layer = torch.nn.Sequential(torch.nn.Linear(w.shape[1], w.shape[0], bias=False, dtype=torch.bfloat16))
    layer[0].weight.data = w.clone()
    torchao.quantize_(layer, torchao.Int8WeightOnlyConfig())
    return layer, w.numel()


PEERS: Mapping[str, tuple[Make, str]] = {
    "torch-bf16": (plain(torch.bfloat16), "torch"),
    "torch-f32": (plain(torch.float32), "torch"),
    "bitsandbytes-nf4": (copies(of_bitsandbytes), "bitsandbytes"),
    "torchao-int8": (copies(of_torchao), "torchao"),
}
"""Row -> what makes layers, and the package that it needs."""
FORMATS = {"nf4": "nf4_g64", "int4_g128": "int4_g128_sym_f16", "q4_k": "Q4_K", "int8": "int8_row_sym"}
"""Rows of ours, each with inputs of 16 bits and once more with 8 (-a8)."""
NAMES = [*PEERS, *(name + more for name in FORMATS for more in ("", "-a8"))]
BASES = ("torch-bf16", "bitsandbytes-nf4")


def filled(make: Iterator[tuple[Call, int]], cols: int) -> tuple[Call, ...]:
    """As many distinct layers as fill memory, each called once."""
    calls, filled = [], 0
    while filled < DISTINCT:
        call, size = next(make)
        call(torch.ones(1, cols, dtype=torch.bfloat16))
        calls.append(call)
        filled += size
    return tuple(calls)


def ours(w: torch.Tensor, format_name: str) -> Iterator[tuple[Call, int]]:
    """Packed matrices, which are multiplied as a layer does."""
    layer = torch.nn.Linear(w.shape[1], w.shape[0], bias=False, dtype=torch.bfloat16)
    layer.weight.data = w
    fewbits.quantize(layer, format_name)
    while True:
        other: Any = copy.deepcopy(layer)
        yield other, other.matrix.bytes


def make_rows(names: Sequence[str], w: torch.Tensor) -> list[Row]:
    """The rows; those of one format share their layers."""
    rows = [Row(name, filled(PEERS[name][0](w), w.shape[1])) for name in PEERS if name in names]
    for name, format_name in FORMATS.items():
        if name in names or f"{name}-a8" in names:
            layers: Any = filled(ours(w, format_name), w.shape[1])
            rounded = [lambda x, layer=layer: layer.matrix.multiply(x, "int8_token") for layer in layers]
            rows += [each for each in (Row(name, layers), Row(f"{name}-a8", tuple(rounded))) if each.name in names]
    return rows


def measured(rows: list[Row], x: torch.Tensor, rounds: int) -> dict[str, list[float]]:
    """Seconds of each row, round by round."""
    seconds: dict[str, list[float]] = {row.name: [] for row in rows}
    for turn in range(rounds):
        for row in rows if turn % 2 == 0 else reversed(rows):
            seconds[row.name].append(row.seconds(x, turn * PRODUCTS))
    return seconds


def ratio(base: list[float], own: list[float]) -> str:
    """How many times as fast: the median, the lowest and the highest of all rounds."""
    all_rounds = sorted(b / o for b, o in zip(base, own, strict=True))
    return f"{statistics.median(all_rounds):8.2f} ({all_rounds[0]:.2f} to {all_rounds[-1]:.2f})"


def layers(options: argparse.Namespace) -> Iterator[str]:
    """The table's lines."""
    w = torch.randn(options.rows, options.cols, generator=torch.Generator().manual_seed(0)).mul_(0.02).bfloat16()
    rows = make_rows([name for name in options.only if name not in PEERS or find_spec(PEERS[name][1])], w)
    names = [row.name for row in rows]
    bases = [name for name in BASES if name in names]
    yield f"{kernels.isa()}, {options.threads} threads, {options.rows} x {options.cols}, {options.rounds} rounds"
    for batch in options.batches:
        seconds = measured(rows, torch.randn(batch, options.cols).bfloat16(), options.rounds)
        yield f"{batch} token(s)".ljust(20) + "ms".rjust(10) + "".join(f"over {base}".rjust(28) for base in bases)
        for name in names:
            ratios = "".join(ratio(seconds[base], seconds[name]).rjust(28) for base in bases)
            yield name.ljust(20) + f"{1000 * statistics.median(seconds[name]):10.2f}" + ratios


def generate(options: argparse.Namespace) -> Iterator[str]:
    """Tokens per second of one transformers loop, bfloat16 and nf4 in turn."""
    transformers: Any = import_module("transformers")
    folder = make_llama(options.generate / "llama-1.1b", ONE_BILLION)
    models: dict[str, Any] = {}
    for name in ("bf16", "nf4"):
        models[name] = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    fewbits.quantize(models["nf4"], "nf4_g64", tensors={"token_embd": "BF16"})
    prompt = torch.arange(16)[None] + 300
    rates: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(options.rounds + 1):  # the first one is not counted
        for name in models if turn % 2 == 0 else reversed(models):
            began = time.perf_counter()
            more = {"max_new_tokens": options.tokens, "min_new_tokens": options.tokens, "do_sample": False}
            models[name].generate(prompt, attention_mask=torch.ones_like(prompt), pad_token_id=0, **more)
            rates[name] += [options.tokens / (time.perf_counter() - began)] if turn else []
    seconds = {name: [1 / rate for rate in found] for name, found in rates.items()}
    for name, found in rates.items():
        over = ratio(seconds["bf16"], seconds[name]).strip()
        yield f"{name}: {statistics.median(found):.2f} tokens/s, over bf16 {over}"


def main() -> None:
    """Print the table, or what generates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 256])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=14336)
    parser.add_argument("--cols", type=int, default=4096)
    parser.add_argument("--only", nargs="+", default=NAMES, choices=NAMES, metavar="NAME")
    parser.add_argument("--generate", type=Path, metavar="WORK_DIR")
    parser.add_argument("--tokens", type=int, default=16)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    for line in generate(options) if options.generate else layers(options):
        print(line, flush=True)


if __name__ == "__main__":
    main()
