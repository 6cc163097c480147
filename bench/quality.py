"""Quality next to llama.cpp in the same run: each format's encoder beside ggml's, and each recipe's file.

    python bench/quality.py MODEL_DIR --text FILE [--llama-quantize PATH] [--part encoders]

First every format by itself, on the embedded model, on MODEL_DIR and on heavy-tailed numbers, without importance and by
it: squared errors, ours over ggml's, below 1 where ours is nearer (bench/encoders.py says in which weighting).

Then for each recipe our file against the one llama.cpp's quantizer makes. Both start from the same weights: ours from
MODEL_DIR, theirs from our lossless GGUF of it. Two figures are compared, ours over theirs:

error   sum of w (x - stored)^2 over all tensors of a format, in the weighting that ggml itself minimises for it:
        w = rms of the 32 neighbours + |x| (Q4_K, Q5_K), x^2 (Q6_K), 1 (Q8_0, Q4_0, Q5_0) ...
KL      mean KL divergence from the source model on the text, as `fewbits compare` measures it

The KL divergence of one file is one draw of rounding errors: the same errors with other signs give another one. The
printed standard error (over windows) does not hold that spread: look at several models before calling a few percent a
difference.

The bar is error <= 1.00 and KL <= 1.02. The peer is the program llama-quantize (--llama-quantize or LLAMA_QUANTIZE)
or, without one, the package llama-cpp-python.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import encoders
import fewbits
from fewbits.checkpoints.gguf import GGUFReader
from fewbits.evaluation.compare import Comparison
from fewbits.kernels import decode_rows

Peer = Callable[[Path, Path, str], None]

RECIPES = ("Q8_0", "Q6_K", "Q4_K_M", "Q4_K_S", "Q4_0")
ERROR_BAR, KL_BAR = 1.00, 1.02
EMBEDDED = Path(__file__).parents[1] / "examples" / "models" / "pocket-llama"
_SLAB_NUMBERS = 1 << 22
_EXACT = ("F64", "F32", "F16", "BF16")
PARTS = ("encoders", "recipes")


@dataclass
class Errors:
    """Weighted squared errors per format, and the tensors for which the two files chose different formats."""

    ours: dict[str, float] = field(default_factory=dict)
    theirs: dict[str, float] = field(default_factory=dict)
    disagreements: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """One recipe, both files."""

    recipe: str
    errors: Errors
    kl_ours: float
    kl_theirs: float
    kl_ratio_error: float
    """Standard error of the ratio; both files read the same windows, so it is far below that of either figure."""
    bytes_ours: int
    bytes_theirs: int


def weighted_errors(base: Path, ours: Path, theirs: Path) -> Errors:
    """Errors of both files against the lossless file `base`, row slab by row slab."""
    source, a, b = GGUFReader(base), GGUFReader(ours), GGUFReader(theirs)
    result = Errors()
    for name in source.names():
        formats = a.read(name).format, b.read(name).format
        if formats[0] != formats[1]:
            result.disagreements.append(f"{name}: {formats[0]} here, {formats[1]} there")
        elif formats[0] not in _EXACT:
            for totals, reader in ((result.ours, a), (result.theirs, b)):
                error = sum(_slab_errors(source, reader, name))
                totals[formats[0]] = totals.get(formats[0], 0.0) + error
    return result


def _slab_errors(source: GGUFReader, stored: GGUFReader, name: str) -> Iterator[float]:
    original, quantized = source.read(name), stored.read(name)
    step = max(1, _SLAB_NUMBERS // original.cols)
    for start in range(0, original.rows, step):
        stop = min(start + step, original.rows)
        x = decode_rows(original.format, original.slab(start, stop), original.cols)
        y = decode_rows(quantized.format, quantized.slab(start, stop), quantized.cols)
        yield float(np.sum(encoders.weigh(quantized.format, x) * (x.astype(np.float64) - y) ** 2))


def ratio_error(ours: tuple[float, ...], theirs: tuple[float, ...]) -> float:
    """Standard error of sum(ours) / sum(theirs), by linearization: that of (ours - ratio theirs) / mean(theirs)."""
    a, b = np.asarray(ours), np.asarray(theirs)
    residual = a - a.sum() / b.sum() * b
    return float(np.std(residual, ddof=1) / np.sqrt(len(a)) / b.mean())


def peer_program(program: str, threads: int) -> Peer:
    """llama.cpp's quantizer as a program."""

    def make(base: Path, target: Path, recipe: str) -> None:
        done = subprocess.run(
            [program, base, target, recipe, str(threads)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(f"{program} failed on {recipe}:\n{done.stderr[-2000:]}")

    return make


def peer_package(threads: int) -> Peer:
    """llama.cpp's quantizer as a function of llama-cpp-python."""
    import llama_cpp

    def make(base: Path, target: Path, recipe: str) -> None:
        parameters = llama_cpp.llama_model_quantize_default_params()
        parameters.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{recipe}")
        parameters.nthread = threads
        if llama_cpp.llama_model_quantize(os.fsencode(base), os.fsencode(target), parameters):
            sys.exit(f"llama.cpp failed on {recipe}.")

    return make


def find_peer(program: str | None, threads: int) -> Peer:
    """The program where one is named, else the package; exits where there is neither."""
    if program:
        return peer_program(program, threads)
    try:
        return peer_package(threads)
    except ImportError:
        sys.exit("no peer: give --llama-quantize PATH, set LLAMA_QUANTIZE, or pip install llama-cpp-python")


def run(model: Path, text: Path, recipe: str, base: Path, peer: Peer, options: argparse.Namespace) -> Outcome:
    """Make both files of one recipe and measure them."""
    with tempfile.TemporaryDirectory(dir=base.parent) as folder:
        ours, theirs = Path(folder) / "ours.gguf", Path(folder) / "theirs.gguf"
        fewbits.quantize(model, ours, to=recipe, threads=options.threads)
        peer(base, theirs, recipe)
        a, b = (
            fewbits.compare(
                model,
                file,
                text=text,
                context=options.context,
                threads=options.threads,
                max_tokens=options.max_tokens,
            )
            for file in (ours, theirs)
        )
        assert isinstance(a, Comparison), "the model continues text"
        assert isinstance(b, Comparison), "so does the other"
        return Outcome(
            recipe=recipe,
            errors=weighted_errors(base, ours, theirs),
            kl_ours=a.kl_divergence_mean,
            kl_theirs=b.kl_divergence_mean,
            kl_ratio_error=ratio_error(a.kl_per_window, b.kl_per_window),
            bytes_ours=a.bytes_quantized,
            bytes_theirs=b.bytes_quantized,
        )


def print_outcome(outcome: Outcome) -> bool:
    """Print a recipe's lines; True when both bars are met and every tensor has the format that llama.cpp chose."""
    good = not outcome.errors.disagreements
    for format_name, ours in outcome.errors.ours.items():
        theirs = outcome.errors.theirs[format_name]
        ratio = ours / theirs
        good = good and ratio <= ERROR_BAR
        print(f"{outcome.recipe:8} {'error ' + format_name:12} {ours:12.6g} {theirs:12.6g} {ratio:8.4f}", flush=True)
    ratio = outcome.kl_ours / outcome.kl_theirs
    print(
        f"{outcome.recipe:8} {'KL':12} {outcome.kl_ours:12.6f} {outcome.kl_theirs:12.6f} {ratio:8.4f}"
        f" +- {outcome.kl_ratio_error:.4f}",
        flush=True,
    )
    size = outcome.bytes_ours / outcome.bytes_theirs
    print(f"{outcome.recipe:8} {'bytes':12} {outcome.bytes_ours:12} {outcome.bytes_theirs:12} {size:8.4f}", flush=True)
    for line in outcome.errors.disagreements:
        print(f"{outcome.recipe:8} other format: {line}", flush=True)
    return good and ratio <= KL_BAR


def lossless_recipe(model: Path) -> str:
    """The 16-bit recipe that stores the model as it is."""
    return "BF16" if fewbits.inspect(model).formats[0].format == "BF16" else "F16"


def embedded_text(folder: Path) -> Path:
    """The reference manual that every CPython carries, as a file."""
    from pydoc_data.topics import topics

    path = folder / "reference-manual.txt"
    path.write_text("\n".join(topics.values()), encoding="utf-8")
    return path


def main() -> int:
    """Print the table; 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", default=EMBEDDED, metavar="MODEL_DIR")
    parser.add_argument("--text", type=Path, help="UTF-8 text; the Python reference manual without it")
    parser.add_argument("--llama-quantize", default=os.environ.get("LLAMA_QUANTIZE"), metavar="PATH")
    parser.add_argument("--recipes", nargs="+", default=RECIPES, metavar="RECIPE")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument(
        "--max-tokens", type=int, default=32768, help="tokens of the text to read (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--part", choices=PARTS, help="only one of the tables")
    parser.add_argument(
        "--rows", type=int, default=64, help="rows of each matrix for the encoders (default: %(default)s)"
    )
    options = parser.parse_args()
    good = True
    if options.part != "recipes":
        good = encoders.print_table(dict.fromkeys((EMBEDDED, options.model)), options.rows)
        print(f"\nEvery encoder is at most {encoders.BAR:.2f}." if good else "\nAn encoder is above 1.00.", flush=True)
    if options.part != "encoders":
        good = print_recipes(options) and good
    return 0 if good else 1


def print_recipes(options: argparse.Namespace) -> bool:
    """Print the table of recipes; whether every bar is met."""
    peer = find_peer(options.llama_quantize, options.threads)
    good = True
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base.gguf"
        fewbits.quantize(options.model, base, to=lossless_recipe(options.model), threads=options.threads)
        text = options.text or embedded_text(Path(folder))
        print(f"{'recipe':8} {'figure':12} {'fewbits':>12} {'llama.cpp':>12} {'ratio':>8}", flush=True)
        for recipe in options.recipes:
            good &= print_outcome(run(options.model, text, recipe, base, peer, options))
    print("Every bar is met." if good else f"A bar is missed (error <= {ERROR_BAR:.2f}, KL <= {KL_BAR:.2f}).")
    return good


if __name__ == "__main__":
    sys.exit(main())
