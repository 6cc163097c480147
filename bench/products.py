"""Speed of the engine's products per type of weights, beside what memory and arithmetic allow on this machine.

    python bench/products.py [--types NAME ...] [--threads 2] [--repeats 7] [--tokens 256] [--rows 4096] [--cols 4096]

One token, as in generation: GB/s of weights as the kernel reads them (packed where it packs them), and what share that
is of the bandwidth of reading memory. --tokens at once, as in a prompt: GOP/s (a product and a sum are two), and the
share of what the instruction set adds up of products of bytes in registers. Rounding the inputs to 8 bits is part of
both. All threads work on matrices of their own, of which 512 MB and more are taken in turn, so that none is in a cache
when its turn comes; packing them is not timed. Plain numbers are multiplied as floats. What bounds a product is
measured right before it, round by round; a share is the median of the rounds' shares.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from fewbits import formats, kernels
from fewbits.kernels.module import native_module
from fewbits.speed.bandwidth import Memory

DISTINCT = 512 << 20
"""Bytes of weights that are taken in turn."""
SECONDS = 0.03
"""That multiplying in registers is measured for, at least."""
PLAIN = ("F32", "F16", "BF16")

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Product = Callable[[Bytes, Floats, Floats], object]


@dataclass(frozen=True)
class Weights:
    """Distinct matrices of one type, and what multiplies one of them."""

    matrices: Bytes
    """(matrices, bytes)"""
    product: Product
    stored: int
    """Bytes of one matrix in a file."""


def main() -> None:
    """Print the table."""
    known = sorted(native_module().packed_types()) + list(PLAIN)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", nargs="+", default=known, choices=known, metavar="NAME")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--cols", type=int, default=4096)
    args = parser.parse_args()
    with ThreadPoolExecutor(args.threads) as pool:
        bench = Bench(pool, Memory(args.threads), args.threads, args.repeats, args.rows, args.cols)
        print(f"{kernels.isa()}, {args.threads} threads, matrices of {args.rows} x {args.cols}")
        titles = ("bits", "packed", "GB/s", "of memory", "GOP/s", "of peak")
        print(f"{'type':10}" + "".join(f"{title:>11}" for title in titles))
        for name in args.types:
            weights = bench.weights(name)
            figures = (*bench.bits(weights), *bench.one_token(weights), *bench.prompt(weights, args.tokens))
            print(f"{name:10}" + "".join(f"{figure:11.2f}" for figure in figures), flush=True)


@dataclass(frozen=True)
class Bench:
    """Runs products in all threads, beside what bounds them."""

    pool: ThreadPoolExecutor
    memory: Memory
    threads: int
    repeats: int
    rows: int
    cols: int

    def weights(self, name: str) -> Weights:
        """Matrices of random numbers, packed where the engine packs them."""
        native = native_module()
        w = np.random.default_rng(0).normal(0, 0.02, (self.rows, self.cols)).astype(np.float32)
        width = formats.get(name).bits(1, self.cols) // 8
        stored = kernels.encode_rows(name, w.view(np.uint8), "F32", width).stored
        one, product = stored.reshape(-1), self._plain(name, width)
        if name not in PLAIN:
            one = np.empty(native.panels_size(name, self.rows, self.cols), np.uint8)
            native.pack_panels(name, stored, self.cols, one)
            product = lambda panels, x, out: native.multiply_panels(name, panels, x, out)
        count = max(DISTINCT // one.nbytes + 1, self.threads)
        return Weights(np.tile(one, (count, 1)), product, stored.nbytes)

    def _plain(self, name: str, width: int) -> Product:
        rows = self.rows
        return lambda w, x, out: native_module().multiply_plain(name, w.reshape(rows, width), x, out)

    def bits(self, weights: Weights) -> tuple[float, float]:
        """Bits of a weight in a file, and as the kernel reads it."""
        count = self.rows * self.cols
        return 8 * weights.stored / count, 8 * weights.matrices.shape[1] / count

    def one_token(self, weights: Weights) -> tuple[float, float]:
        """GB/s, and their share of the bandwidth of reading."""
        speeds, shares = [], []
        for _ in range(self.repeats):
            bandwidth = self.memory.bandwidth(3)
            speeds.append(weights.matrices.nbytes / self._seconds(weights, len(weights.matrices), 1))
            shares.append(speeds[-1] / bandwidth)
        return statistics.median(speeds) / 1e9, statistics.median(shares)

    def prompt(self, weights: Weights, tokens: int) -> tuple[float, float]:
        """GOP/s, and their share of what is possible in registers."""
        count = self.threads
        work = 2 * count * self.rows * self.cols * tokens
        speeds, shares = [], []
        for number in range(self.repeats):
            peak = self._peak()
            speeds.append(work / self._seconds(weights, count, tokens, first=number * count))
            shares.append(speeds[-1] / peak)
        return statistics.median(speeds) / 1e9, statistics.median(shares)

    def _seconds(self, weights: Weights, count: int, tokens: int, *, first: int = 0) -> float:
        """Seconds for products with `count` matrices, divided among the threads."""
        x = np.random.default_rng(1).normal(size=(tokens, self.cols)).astype(np.float32)
        outs = [np.empty((tokens, self.rows), np.float32) for _ in range(self.threads)]

        def part(thread: int) -> None:
            for number in range(first + thread, first + count, self.threads):
                weights.product(weights.matrices[number % len(weights.matrices)], x, outs[thread])

        began = time.perf_counter()
        list(self.pool.map(part, range(self.threads)))
        return time.perf_counter() - began

    def _peak(self) -> float:
        """Operations per second of products of bytes in registers, all threads together."""
        codes, x = np.arange(64, dtype=np.uint8) % 16, np.array([127, -3, 50, -127], np.int8)
        rounds, seconds, done = 1 << 14, 0.0, 0
        while seconds < SECONDS:
            rounds *= 4
            multiply = partial(native_module().multiply_registers, rounds, codes, x)
            began = time.perf_counter()
            done = sum(products for products, _ in self.pool.map(lambda _, go=multiply: go(), range(self.threads)))
            seconds = time.perf_counter() - began
        return 2 * done / seconds


if __name__ == "__main__":
    main()
