"""Ways to choose codes beside each other: the KL divergence of each, onto the same formats, over that of the first.

    python bench/ways.py MODEL_DIR --calibration FILE --text FILE [--recipes Q2_K int4_g128_sym_f16]
                         [--methods gptq gptq+learned]

Figures are as those of bench/calibrated.py: mean KL divergences from the model as it was, in nats per token, over the
second half of windows that do not overlap, all ways on the same windows, with a paired bootstrap over windows.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch

import fewbits
from calibrated import divergences, paired_bootstrap
from fewbits import formats
from fewbits.evaluation.model_files import open_model
from fewbits.evaluation.text import evaluation_windows, read_text


def in_fields(recipe: str) -> bool:
    """Whether GGUF lacks the format."""
    return recipe in formats.FORMATS and recipe not in formats.ROWS


def own_formats(recipe: str) -> dict[str, str]:
    """What is not of the recipe: mixes say it themselves, and beside formats that GGUF lacks two tensors stay."""
    return {"token_embd": "BF16", "output": "BF16"} if in_fields(recipe) else {}


def make(options: argparse.Namespace, recipe: str, method: str, folder: Path) -> Path:
    """The file, or for formats that GGUF lacks the directory, of a recipe by a method."""
    output = folder / (f"{recipe}-{method}" + ("" if in_fields(recipe) else ".gguf"))
    if not output.exists():
        began = time.perf_counter()
        fewbits.quantize(
            options.model,
            output,
            to=recipe,
            tensors=own_formats(recipe),
            method=method,
            calibration=options.calibration,
            windows=options.windows,
            sequence_length=options.length,
            threads=options.threads,
        )
        print(f"{recipe} by {method}: {time.perf_counter() - began:.0f} s", flush=True)
    return output


def main() -> int:
    """Print a table per recipe."""
    options = parse()
    torch.set_num_threads(options.threads)
    original = open_model(options.model)
    ids = original.vocabulary().encode(read_text(options.text).content)
    start, source = original.vocabulary().start_token, str(options.text)
    windows = evaluation_windows(ids, options.context, start, max_tokens=options.max_tokens, source=source)
    print(f"{options.text.name}: {len(windows)} windows of {options.context} tokens, the second half of each scored")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        for recipe in options.recipes:
            files = {method: make(options, recipe, method, folder) for method in options.methods}
            found = divergences(original.load(), files, windows)
            first = found[options.methods[0]]
            for method, kl in found.items():
                ratio = paired_bootstrap(kl, first)
                interval = f"{ratio.low:.3f} to {ratio.high:.3f}"
                print(f"{recipe:20} {method:20} {kl.mean():9.5f} {ratio.value:7.3f} {interval:>16}", flush=True)
    return 0


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL_DIR")
    parser.add_argument("--calibration", type=Path, help="text to calibrate on; our own mix without it")
    parser.add_argument("--text", type=Path, required=True, help="text to measure on")
    parser.add_argument("--recipes", nargs="+", default=["Q2_K", "int4_g128_sym_f16"], metavar="RECIPE")
    parser.add_argument("--methods", nargs="+", default=["gptq", "gptq+learned"], metavar="METHOD")
    parser.add_argument("--windows", type=int, default=128, help="windows of calibration text (default: %(default)s)")
    parser.add_argument("--length", type=int, default=512, help="tokens of each (default: %(default)s)")
    parser.add_argument("--context", type=int, default=256, help="tokens of a window (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=16384, help="tokens of the text (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave the files here, and take those that are")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
