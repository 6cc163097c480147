"""Tokens per second, memory and start of this engine beside llama.cpp's `llama-bench`, on the same GGUF files.

    python bench/generate.py [FOLDER] [--models 1.1b 8b] [--recipes NAME ... | all] [--llama-bench PATH] [--rounds 4]
                             [--repeats 2] [--threads 2] [--depth 8192] [--deep-rounds 2] [--json FILE]

FOLDER (out/bench) keeps the models: Llamas of random weights, made and quantized by fewbits when missing
(`--keep-source` leaves the bf16 weights there: 2.2 and 16 GB). Every run is a process of its own, so that its memory is
its own. In each round both tools run one after the other, in changing order, on a file that was read just before; each
evaluates a prompt of 256 tokens, and 32 tokens one by one, `--repeats` times after a turn unmeasured, and says its
median. Behind --depth tokens (0 leaves that out), whose evaluation takes minutes, there are --deep-rounds rounds. The
"ratio" is the median over rounds of fewbits' figure over llama.cpp's, with the lowest and highest round behind it. Peak
memory is the process's largest resident size, mapped files included; "first token" is seconds from its start until it
ends after one token, once in each round. "others" is the share of all processors that went to other processes then:
where it is more than a few percent, the other figures say little, since threads wait for each other. Without
--llama-bench (or $LLAMA_BENCH) the peer is bench/llama_decoding.py, which does the same through llama-cpp-python (and
has Python's own memory and start besides), and without that only fewbits runs.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from random_llama import EIGHT_BILLION, ONE_BILLION, Shape, make_llama

MODELS = {"1.1b": ONE_BILLION, "8b": EIGHT_BILLION}
USUAL = ["Q4_K_M", "Q8_0", "Q4_0", "BF16"]
OTHERS = ["F16", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K_M", "Q5_K_M", "Q6_K", "IQ4_NL", "IQ4_XS", "IQ2_XXS", "IQ2_XS"]
OTHERS += ["IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S", "IQ1_M", "TQ1_0", "TQ2_0", "MXFP4"]
SPECIAL = {"MXFP4": ("--to", "MXFP4_MOE", "--tensor", "blk.*=MXFP4")}
"""What no recipe makes of a model without experts."""
PROMPT, GENERATED = 256, 32


def main() -> None:
    """Print a table per model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("out/bench"))
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--recipes", nargs="+", default=USUAL, metavar="NAME")
    parser.add_argument("--llama-bench", default=os.environ.get("LLAMA_BENCH"), metavar="PATH")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--depth", type=int, default=8192)
    parser.add_argument("--deep-rounds", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--keep-source", action="store_true")
    args = parser.parse_args()
    recipes = [*USUAL, *OTHERS] if args.recipes == ["all"] else args.recipes
    found: dict[str, dict[str, Any]] = {}
    for name in args.models:
        files = prepare(args, name, recipes)
        tools = [Ours(args), *([Peer(args, peer)] if (peer := peer_command(args)) else [])]
        print(f"{name}, {args.threads} threads, {' and '.join(tool.name for tool in tools)}")
        print(f"{'recipe':9}{'figure':20}{'fewbits':>10}{'llama.cpp':>11}{'ratio':>8}   of rounds")
        for recipe, file in files.items():
            measured = measure(args, tools, file)
            found.setdefault(name, {})[recipe] = measured
            for number, line in enumerate(lines(measured)):
                print(f"{'' if number else recipe:9}{line}", flush=True)
            if args.json:
                args.json.write_text(json.dumps(found, indent=1))


def prepare(args: argparse.Namespace, name: str, recipes: list[str]) -> dict[str, Path]:
    """The model's file in each recipe, made where it is missing."""
    files = {recipe: args.folder / f"{name}-{recipe}.gguf" for recipe in recipes}
    missing = {recipe: file for recipe, file in files.items() if not file.exists()}
    if missing:
        weights = 2 * parameters(MODELS[name])
        args.folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(args.folder).free < weights * (1 + len(missing)):
            print(f"{args.folder}: a {name} model in bf16 and its outputs may not fit on this disk.", file=sys.stderr)
        source = make_llama(args.folder / name, MODELS[name])
        for recipe, file in missing.items():
            options = SPECIAL.get(recipe, ("--to", recipe))
            command = [sys.executable, "-m", "fewbits", "quantize", str(source), "-o", str(file), *options, "--quiet"]
            subprocess.run([*command, "--threads", str(args.threads)], check=True)
        if not args.keep_source:
            (source / "model.safetensors").unlink()
    return files


def parameters(shape: Shape) -> int:
    """The weights of a model."""
    return sum(int(np.prod(dims)) for _, dims in shape.tensors())


@dataclass(frozen=True)
class Tool:
    """Something that can be measured; `run` is one process."""

    args: argparse.Namespace
    name = ""

    def run(self, file: Path, *, prompt: int, generate: int, depth: int, repeats: int, warm: bool) -> dict[str, float]:
        """Tokens per second of what was asked for, and the process's peak memory and seconds."""
        began, worked = time.perf_counter(), busy_seconds()
        command = self.command(file, (prompt, generate, depth, repeats), warm)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            printed = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                assert process.stderr is not None
                raise SystemExit(f"{' '.join(command)} ended with code {process.returncode}: {process.stderr.read()!r}")
        seconds = time.perf_counter() - began
        others = busy_seconds() - worked - usage.ru_utime - usage.ru_stime
        share = max(0.0, 100 * others / (seconds * (os.cpu_count() or 1)))
        # Linux counts in KiB.
        peak = usage.ru_maxrss * 1024 / 1e6
        return {**self.rates(json.loads(printed)), "peak": peak, "seconds": seconds, "others": share}

    def command(self, file: Path, sizes: tuple[int, int, int, int], warm: bool) -> list[str]:
        """The command line for (prompt, generate, depth, repeats)."""
        raise NotImplementedError

    def rates(self, printed: Any) -> dict[str, float]:
        """Tokens per second out of what was printed."""
        raise NotImplementedError


@dataclass(frozen=True)
class Ours(Tool):
    """`fewbits bench`."""

    name = "fewbits"

    def command(self, file: Path, sizes: tuple[int, int, int, int], warm: bool) -> list[str]:
        """With every option said."""
        options = zip(("--prompt", "--generate", "--depth", "--repeats"), map(str, sizes), strict=True)
        words = [word for option in options for word in option]
        warming = "--warm-up" if warm else "--no-warm-up"
        command = [sys.executable, "-m", "fewbits", "bench", str(file), *words, warming]
        return [*command, "--threads", str(self.args.threads), "--no-limit", "--json"]

    def rates(self, printed: Any) -> dict[str, float]:
        """Medians, as they are printed."""
        keys = (key for key in ("prompt", "generation") if printed[key])
        return {key: printed[key]["tokens_per_second"] for key in keys}


@dataclass(frozen=True)
class Peer(Tool):
    """llama-bench, or what stands for it."""

    prefix: list[str]
    name = "llama.cpp"

    def command(self, file: Path, sizes: tuple[int, int, int, int], warm: bool) -> list[str]:
        """In the letters of llama-bench."""
        options = zip(("-p", "-n", "-d", "-r"), map(str, sizes), strict=True)
        words = [word for option in options for word in option]
        command = [*self.prefix, "-m", str(file), *words, "-t", str(self.args.threads), "-o", "json"]
        return command if warm else [*command, "--no-warmup"]

    def rates(self, printed: Any) -> dict[str, float]:
        """Medians of the samples."""
        return {
            "prompt" if test["n_prompt"] else "generation": statistics.median(test["samples_ts"]) for test in printed
        }


def peer_command(args: argparse.Namespace) -> list[str] | None:
    """What runs the peer, or None where there is none."""
    if args.llama_bench:
        return [args.llama_bench]
    if importlib.util.find_spec("llama_cpp"):
        return [sys.executable, str(Path(__file__).with_name("llama_decoding.py"))]
    return None


def measure(args: argparse.Namespace, tools: list[Tool], file: Path) -> dict[str, dict[str, list[float]]]:
    """Figure -> tool -> the figure of each round."""
    found: dict[str, dict[str, list[float]]] = {}

    def note(figure: str, tool: Tool, value: float) -> None:
        found.setdefault(figure, {}).setdefault(tool.name, []).append(value)

    for tool in turns(args.rounds, tools, file):
        both = tool.run(file, prompt=PROMPT, generate=GENERATED, depth=0, repeats=args.repeats, warm=True)
        note(f"prompt {PROMPT}", tool, both["prompt"])
        note(f"generate {GENERATED}", tool, both["generation"])
        note("peak MB", tool, both["peak"])
        note("others %", tool, both["others"])
        note("first token s", tool, tool.run(file, prompt=0, generate=1, depth=0, repeats=1, warm=False)["seconds"])
    for tool in turns(args.deep_rounds if args.depth else 0, tools, file):
        deep = tool.run(file, prompt=0, generate=GENERATED, depth=args.depth, repeats=args.repeats, warm=True)
        note(f"behind {args.depth}", tool, deep["generation"])
        note(f"peak MB, {args.depth}", tool, deep["peak"])
        note(f"others %, {args.depth}", tool, deep["others"])
    found["file MB"] = {"fewbits": [file.stat().st_size / 1e6]}
    return found


def busy_seconds() -> float:
    """Seconds that all processors have worked, those that a hypervisor gave to others included; 0 but on Linux."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _idle, _waiting, *others = map(int, stat.read_text().split("\n", 1)[0].split()[1:9])
    return (user + nice + system + sum(others)) / os.sysconf("SC_CLK_TCK")


def turns(rounds: int, tools: list[Tool], file: Path) -> Iterator[Tool]:
    """Every tool once a round, in changing order, each behind a reading of the file into the page cache."""
    for number in range(rounds):
        for tool in tools if number % 2 == 0 else tools[::-1]:
            warm(file)
            yield tool


def warm(file: Path) -> None:
    """Read a file."""
    with file.open("rb", buffering=0) as stream:
        piece = bytearray(1 << 24)
        while stream.readinto(piece):
            pass


def lines(measured: dict[str, dict[str, list[float]]]) -> Iterator[str]:
    """Per figure both medians, and how their ratio spreads over the rounds."""
    for figure, of in measured.items():
        ours, theirs = of.get("fewbits", []), of.get("llama.cpp", [])
        medians = "".join(
            f"{statistics.median(values):{width}.2f}" if values else f"{'-':>{width}}"
            for values, width in ((ours, 10), (theirs, 11))
        )
        compared = [] if figure.startswith("others") else zip(ours, theirs, strict=False)
        ratios = [a / b for a, b in compared]
        spread = f"{statistics.median(ratios):8.2f}   {min(ratios):.2f} to {max(ratios):.2f}" if ratios else ""
        yield f"{figure:20}{medians}{spread}"


if __name__ == "__main__":
    main()
