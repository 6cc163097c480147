"""Fine-tuning adapters on a packed base (QLoRA) beside 16-bit LoRA and bitsandbytes: quality, memory, speed.

    python bench/qlora.py quality WORK_DIR MODEL TRAIN.txt TEST.txt [--steps 120] [--batch 4]
    python bench/qlora.py memory WORK_DIR [--window 512]
    python bench/qlora.py speed WORK_DIR [--window 512] [--rounds 3] [--only NAME ...]

`quality` trains adapters with the same steps on the base in bfloat16 and in nf4 with double quantization, and prints
the perplexity on TEST before and after. `memory` and `speed` use a random Llama of 1.1 B parameters, computed in
bfloat16 with gradient checkpointing: each kind trains two steps in a process of its own, whose highest resident memory
is printed less that of a process that has imported the same and loaded nothing; and kinds take turns, a step of
`window` tokens each (forward, backward, AdamW), whose medians are printed with the lowest and the highest ratio.
"""

from __future__ import annotations

import argparse
import gc
import math
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

import fewbits
from fewbits.memory import resident_memory
from fewbits.training import add_lora
from random_llama import ONE_BILLION, make_llama

RANK = 16
NF4 = "nf4_g64_dq"


# ---- what is trained


def packed(folder: Path, work: Path, dtype: torch.dtype = torch.bfloat16) -> Any:
    """The base in nf4, doubly quantized; embedding and output matrix stay as they are, as with bitsandbytes."""
    return add_lora(fewbits.load(in_nf4(folder, work), dtype=dtype), rank=RANK)


def in_nf4(folder: Path, work: Path) -> Path:
    """The model in bitsandbytes' dialect, which both read; made once in the folder `work`."""
    target = work / f"{folder.name}-{NF4}"
    if not target.exists():
        fewbits.quantize(folder, target, to=NF4, dialect="bitsandbytes")
    return target


def plain(folder: Path, work: Path, dtype: torch.dtype = torch.bfloat16) -> Any:
    """The base in bfloat16, adapted by peft alone."""
    peft, transformers = _libraries()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    return peft.get_peft_model(model, peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules="all-linear"))


def of_bitsandbytes(folder: Path, work: Path, dtype: torch.dtype = torch.bfloat16) -> Any:
    """The same directory in bitsandbytes' modules, adapted by peft."""
    peft, transformers = _libraries()
    options: Any = {"dtype": dtype, "device_map": {"": "cpu"}}
    model = transformers.AutoModelForCausalLM.from_pretrained(in_nf4(folder, work), **options)
    return peft.get_peft_model(model, peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules="all-linear"))


def _libraries() -> tuple[Any, Any]:
    return import_module("peft"), import_module("transformers")


KINDS: Mapping[str, Callable[..., Any]] = {"fewbits": packed, "bitsandbytes": of_bitsandbytes, "bf16": plain}


class Trained:
    """A model with an adapter, its optimizer, and one step."""

    def __init__(self, model: Any, rate: float = 2e-4) -> None:
        self.model = model.train()
        self.model.get_base_model().activation_checkpointing_enable({"use_reentrant": False})
        self.model.config.use_cache = False
        self.optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)

    def step(self, ids: torch.Tensor) -> float:
        """The loss of one step on windows (batch, tokens)."""
        loss = self.model(input_ids=ids, labels=ids).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.detach())


def windows(size: int, seed: int) -> torch.Tensor:
    """One window of random tokens."""
    return torch.randint(0, ONE_BILLION.vocab, (1, size), generator=torch.Generator().manual_seed(seed))


# ---- speed


def speed(options: argparse.Namespace) -> Iterator[str]:
    """Tokens per second, kinds in turn."""
    folder = make_llama(options.work / "llama-1.1b", ONE_BILLION)
    trained = {}
    for name in options.only:
        if name != "bitsandbytes" or find_spec("bitsandbytes"):
            trained[name] = Trained(KINDS[name](folder, options.work))
            gc.collect()
    seconds: dict[str, list[float]] = {name: [] for name in trained}
    for turn in range(options.rounds + 1):  # the first one is not counted
        for name in trained if turn % 2 == 0 else reversed(trained):
            began = time.perf_counter()
            loss = trained[name].step(windows(options.window, turn))
            seconds[name] += [time.perf_counter() - began] if turn else []
            if not math.isfinite(loss):
                raise SystemExit(f"{name}: the loss is {loss}")
    for name, found in seconds.items():
        line = f"{name:14}{options.window / statistics.median(found):8.1f} tokens/s"
        for base, others in seconds.items():
            ratios = sorted(b / o for b, o in zip(others, found, strict=True))
            middle = statistics.median(ratios)
            line += f", {middle:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) of {base}" if base != name else ""
        yield line


