"""Time and memory of `fewbits quantize` beside llama.cpp's quantizer, on a Llama of random bf16 weights.

    python bench/quantize.py [FOLDER] [--llama-quantize PATH] [--repeats 3] [--threads 2] [--recipes NAME ...]

FOLDER (out/bench) holds the models (2.4 GB for 1.1 B parameters, made when missing) and the outputs. Each round runs
both tools one after the other, in changing order, from the same BF16 GGUF file. Whole processes are timed: fewbits with
hashing, verifying and syncing to disk, llama.cpp without any of these; "synced" adds the time until its file is on the
disk too. Without --llama-quantize (or $LLAMA_QUANTIZE) the peer is the library in llama-cpp-python, and without that
only fewbits runs.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from random_llama import LARGE_EMBEDDING, ONE_BILLION, make_llama

PEER = """
import ctypes, sys, llama_cpp
source, target, recipe, threads = sys.argv[1:]
p = llama_cpp.llama_model_quantize_default_params()
p.nthread = int(threads)
p.ftype = getattr(llama_cpp, "LLAMA_FTYPE_MOSTLY_" + recipe)
sys.exit(llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(p)))
"""


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("out/bench"))
    parser.add_argument("--llama-quantize", default=os.environ.get("LLAMA_QUANTIZE"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--recipes", nargs="+", default=["Q4_K_M", "Q8_0", "Q4_0"])
    args = parser.parse_args()
    model = make_llama(args.folder / "llama-1.1b", ONE_BILLION)
    source = args.folder / "llama-1.1b-BF16.gguf"
    if not source.exists():
        fewbits(str(model), source, "BF16", args.threads)
    titles = ("seconds", "llama.cpp s", "ratio", "synced s", "ratio", "M params/s", "peak MB", "disk s")
    print(f"{'recipe':8}" + "".join(f"{title:>13}" for title in titles))
    for recipe in args.recipes:
        ours, theirs, synced, record, parameters = rounds(args, source, recipe)
        mine = statistics.median(ours)
        disk = seconds_of_disk(args.folder, record["preview"]["bytes_out"])
        peak = record["peak_memory"] / 1e6
        peers = (*against(ours, theirs), *against(ours, synced))
        figures = (mine, *peers, parameters / mine / 1e6, peak, disk)
        print(f"{recipe:8}" + "".join(f"{figure:13.2f}" for figure in figures), flush=True)
    embedding(args)


def against(ours: list[float], theirs: list[float]) -> tuple[float, float]:
    """Median seconds of the peer, and the median of its time over ours, round by round; NaN without a peer."""
    if not theirs:
        return float("nan"), float("nan")
    return statistics.median(theirs), statistics.median(t / o for o, t in zip(ours, theirs, strict=True))


def rounds(
    args: argparse.Namespace, source: Path, recipe: str
) -> tuple[list[float], list[float], list[float], dict[str, Any], int]:
    """Wall seconds of fewbits, of the peer, and of the peer until its file is on the disk; the last record."""
    ours: list[float] = []
    theirs: list[float] = []
    synced: list[float] = []
    record: dict[str, Any] = {}
    target, peer_target = args.folder / f"fewbits-{recipe}.gguf", args.folder / f"peer-{recipe}.gguf"
    command = peer_command(args, source, peer_target, recipe)

    def mine() -> None:
        nonlocal record
        began = time.perf_counter()
        record = fewbits(str(source), target, recipe, args.threads)
        ours.append(time.perf_counter() - began)

    def peer() -> None:
        if command:
            began = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            theirs.append(time.perf_counter() - began)
            with peer_target.open("rb+") as file:
                os.fsync(file.fileno())
            synced.append(time.perf_counter() - began)

    turns: list[Callable[[], None]] = [mine, peer]
    for number in range(args.repeats):
        for turn in turns if number % 2 == 0 else turns[::-1]:
            turn()
        for path in (target, peer_target):
            path.unlink(missing_ok=True)
    return ours, theirs, synced, record, int(record["preview"]["parameters"])


def fewbits(source: str, target: Path, recipe: str, threads: int) -> dict[str, Any]:
    """One run of the command line; its record."""
    command = [sys.executable, "-m", "fewbits", "quantize", source, "-o", str(target), "--to", recipe]
    command += ["--threads", str(threads), "--force", "--json"]
    # An installed package has its bytecode; where Python is told not to keep any, each run would compile anew.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
    record: dict[str, Any] = json.loads(done.stdout)
    return record


def peer_command(args: argparse.Namespace, source: Path, target: Path, recipe: str) -> list[str] | None:
    """The peer's command line, or None when there is no peer."""
    if args.llama_quantize:
        return [args.llama_quantize, str(source), str(target), recipe, str(args.threads)]
    if importlib.util.find_spec("llama_cpp"):
        return [sys.executable, "-c", PEER, str(source), str(target), recipe, str(args.threads)]
    return None


def seconds_of_disk(folder: Path, size: int) -> float:
    """Seconds to write and sync `size` bytes: the floor of every tool that keeps its file through a power cut."""
    path, piece = folder / "disk.tmp", os.urandom(1 << 24)
    began = time.perf_counter()
    with path.open("wb") as file:
        for _ in range(max(1, size // len(piece))):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    seconds = time.perf_counter() - began
    path.unlink()
    return seconds


def embedding(args: argparse.Namespace) -> None:
    """Peak memory on a model whose embedding has 131,072 x 4,096 weights (2.1 GB in float32)."""
    model = make_llama(args.folder / "llama-large-embedding", LARGE_EMBEDDING)
    target = args.folder / "fewbits-embedding.gguf"
    record = fewbits(str(model), target, "Q4_K_M", args.threads)
    target.unlink()
    print(f"embedding 131072 x 4096: peak {record['peak_memory'] / 1e6:.0f} MB less file-backed pages")


if __name__ == "__main__":
    main()
