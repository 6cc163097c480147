"""Errors of our encoders beside those of ggml's own, per format: the table that bench/quality.py prints.

Squared errors, ours over ggml's, in the weighting that ggml itself minimises for the format
(tests/references/searches.py states it for every one), summed over the matrices of a model or over a random one:

plain     no importance; where ggml refuses to work without, an even one for both
random    by an importance vector drawn from chi squared of 1, in ggml's formula for it; where ggml does not look at
          importance, in the importance itself
uniform   by an importance of 1 for every column
worst     the largest of the three for any single matrix
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt

from fewbits import formats, kernels

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Matrices = Mapping[str, Floats]

TESTS = Path(__file__).parents[1] / "tests"
KINDS = ("plain", "random", "uniform")
BAR = 1.00
_SAME = 1e-9
"""Equal errors, summed in another order."""


@dataclass
class Ratios:
    """Ours over ggml's of one format on one set of matrices, by kind of importance."""

    total: dict[str, float] = field(default_factory=dict)
    worst: float = 0.0

    def add(self, kind: str, errors: Iterable[tuple[float, float]]) -> None:
        """Take (ours, ggml's) of every matrix."""
        pairs = list(errors)
        self.total[kind] = _ratio(sum(ours for ours, _ in pairs), sum(theirs for _, theirs in pairs))
        self.worst = max(self.worst, *(_ratio(ours, theirs) for ours, theirs in pairs))

    def good(self) -> bool:
        """Whether the bar is met by all sums; NaN, from nothing measured, does not."""
        return all(ratio <= BAR + _SAME for ratio in self.total.values())


def _ratio(ours: float, theirs: float) -> float:
    """What both store without error is equally good."""
    return 1.0 if ours == theirs else ours / theirs if theirs else float("inf")


@cache
def _module(name: str) -> ModuleType:
    if str(TESTS) not in sys.path:
        sys.path.append(str(TESTS))
    return import_module(name)


def weigh(name: str, w: npt.NDArray[np.floating], importance: Floats | None = None) -> Doubles:
    """The weights (rows, cols) in which ggml measures errors of the format `name`."""
    exact = w.astype(np.float64)
    by = None if importance is None else importance.astype(np.float64)
    found: Doubles = _module("references.searches").weights(name, exact, by)
    return found


def measured(name: str, w: Floats, importance: Floats | None) -> tuple[float, float]:
    """Weighted squared errors of one matrix (rows, cols): ours and ggml's."""
    ggml = _module("peers.ggml")
    size = formats.row_bytes(formats.get(name), w.shape[1])
    ours = kernels.encode_rows(
        name,
        np.ascontiguousarray(w).view(np.uint8),
        "F32",
        size,
        importance=importance if name in kernels.weighted_formats() else None,
    ).stored
    by, exact = weigh(name, w, importance), w.astype(np.float64)
    stored = ours, ggml.encode(name, w, importance)
    a, b = (float(np.sum(by * (ggml.decode(name, each) - exact) ** 2)) for each in stored)
    return a, b


def importance(kind: str, cols: int) -> Floats | None:
    """The vector (cols,) of one kind."""
    if kind == "plain":
        return None
    if kind == "uniform":
        return np.ones(cols, np.float32)
    return (np.random.default_rng(1).chisquare(1, cols) + 0.01).astype(np.float32)


def compare(name: str, matrices: Matrices) -> Ratios:
    """Ours beside ggml's on the matrices whose width the format can hold."""
    span, found = formats.get(name).span, Ratios()
    fitting = [w for w in matrices.values() if w.shape[1] % span == 0]
    for kind in KINDS if fitting else ():
        found.add(kind, (measured(name, w, importance(kind, w.shape[1])) for w in fitting))
    return found


def model_matrices(directory: Path, rows: int) -> Matrices:
    """At most `rows` rows of every matrix of a safetensors directory, evenly spaced."""
    from safetensors.torch import load_file

    tensors = {k: w for file in sorted(directory.glob("*.safetensors")) for k, w in load_file(file).items()}
    chosen = {k: w[:: -(-len(w) // rows)] for k, w in tensors.items() if w.ndim == 2}
    return {k: np.ascontiguousarray(w.float().numpy()) for k, w in chosen.items()}


def heavy_tailed() -> Matrices:
    """Student's t of 3, of the size of a model's weights."""
    drawn = 0.02 * np.random.default_rng(20261121).standard_t(3, (256, 1024))
    return {"student t of 3": drawn.astype(np.float32)}


def known() -> tuple[str, ...]:
    """The formats that both sides encode; () without llama-cpp-python, whose library does ggml's part."""
    try:
        found: tuple[str, ...] = _module("peers.ggml").FORMATS
        import_module("llama_cpp")
    except ImportError:
        return ()
    return found


def print_table(models: Iterable[Path], rows: int) -> bool:
    """Print the ratios of every format; whether all meet the bar."""
    sets = {model.name: model_matrices(model, rows) for model in models} | {"student t of 3": heavy_tailed()}
    columns = (*KINDS, "worst")
    print(f"{'':8}" + "".join(f"{name:>{9 * len(columns)}}" for name in sets), flush=True)
    print(f"{'format':8}" + "".join(f"{column:>9}" for column in columns * len(sets)), flush=True)
    good = True
    for name in known():
        found = [compare(name, matrices) for matrices in sets.values()]
        good = good and all(ratios.good() for ratios in found)
        figures = (value for ratios in found for value in (*(ratios.total.get(k, np.nan) for k in KINDS), ratios.worst))
        print(f"{name:8}" + "".join(f"{value:9.4f}" for value in figures), flush=True)
    return good
