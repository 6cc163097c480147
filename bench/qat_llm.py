"""What training with quantization makes of a language model in a few bits, beside the best post-training result.

    python bench/qat_llm.py MODEL_DIR --train FILE --text FILE [--recipes Q2_K int2_g64_sym_f16]
                            [--begin METHOD] [--against METHOD ...] [--minutes 30 | --steps N] [--keep DIR]

For each recipe: the files of `fewbits quantize` by each METHOD of --against, calibrated on the text that is trained on,
and the file of `fewbits qat` on the same text. Every tensor has the same format in all of them, so they have the same
bytes. The student begins at the codes of the method --begin (or at the nearest ones) and learns by the KL divergence
from the model as it was, for as many steps as fit in --minutes where a dry run has measured what a step takes.

Figures are those of bench/ways.py: mean KL divergences in nats per token over the second half of windows that do not
overlap, of a text that nothing was trained on, with a paired bootstrap over windows against the best of --against.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

import fewbits
from calibrated import divergences, paired_bootstrap
from fewbits.evaluation.model_files import open_model
from fewbits.evaluation.text import evaluation_windows, read_text
from fewbits.training import Reading, Settings
from ways import in_fields, make, own_formats

REPORTED = 25
"""Steps from one line to the next."""


def taught(options: argparse.Namespace, recipe: str, folder: Path) -> Path:
    """The file of a student after its training."""
    output = folder / (f"{recipe}-qat" + ("" if in_fields(recipe) else ".gguf"))
    if output.exists():
        return output
    begin = make(options, recipe, options.begin, folder) if options.begin else None
    given: dict[str, Any] = {
        "data": Reading(options.calibration, length=options.window, batch=options.batch, hold_out=0.0),
        "to": recipe,
        "tensors": own_formats(recipe),
        "begin": begin,
        "threads": options.threads,
    }
    asked = {"learning_rate": options.rate, "precision": options.precision, "betas": (0.9, 0.95), "floor": 0.02}
    steps = options.steps
    if steps is None:
        tried: Any = fewbits.qat(options.model, output, **given, settings=Settings(**asked, steps=2), dry_run=True)
        steps = max(1, int(60 * options.minutes / tried.measured.seconds))
        print(f"{recipe}: {tried.measured.seconds:.2f} s a step, so {steps} steps", flush=True)
    settings = Settings(**asked, steps=steps, save_every=None)
    done: Any = fewbits.qat(options.model, output, **given, settings=settings, on_step=report)
    losses = done.history.losses
    print(
        f"{recipe}: {len(losses)} steps, {done.history.tokens} tokens, {done.history.seconds / 60:.1f} minutes; loss "
        f"{losses[0]:.4f} to {sum(losses[-10:]) / len(losses[-10:]):.4f}; peak {done.history.peak_memory / 1e9:.2f} GB",
        flush=True,
    )
    return output


def report(step: Any, history: Any) -> None:
    """A line now and then."""
    if step.number % REPORTED == 0 or step.number == 1:
        recent = history.losses[-REPORTED:]
        print(f"  step {step.number} of {step.total}: {sum(recent) / len(recent):.4f}", flush=True)


def main() -> int:
    """Print a table per recipe."""
    options = parse()
    torch.set_num_threads(options.threads)
    original = open_model(options.model)
    ids = original.vocabulary().encode(read_text(options.text).content)
    start, source = original.vocabulary().start_token, str(options.text)
    windows = evaluation_windows(ids, options.context, start, max_tokens=options.max_tokens, source=source)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for recipe in options.recipes:
            files = {method: make(options, recipe, method, folder) for method in options.against}
            files["trained"] = taught(options, recipe, folder)
            found = divergences(original.load(), files, windows)
            best = min(options.against, key=lambda name: float(found[name].mean()), default="trained")
            for name, kl in found.items():
                ratio, size = paired_bootstrap(kl, found[best]), size_of(files[name])
                interval = f"{ratio.low:.3f} to {ratio.high:.3f}"
                print(f"{recipe:20} {name:24} {size:10} {kl.mean():9.5f} {ratio.value:7.3f} {interval:>16}", flush=True)
    return 0


def size_of(path: Path) -> int:
    """Bytes of the weights."""
    return path.stat().st_size if path.is_file() else sum(each.stat().st_size for each in path.glob("*.safetensors"))


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL_DIR")
    parser.add_argument("--train", dest="calibration", type=Path, required=True, help="text to train and calibrate on")
    parser.add_argument("--text", type=Path, required=True, help="text to measure on")
    parser.add_argument("--recipes", nargs="+", default=["Q2_K", "int2_g64_sym_f16"], metavar="RECIPE")
    parser.add_argument("--begin", metavar="METHOD")
    parser.add_argument("--against", nargs="*", default=["awq+gptq+learned"], metavar="METHOD")
    parser.add_argument("--minutes", type=float, default=30.0, help="of training (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="instead of as many as fit")
    parser.add_argument("--batch", type=int, default=8, help="windows of a step (default: %(default)s)")
    parser.add_argument("--window", type=int, default=256, help="tokens of each (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=2e-4, help="of weights (default: %(default)s)")
    parser.add_argument("--precision", default="bfloat16", help="of products (default: %(default)s)")
    parser.add_argument("--windows", type=int, default=128, help="windows of calibration text (default: %(default)s)")
    parser.add_argument("--length", type=int, default=512, help="tokens of each (default: %(default)s)")
    parser.add_argument("--context", type=int, default=256, help="tokens of a judged window (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=16384, help="tokens of the text (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave the files here, and take those that are")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
