"""How near the engine is to transformers, architecture by architecture, on one set of decoded weights.

    python bench/architectures.py [--tokens 160]

Each model is a small random one of tests/references/engine_models.py (initializer_range = 0.1, no norm or bias at its
start value), written as a GGUF file, run by the engine and, on the decoded weights of that file, by transformers in
float32. Printed is the mean KL divergence over the tokens of a random text:

exact   BF16, attention three times as sharp as chance makes it, numbers as they are
Q8_0    the same with weights of 8 bits and calmer attention
int8    that file with numbers that are rounded to 8 bits in groups of 32, as products of packed weights want them

Of encoders it is the squared error of states over their squares.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import fewbits
from fewbits.engine import load
from fewbits.evaluation.gguf_model import GGUFModel
from fewbits.models import add_architecture

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "architectures" / "seed_oss.toml"
sys.path.append(str(ROOT / "tests"))
ROW = "| {:<17} | {:>8.1e} | {:>8.1e} | {:>8.1e} |"

Numbers = npt.NDArray[np.float32]


def divergence(expected: Numbers, found: Numbers) -> float:
    """Mean KL divergence of what follows each token, in nats."""
    a, b = (torch.from_numpy(each).double().log_softmax(-1) for each in (expected, found))
    return float((a.exp() * (a - b)).sum(-1).mean())


def error(expected: Numbers, found: Numbers) -> float:
    """Squared error over squares."""
    return float(np.square(expected - found, dtype=np.float64).sum() / np.square(expected, dtype=np.float64).sum())


def expected(path: Path, tokens: list[int], part: str) -> Numbers:
    """What transformers computes of the decoded weights: "logits" or "last_hidden_state"."""
    network = GGUFModel.open(path).load().network
    with torch.no_grad():
        return np.asarray(getattr(network(torch.tensor([tokens])), part)[0].float().numpy())


def decoder(path: Path, tokens: list[int], *, exact: bool) -> float:
    """The divergence of a model that continues text."""
    found = load(path, exact=exact).session(context=len(tokens)).evaluate_all(tokens)
    return divergence(expected(path, tokens, "logits"), found)


def encoder(path: Path, tokens: list[int], *, exact: bool) -> float:
    """The error of an encoder's states."""
    found = load(path, exact=exact).states([tokens])[0]
    return error(expected(path, tokens, "last_hidden_state"), found)


def measured(make: Callable[[Path], Path], calm: Callable[[Path], Path], tokens: list[int], score: Any) -> list[float]:
    """The three figures of a model."""
    with tempfile.TemporaryDirectory() as name:
        sharp, flat = Path(name, "sharp.gguf"), Path(name, "calm.gguf")
        directory = make(Path(name, "model"))
        fewbits.quantize(directory, sharp, to="BF16")
        fewbits.quantize(calm(directory), flat, to="Q8_0")
        return [score(sharp, tokens, exact=True), score(flat, tokens, exact=True), score(flat, tokens, exact=False)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=160)
    tokens = [int(n) for n in np.random.default_rng(5).integers(3, 290, parser.parse_args().tokens)]
    add_architecture(EXAMPLE)
    models, encoders = import_module("references.engine_models"), import_module("references.encoder_models")
    print("| architecture      |    exact |     Q8_0 |     int8 |\n|---|---|---|---|")
    for name, make in models.MODELS.items():
        print(ROW.format(name, *measured(make, models.calm, tokens, decoder)), flush=True)
    for name, maker in {"bert": "save_encoder", "roberta": "save_roberta", "nomic_bert": "save_nomic"}.items():
        figures = measured(getattr(encoders, maker), lambda directory: directory, tokens[:120], encoder)
        print(ROW.format(name, *figures), flush=True)


if __name__ == "__main__":
    main()
