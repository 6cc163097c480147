"""Quality per byte of calibrated files: ours over llama.cpp's own imatrix and quantizer, and over other tools' int4.

    python bench/calibrated.py MODEL_DIR --calibration FILE --text FILE [--text FILE] [--recipes Q2_K Q4_K_M ...]
                               --llama-tools DIR [--int4 NAME=DIR ...]
    python bench/calibrated.py MODEL_DIR --calibration FILE --write-tokens FILE.npy

Every file of a recipe has the same format per tensor, so the same bytes. Ours is what `fewbits quantize --calibration`
makes. Theirs is llama-quantize with llama-imatrix's measurements on the text of the very same windows, those of our
guard included. `--int4` names directories with the decoded weights of other tools' int4 (groups of 128 columns), which
are set beside ours with the same storage: matrices of layers as int4_g128_sym, the rest as it was. `--write-tokens`
writes the windows for those tools (bench/peers) and exits.

Figures are mean KL divergences from the model as it was, in nats per token, over the second half of windows of 512
tokens that do not overlap; all files are measured on the same windows. The interval is a paired bootstrap over windows
(percentiles of the ratio of means). A bar is met where the whole interval lies below 1 and the ratio below the bar.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

import fewbits
from fewbits.calibration import read_calibration
from fewbits.calibration.mix import guard_text
from fewbits.evaluation.metrics import score_window
from fewbits.evaluation.model_files import LoadedModel, Vocabulary, open_model
from fewbits.evaluation.text import evaluation_windows, read_text, scored_positions
from quality import lossless_recipe

BARS: Mapping[str, float] = {
    "Q2_K": 0.75,
    "Q3_K_M": 0.88,
    "IQ2_XS": 0.90,
    "IQ3_S": 0.90,
    "IQ4_XS": 0.95,
    "Q4_K_S": 0.95,
    "Q4_K_M": 0.95,
    "Q5_K_M": 1.00,
    "Q6_K": 1.00,
}
INT4_BAR = 0.95
INT4 = "int4_g128_sym"
LENGTH, GUARD_TOKENS = 512, 4096
DRAWS = 10_000

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ratio:
    """Ours over theirs with its 95% interval."""

    value: float
    low: float
    high: float

    def meets(self, bar: float) -> bool:
        """Below the bar and surely below 1; at a bar of 1, not surely above."""
        return self.value <= bar and self.high < 1.0 if bar < 1.0 else self.low <= 1.0


def paired_bootstrap(ours: Floats, theirs: Floats, seed: int = 0) -> Ratio:
    """The ratio of means over windows (windows,), with percentiles over draws of windows.

    >>> paired_bootstrap(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0]))
    Ratio(value=0.5, low=0.5, high=0.5)
    """
    draws = np.random.default_rng(seed).integers(0, len(ours), (DRAWS, len(ours)))
    ratios = ours[draws].sum(1) / theirs[draws].sum(1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return Ratio(float(ours.sum() / theirs.sum()), float(low), float(high))


def divergences(original: LoadedModel, files: Mapping[str, Path], windows: npt.NDArray[np.int64]) -> dict[str, Floats]:
    """Mean KL divergence per window of each file."""
    models = {name: open_model(path).load() for name, path in files.items()}
    scored = scored_positions(windows.shape[1])
    found: dict[str, list[float]] = {name: [] for name in files}
    with torch.inference_mode():
        for window in windows:
            ids = torch.from_numpy(window)
            targets = ids[scored.start + 1 : scored.stop + 1]
            expected = original.logits(ids, scored.start)[: len(scored)]
            for name, model in models.items():
                score = score_window(expected, model.logits(ids, scored.start)[: len(scored)], targets)
                found[name].append(float(score.kl.mean()))
    return {name: np.array(each) for name, each in found.items()}


def peer_windows(options: argparse.Namespace, vocabulary: Vocabulary) -> npt.NDArray[np.int64]:
    """The windows that we calibrate on, then those of our guard (windows, LENGTH): a peer gets both."""
    data = read_calibration(options.calibration, vocabulary, length=LENGTH, windows=options.windows)
    guard = read_calibration([guard_text()], vocabulary, length=LENGTH, windows=GUARD_TOKENS // LENGTH)
    return np.concatenate([data.windows, guard.windows])


def write_windows(options: argparse.Namespace, vocabulary: Vocabulary, folder: Path) -> Path:
    """The text of the windows that we calibrate on and judge by, for the peer."""
    tokenizer = vocabulary.tokenizer  # type: ignore[attr-defined]
    path = folder / "windows.txt"
    path.write_text("".join(map(tokenizer.decode, peer_windows(options, vocabulary))), encoding="utf-8")
    return path


def write_tokens(options: argparse.Namespace) -> int:
    """The same windows as ids, for peers that take ids; returns the exit status."""
    windows = peer_windows(options, open_model(options.model).vocabulary())
    np.save(options.write_tokens, windows)
    print(f"{options.write_tokens}: {windows.shape[0]} windows of {windows.shape[1]} tokens")
    return 0


def make_llama(options: argparse.Namespace, recipes: Iterable[str], folder: Path) -> dict[str, Path]:
    """Recipe -> llama.cpp's file, from our lossless GGUF and its own importance matrix."""
    base, matrix = folder / "base.gguf", folder / "imatrix.gguf"
    if not base.exists():
        fewbits.quantize(options.model, base, to=lossless_recipe(options.model))
    if not matrix.exists():
        text = write_windows(options, open_model(options.model).vocabulary(), folder)
        run(options, "llama-imatrix", "-m", base, "-f", text, "-o", matrix, "-c", str(LENGTH))
    made = {}
    for recipe in recipes:
        made[recipe] = folder / f"theirs-{recipe}.gguf"
        if not made[recipe].exists():
            run(options, "llama-quantize", "--imatrix", matrix, base, made[recipe], recipe, str(options.threads))
    return made


