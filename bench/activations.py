"""What rounding activations to 8 bits costs, and what SmoothQuant and LLM.int8() save of it: perplexities on a text.

    python bench/activations.py MODEL_DIR --text FILE [--calibration FILE] [--recipes w8a8 smoothquant ...]

Every directory is made by `fewbits quantize` from MODEL_DIR and scored on the same windows, the second half of each, as
`fewbits compare` does: inputs are rounded with the codes and scales of the 8-bit kernels. The ratio is that of the
perplexities to the model as it is, with a paired bootstrap over windows (percentiles, 95%).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

import fewbits
from calibrated import DRAWS, Floats, Ratio
from fewbits import planning
from fewbits.choosing import choose
from fewbits.evaluation.model_files import LoadedModel, open_model
from fewbits.evaluation.text import Ids, evaluation_windows, read_text, scored_positions

RECIPES = ("w8a8_tensor", "w8a8", "smoothquant", "llm_int8", "llm_int8_batch")


def losses(models: Mapping[str, LoadedModel], windows: Ids) -> dict[str, Floats]:
    """Mean negative log-likelihood per window of each model, in nats per token."""
    scored = scored_positions(windows.shape[1])
    found: dict[str, list[float]] = {name: [] for name in models}
    with torch.inference_mode():
        for window in windows:
            ids = torch.from_numpy(window)
            targets = ids[scored.start + 1 : scored.stop + 1]
            for name, model in models.items():
                logits = model.logits(ids, scored.start)[: len(scored)].double()
                found[name].append(float(torch.nn.functional.cross_entropy(logits, targets)))
    return {name: np.array(each) for name, each in found.items()}


def perplexity_ratio(loss: Floats, original: Floats, seed: int = 0) -> Ratio:
    """The ratio of perplexities, with percentiles over draws of windows.

    >>> perplexity_ratio(np.array([1.0, 2.0]), np.array([1.0, 2.0]))
    Ratio(value=1.0, low=1.0, high=1.0)
    """
    draws = np.random.default_rng(seed).integers(0, len(loss), (DRAWS, len(loss)))
    low, high = np.exp(np.percentile((loss - original)[draws].mean(1), [2.5, 97.5]))
    return Ratio(float(np.exp((loss - original).mean())), float(low), float(high))


def make(options: argparse.Namespace, recipe: str, folder: Path) -> Path:
    """The directory of a recipe."""
    output = folder / recipe
    if not output.exists():
        text = options.calibration if reads_text(recipe) else None
        fewbits.quantize(options.model, output, to=recipe, calibration=text, windows=options.windows)
    return output


def reads_text(recipe: str) -> bool:
    """Whether a recipe's own method looks at text."""
    return choose(planning.get(recipe), None, text=False).reads_text


def main() -> int:
    """Print the table."""
    options = parse()
    torch.set_num_threads(options.threads)
    original = open_model(options.model)
    ids = original.vocabulary().encode(read_text(options.text).content)
    start = original.vocabulary().start_token
    windows = evaluation_windows(ids, options.context, start, max_tokens=options.max_tokens, source=str(options.text))
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        paths = {recipe: make(options, recipe, folder) for recipe in options.recipes}
        models = {"source": original.load(), **{name: open_model(path).load() for name, path in paths.items()}}
        files = {"source": options.model, **paths}
        bits = {name: fewbits.inspect(path).bits_per_weight for name, path in files.items()}
        found = losses(models, windows)
    print(f"{options.text.name}: {len(windows)} windows of {options.context} tokens, the second half of each scored")
    print(f"{'recipe':14} {'bits/weight':>11} {'perplexity':>10} {'ratio':>8} {'95% interval':>20}")
    for name, loss in found.items():
        ratio = perplexity_ratio(loss, found["source"])
        interval = f"{ratio.low:.4f} to {ratio.high:.4f}"
        print(f"{name:14} {bits[name]:11.3f} {np.exp(loss.mean()):10.3f} {ratio.value:8.4f} {interval:>20}")
    return 0


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL_DIR")
    parser.add_argument("--text", type=Path, required=True, help="text to measure on")
    parser.add_argument("--calibration", type=Path, help="text to calibrate on; our own mix without it")
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), metavar="RECIPE")
    parser.add_argument("--windows", type=int, default=64, help="windows of calibration text (default: %(default)s)")
    parser.add_argument("--context", type=int, default=256, help="tokens of a window (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=16384, help="tokens of the text (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave the directories here, and take those that are")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
