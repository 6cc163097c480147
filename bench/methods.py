"""Time of GPTQ on one layer of a Llama, per format: each matrix, the layer, and what is left of the objective.

    python bench/methods.py [--formats NAME ...] [--threads 2] [--hidden 2048] [--ffn 5632] [--kv 256] [--torch-rows 64]

Random weights, and inputs whose columns depend on each other and are of unlike size; the shapes are those of a Llama of
1.1 billion parameters. Processor time of all threads together, which on an idle machine is that many times the time on
the wall: per matrix, the Hessian's factor made before; "layer" is all seven matrices and the three factors. "times
torch" is how much longer the same takes without native codecs, in one thread, on the first rows of the query's matrix.
"of nearest" is tr(E H E^T) over that of codes rounded to nearest under parameters that are fitted by importance.
`--order` says which columns are rounded first.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch

from fewbits import formats, kernels
from fewbits.formats.overrides import encode
from fewbits.methods.gptq import GPTQ, importance_of, objective
from fewbits.qtensor import QTensor

FIELDS = ("int4_g128_sym_f16", "uint4_g128_asym_f16", "nf4_g64", "mxfp4", "fp8_e4m3_row")
ROWS = ("Q4_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "IQ3_S", "IQ2_XS", "IQ1_S")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", nargs="+", default=FIELDS + ROWS, metavar="NAME")
    parser.add_argument("--order", default="storage")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--ffn", type=int, default=5632)
    parser.add_argument("--kv", type=int, default=256)
    parser.add_argument("--torch-rows", type=int, default=64)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    hidden, ffn = (Inputs(hessian_of(cols, seed)) for seed, cols in enumerate((args.hidden, args.ffn)))
    shapes = {"q, o": (args.hidden, hidden, 2), "k, v": (args.kv, hidden, 2), "gate, up": (args.ffn, hidden, 2)}
    matrices = {name: Matrix(*shape) for name, shape in {**shapes, "down": (args.hidden, ffn, 1)}.items()}
    print(f"{kernels.isa()}, {args.threads} threads; seconds of processors per matrix")
    titles = [*matrices, "factors", "layer", "times torch", "of nearest"]
    print(f"{'format':22}" + "".join(f"{title:>13}" for title in titles))
    for name in args.formats:
        figures = measured(GPTQ(order=args.order), name, matrices, args.torch_rows)
        print(f"{name:22}" + "".join(f"{figure:>13.3f}" for figure in figures), flush=True)


@dataclass
class Inputs:
    """What reaches a matrix."""

    hessian: torch.Tensor

    def stats(self, method: GPTQ, name: str) -> tuple[dict[str, Any], float]:
        """Statistics with the factor for a format, and the time that it took."""
        stats = dict(method.prepare({"hessian": self.hessian}))
        seconds, _ = timed(lambda: stats["factor"].of(formats.get(name)))
        return stats, seconds


@dataclass
class Matrix:
    """A matrix of the layer: its rows, its inputs, and how often the layer has one of its kind."""

    rows: int
    inputs: Inputs
    times: int

    def weights(self) -> torch.Tensor:
        """Random ones (rows, cols)."""
        drawn = torch.Generator().manual_seed(self.rows)
        return 0.02 * torch.randn(self.rows, len(self.inputs.hessian), generator=drawn)


def measured(method: GPTQ, name: str, matrices: dict[str, Matrix], torch_rows: int) -> list[float]:
    """The figures of a row of the table."""
    format, seconds, left, factors, layer = formats.get(name), [], [], 0.0, 0.0
    stats = {}
    for inputs in (matrices["q, o"].inputs, matrices["down"].inputs):
        stats[id(inputs)], took = inputs.stats(method, name)
        factors += took if inputs is matrices["down"].inputs else 3 * took  # q, k, v; o; gate, up
    for matrix in matrices.values():
        w, given = matrix.weights(), stats[id(matrix.inputs)]
        took, q = timed(lambda: method.solve(w, format, given))  # noqa: B023 - called at once
        plain = QTensor(format, *encode(format, w, importance_of(given["hessian"])))
        left.append(total(w, q, given) / total(w, plain, given))
        seconds.append(took)
        layer += matrix.times * took
    w, given = matrices["q, o"].weights()[:torch_rows], stats[id(matrices["q, o"].inputs)]
    times = in_one_thread(lambda: times_torch(lambda: method.solve(w, format, given)))
    return [*seconds, factors, layer + factors, times, statistics.geometric_mean(left)]


def times_torch(solve: Callable[[], QTensor]) -> float:
    """How much longer it takes without native codecs."""
    native, _ = timed(solve)
    with without_native():
        slow, _ = timed(solve)
    return slow / native


@contextmanager
def without_native() -> Iterator[None]:
    """As on a device that has no native codecs."""
    names = ("fit", "encode", "round_columns")
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(mock.patch(f"fewbits.kernels.overrides.{name}", return_value=None))
        yield


def in_one_thread(function: Callable[[], float]) -> float:
    """What it returns, while torch has one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return function()
    finally:
        torch.set_num_threads(before)


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Processor time in seconds, and what it returned."""
    start = time.process_time()
    result = function()
    return time.process_time() - start, result


def total(w: torch.Tensor, q: QTensor, stats: dict[str, Any]) -> float:
    """tr(E H E^T)."""
    return float(objective(w, q, stats["hessian"]).sum())


def hessian_of(cols: int, seed: int) -> torch.Tensor:
    """Of inputs with 64 directions in common, columns of unlike size."""
    drawn = torch.Generator().manual_seed(seed)
    common = torch.randn(4 * cols, 64, generator=drawn) @ torch.randn(64, cols, generator=drawn) / 8
    x = (torch.randn(4 * cols, cols, generator=drawn) + common) * torch.randn(cols, generator=drawn).mul(0.5).exp()
    return x.T @ x / len(x)


if __name__ == "__main__":
    main()