def run(options: argparse.Namespace, program: str, *arguments: str | Path) -> None:
    """One of llama.cpp's programs; exits with the end of what it said where it fails."""
    done = subprocess.run([options.llama_tools / program, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{program} failed:\n{done.stderr[-2000:]}")


def make_ours(options: argparse.Namespace, recipe: str, folder: Path) -> Path:
    """Our file of a recipe, or our directory of int4."""
    output = folder / (f"ours-{recipe}" if recipe == INT4 else f"ours-{recipe}.gguf")
    if output.exists():
        return output
    others = {"token_embd": "BF16", "output": "BF16"} if recipe == INT4 else {}
    fewbits.quantize(
        options.model,
        output,
        to=recipe,
        tensors=others,
        method=options.method,
        calibration=options.calibration,
        windows=options.windows,
        sequence_length=LENGTH,
        threads=options.threads,
    )
    return output


def print_text(
    options: argparse.Namespace, text: Path, pairs: Sequence[tuple[str, str, str]], files: dict[str, Path]
) -> bool:
    """The table of one text; whether every bar is met."""
    original = open_model(options.model)
    vocabulary = original.vocabulary()
    ids = vocabulary.encode(read_text(text).content)
    windows = evaluation_windows(ids, LENGTH, vocabulary.start_token, max_tokens=options.max_tokens, source=str(text))
    found = divergences(original.load(), files, windows)
    print(f"\n{text.name}: {len(windows)} windows of {LENGTH} tokens, the second half of each scored")
    print(f"{'recipe':14} {'ours':>9} {'theirs':>9} {'ratio':>7} {'95% interval':>16} {'bar':>6}", flush=True)
    good = True
    for label, ours, theirs in pairs:
        ratio = paired_bootstrap(found[ours], found[theirs])
        bar = BARS.get(label, INT4_BAR)
        good &= ratio.meets(bar)
        interval = f"{ratio.low:.3f} to {ratio.high:.3f}"
        means = f"{found[ours].mean():9.5f} {found[theirs].mean():9.5f}"
        verdict = "" if ratio.meets(bar) else "  missed"
        print(f"{label:14} {means} {ratio.value:7.3f} {interval:>16} {bar:6.2f}{verdict}", flush=True)
    return good


def main() -> int:
    """Print the tables; 1 where a bar is missed."""
    options = parse()
    if options.write_tokens:
        return write_tokens(options)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        files = {f"theirs {recipe}": path for recipe, path in make_llama(options, options.recipes, folder).items()}
        pairs = [(recipe, f"ours {recipe}", f"theirs {recipe}") for recipe in options.recipes]
        for recipe in options.recipes:
            files[f"ours {recipe}"] = make_ours(options, recipe, folder)
        for named in options.int4:
            name, _, path = named.partition("=")
            files[name] = Path(path)
            pairs.append((f"int4 {name}", f"ours {INT4}", name))
        if options.int4:
            files[f"ours {INT4}"] = make_ours(options, INT4, folder)
        require_same_bytes(pairs, files)
        good = [print_text(options, text, pairs, files) for text in options.text]
    print("\nEvery bar is met." if all(good) else "\nA bar is missed.")
    return 0 if all(good) else 1


def require_same_bytes(pairs: Sequence[tuple[str, str, str]], files: Mapping[str, Path]) -> None:
    """Exit where two files of a recipe do not hold the same bytes of the same formats."""
    for label, ours, theirs in pairs:
        if label.startswith("int4"):
            continue
        a, b = ({s.format: s.bytes for s in fewbits.inspect(files[n]).formats} for n in (ours, theirs))
        if a != b:
            sys.exit(f"{label}: the files do not hold the same formats: {a} here, {b} there.")


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL_DIR")
    parser.add_argument("--calibration", type=Path, help="text to calibrate on; our own mix without it")
    parser.add_argument("--text", type=Path, action="append", default=[], help="text to measure on; repeatable")
    parser.add_argument("--llama-tools", type=Path, metavar="DIR", help="llama-imatrix, llama-quantize")
    parser.add_argument("--int4", action="append", default=[], metavar="NAME=DIR", help="another tool's decoded int4")
    parser.add_argument("--recipes", nargs="+", default=list(BARS), metavar="RECIPE")
    parser.add_argument("--method", default="gptq_search")
    parser.add_argument("--windows", type=int, default=128, help="windows of calibration text (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=49152, help="tokens of each text (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave the files here, and take those that are")
    parser.add_argument("--write-tokens", type=Path, metavar="FILE.npy", help="only write the windows' tokens here")
    options = parser.parse_args()
    if not options.write_tokens and not (options.text and options.llama_tools):
        parser.error("--text and --llama-tools are needed, or --write-tokens.")
    return options


if __name__ == "__main__":
    sys.exit(main())
