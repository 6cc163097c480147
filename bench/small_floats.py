"""Errors of small floats under the scales that are searched for, beside the rule of each format's authors.

    python bench/small_floats.py [DIRECTORY ...]

Squared error over that of the rule, summed over every matrix of a safetensors directory (the pocket model unless others
are named) and for random matrices, normal and of Student's t of 3. Below 1 the search is nearer. "weighted" gives the
columns importance from one lognormal draw; the rule does not look at it. The rule is that of the slow reference in
tests/references/small_floats.py: amax over the largest number; OCP's power of two; NVIDIA's scale to 6.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file

from fewbits import formats
from fewbits.kernels.fields import decode_fields, encode_fields

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "tests"))

textbook = import_module("references.small_floats").textbook

ROWS, COLS = 256, 1024
Floats = npt.NDArray[np.float32]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path, default=[ROOT / "examples" / "models" / "pocket-llama"])
    kinds = {model.name: matrices(model) for model in parser.parse_args().models} | random()
    print(f"{'format':20}" + "".join(f"{kind:>16}{'weighted':>10}" for kind in kinds))
    for name in formats.members():
        if getattr(formats.get(name), "native", None) is None:
            continue
        figures = [(ratio(name, some, False), ratio(name, some, True)) for some in kinds.values()]
        print(f"{name:20}" + "".join(f"{plain:16.3f}{weighted:10.3f}" for plain, weighted in figures), flush=True)


def matrices(model: Path) -> list[Floats]:
    """Up to 256 rows of every matrix whose width is a multiple of 128."""
    found = [w for file in sorted(model.glob("*.safetensors")) for w in load_file(file).values()]
    return [w[:ROWS].float().numpy() for w in found if w.ndim == 2 and w.shape[1] % 128 == 0]


def random() -> dict[str, list[Floats]]:
    """Normal and heavy-tailed numbers of the size of weights."""
    drawn = np.random.default_rng(20261121)
    normal, heavy = drawn.standard_normal((ROWS, COLS)), drawn.standard_t(3, (ROWS, COLS))
    return {"normal": [(0.02 * normal).astype(np.float32)], "student t of 3": [(0.02 * heavy).astype(np.float32)]}


def ratio(name: str, some: list[Floats], weighted: bool) -> float:
    """Our weighted squared error over that of the rule."""
    format, ours, theirs = formats.get(name), 0.0, 0.0
    for w in some:
        importance = np.exp(np.random.default_rng(w.shape[1]).standard_normal(w.shape[1])).astype(np.float32)
        given = importance if weighted else None
        encoded = encode_fields(format, np.ascontiguousarray(w).view(np.uint8), "F32", importance=given)
        exact, weights = w.astype(np.float64), importance if weighted else np.ones_like(importance)
        ours += float((weights * (decode_fields(format, encoded.fields, w.shape) - exact) ** 2).sum())
        theirs += float((weights * (textbook(name, exact) - exact) ** 2).sum())
    return ours / theirs


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