# ---- memory


def memory(options: argparse.Namespace) -> Iterator[str]:
    """Highest resident memory of processes that train two steps."""
    make_llama(options.work / "llama-1.1b", ONE_BILLION)
    peaks = {name: _peak_of(options, name) for name in ("nothing", "bf16", "fewbits", *options.also)}
    empty = peaks.pop("nothing")
    yield f"nothing        {empty:8.1f} MB, the interpreter with all that is imported"
    for name, peak in peaks.items():
        ratio = (peak - empty) / (peaks["bf16"] - empty)
        yield f"{name:14}{peak - empty:8.1f} MB more, {ratio:.3f} of bf16; as a whole {peak / peaks['bf16']:.3f}"


def _peak_of(options: argparse.Namespace, name: str) -> float:
    command = [sys.executable, __file__, "alone", str(options.work), "--kind", name, "--window", str(options.window)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1]) / 1e6


def alone(options: argparse.Namespace) -> Iterator[str]:
    """The peak of this process, which trains one kind."""
    for module in ("peft", "transformers.models.llama.modeling_llama", "fewbits.training.lora.layers"):
        import_module(module)
    if options.kind != "nothing":
        trained = Trained(KINDS[options.kind](options.work / "llama-1.1b", options.work))
        for turn in range(2):
            trained.step(windows(options.window, turn))
    peak = max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, resident_memory() or 0)
    yield str(peak)


# ---- quality


def quality(options: argparse.Namespace) -> Iterator[str]:
    """Perplexities, before and after the same steps."""
    tokenizer = fewbits.load_tokenizer(options.model)
    train, test = (torch.tensor(tokenizer(p.read_text())["input_ids"]) for p in (options.train, options.test))
    order = torch.randperm(len(train) // options.window, generator=torch.Generator().manual_seed(0))
    found = {}
    for name in ("bf16", "fewbits"):
        torch.manual_seed(0)
        trained = Trained(KINDS[name](options.model, options.work), options.rate)
        before = perplexity(trained.model, test, options)
        for step in range(options.steps):
            picked = order[torch.arange(step * options.batch, (step + 1) * options.batch) % len(order)]
            trained.step(torch.stack([train[i * options.window : (i + 1) * options.window] for i in picked]))
        found[name] = perplexity(trained.model, test, options)
        yield f"{name:10}perplexity {before:9.3f} before, {found[name]:9.3f} after {options.steps} steps"
    yield f"after training nf4 is {100 * (found['fewbits'] / found['bf16'] - 1):+.2f}% over bf16"


@torch.no_grad()
def perplexity(model: Any, ids: torch.Tensor, options: argparse.Namespace) -> float:
    """Of windows that follow each other."""
    model.eval()
    count = min(len(ids) // options.window, options.windows)
    total = 0.0
    for i in range(count):
        window = ids[None, i * options.window : (i + 1) * options.window]
        total += float(model(input_ids=window, labels=window).loss)
    model.train()
    return math.exp(total / count)


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    kinds = parser.add_subparsers(dest="what", required=True)
    quality_options = kinds.add_parser("quality")
    for name in ("work", "model", "train", "test"):
        quality_options.add_argument(name, type=Path)
    for name, default in (("steps", 120), ("window", 256), ("batch", 4), ("windows", 200)):
        quality_options.add_argument(f"--{name}", type=int, default=default)
    quality_options.add_argument("--rate", type=float, default=5e-4)
    for what in ("speed", "memory", "alone"):
        own = kinds.add_parser(what)
        own.add_argument("work", type=Path)
        own.add_argument("--window", type=int, default=512)
        own.add_argument("--rounds", type=int, default=3)
        own.add_argument("--only", nargs="+", default=["fewbits", "bitsandbytes"], choices=list(KINDS))
        own.add_argument("--also", nargs="*", default=[], choices=["bitsandbytes"])
        own.add_argument("--kind", default="nothing")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    benches = {"quality": quality, "speed": speed, "memory": memory, "alone": alone}
    for line in benches[options.what](options):
        print(line, flush=True)


if __name__ == "__main__":
    main()
