"""What training with quantization makes of a language model in a few bits, beside the best post-training result.

    python bench/qat_llm.py MODEL_DIR --train FILE --text FILE [--recipes Q2_K int2_g64_sym_f16]
                            [--begin METHOD] [--against METHOD ...] [--minutes 30] [--layers STEPS] [--keep DIR]

For each recipe: the files of `fewbits quantize` by each METHOD of --against, calibrated on the text that is trained on,
and a file of training. The student is prepared by the same recipe, so that every tensor has the same format and the
file the same bytes; it begins at the codes of the method --begin (or at the nearest), learns layer by layer for
--layers steps each where that is asked for, and then as a whole, by the KL divergence from the model as it was, for
--minutes of processor time on all threads together, divided by --processors. What is written is read again: GGUF where
the recipe is of GGUF's formats, else a model directory.

Figures are those of bench/ways.py: mean KL divergences in nats per token over the second half of windows that do not
overlap, of a text that nothing was trained on, with a paired bootstrap over windows against the best of --against.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import fewbits
from calibrated import divergences, paired_bootstrap
from fewbits import formats, training
from fewbits.evaluation.model_files import open_model
from fewbits.evaluation.text import evaluation_windows, read_text
from fewbits.training.llm import History, Schedule, distil, teach_layers
from ways import make

LENGTH = 256


def windows_of(options: argparse.Namespace) -> torch.Tensor:
    """The text that is trained on as windows (n, LENGTH) of ids."""
    ids = torch.tensor(open_model(options.model).vocabulary().encode(read_text(options.calibration).content))
    count = len(ids) // LENGTH
    return ids[: count * LENGTH].reshape(count, LENGTH)


def float_model(options: argparse.Namespace) -> Any:
    """The model as it was."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)


def in_fields(recipe: str) -> bool:
    """Whether GGUF lacks the format."""
    return recipe in formats.FORMATS and recipe not in formats.ROWS


def student_of(options: argparse.Namespace, recipe: str, folder: Path) -> Any:
    """The model, prepared by a recipe, at the codes of a method where one is asked for."""
    tensors = {"token_embd": "BF16", "output": "BF16"} if in_fields(recipe) else {}
    own = {"model.embed_tokens": "F32", "lm_head": "F32"} if tensors else {}
    student = training.prepare(float_model(options), recipe, tensors=own)
    if options.begin:
        training.begin_at(student, fewbits.load(make(options, recipe, options.begin, folder)))
    return student


def reporting(name: str) -> Callable[[int, int, float], None]:
    """Prints the loss now and then."""

    def report(step: int, steps: int, loss: float) -> None:
        if step % 20 == 0 or step == 1:
            print(f"{name} step {step}: {loss:.4f}", flush=True)

    return report


def taught(options: argparse.Namespace, recipe: str, folder: Path) -> Path:
    """The file of a student after its training."""
    output = folder / (f"{recipe}-qat" + ("" if in_fields(recipe) else ".gguf"))
    if output.exists():
        return output
    student, teacher, windows = student_of(options, recipe, folder), float_model(options).eval(), windows_of(options)
    teacher.requires_grad_(False)
    spent = 0.0
    if options.layers:
        few = windows[torch.randperm(len(windows), generator=torch.Generator().manual_seed(0))[: 8 * options.layers]]
        each = teach_layers(student, teacher, few, Schedule(steps=options.layers, rate=2 * options.rate))
        spent = sum(history.seconds_of_processors for history in each)
    whole = distil(student, teacher, windows, schedule(options, spent), reporting(recipe))
    say(recipe, whole, spent, options)
    return written(training.convert(student), options, output)


def schedule(options: argparse.Namespace, spent: float) -> Schedule:
    """What is left of the time."""
    left = 60.0 * options.minutes * options.processors - spent
    return Schedule(
        steps=options.steps,
        batch=options.batch,
        rate=options.rate,
        steps_rate=options.steps_rate,
        seconds_of_processors=left,
    )


def say(recipe: str, whole: History, spent: float, options: argparse.Namespace) -> None:
    """What the training took."""
    minutes = (whole.seconds_of_processors + spent) / 60 / options.processors
    print(
        f"{recipe}: {len(whole.losses)} steps, {whole.tokens} tokens, {minutes:.1f} minutes of {options.processors} "
        f"processors; loss {whole.losses[0]:.4f} to {sum(whole.losses[-10:]) / len(whole.losses[-10:]):.4f}",
        flush=True,
    )


def written(student: Any, options: argparse.Namespace, output: Path) -> Path:
    """The network as a file of the project."""
    folder = output.parent / f"{output.stem}-directory"
    shutil.rmtree(folder, ignore_errors=True)
    student.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (options.model / name).exists():
            shutil.copyfile(options.model / name, folder / name)
    if output.suffix == ".gguf":
        fewbits.convert(folder, output)
    else:
        folder.rename(output)
    return output


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
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--processors", type=int, default=2)
    parser.add_argument("--steps", type=int, default=100_000, help="at most")
    parser.add_argument("--layers", type=int, default=0, metavar="STEPS")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=2e-4)
    parser.add_argument("--steps-rate", type=float, default=2e-3)
    parser.add_argument("--windows", type=int, default=128, help="windows of calibration text (default: %(default)s)")
    parser.add_argument("--length", type=int, default=512, help="tokens of each (default: %(default)s)")
    parser.add_argument("--context", type=int, default=256, help="tokens of a window (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=16384, help="tokens of the text (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave the files here, and take those that are")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
