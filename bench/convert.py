"""Time and memory of `fewbits convert` beside `cp`, on a Llama of random bf16 weights in two shards.

    python bench/convert.py [FOLDER] [--layers 32] [--rounds 3] [--threads 2]

FOLDER (out/bench) holds the model (4.2 GB with 32 layers, made when missing) and the outputs. "plain" converts the
shards to a GGUF file, where nothing is computed but the order of rows; "cp" copies the same shards. Then the model in
the dialect of GPTQ (int4 in groups of 32, made when missing) goes to compressed-tensors and to GGUF. Whole processes
are timed in changing order, fewbits with hashing source and output, verifying and syncing to disk; "synced" is `cp`
and then `sync` of its files. Peak is memory less file-backed pages.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from random_llama import ONE_BILLION, make_llama

SHARDS = 2


def main() -> int:
    """Print the table."""
    options = parse()
    whole = make_llama(options.folder / f"llama-{options.layers}", replace(ONE_BILLION, layers=options.layers))
    model = shard(whole, options.folder / f"llama-{options.layers}-shards")
    gptq = options.folder / f"llama-{options.layers}-gptq"
    if not gptq.exists():
        fewbits("quantize", model, "-o", gptq, "--to", "int4_g32_sym_f16", "--dialect", "gptq")
    cases = {
        "plain -> GGUF": (model, options.folder / "out.gguf", []),
        "gptq -> compressed-tensors": (gptq, options.folder / "out", ["--dialect", "compressed-tensors"]),
        "gptq -> GGUF": (gptq, options.folder / "out.gguf", []),
    }
    print(f"{'':28}{'GB':>7}{'fewbits s':>11}{'cp s':>8}{'ratio':>8}{'synced s':>10}{'ratio':>8}{'peak MB':>9}")
    for name, (source, output, more) in cases.items():
        row(name, source, output, more, options)
    return 0


def row(name: str, source: Path, output: Path, more: list[str], options: argparse.Namespace) -> None:
    """Rounds of both, in changing order; ratios of times are medians of rounds."""
    ours, copies, synced, peak = [], [], [], 0.0
    for number in range(options.rounds):
        for who in ("ours", "cp") if number % 2 else ("cp", "ours"):
            if who == "cp":
                plain, both = copied(source, options.folder / "copy")
                copies.append(plain)
                synced.append(both)
                continue
            remove(output)
            began = time.perf_counter()
            record = fewbits("convert", source, output, "--threads", str(options.threads), *more)
            ours.append(time.perf_counter() - began)
            peak = max(peak, record["peak_memory"] / 1e6)
    remove(output)
    size = sum(file.stat().st_size for file in source.glob("*.safetensors")) / 1e9
    ratios = [statistics.median(c / o for c, o in zip(each, ours, strict=True)) for each in (copies, synced)]
    medians = [statistics.median(each) for each in (ours, copies, synced)]
    print(
        f"{name:28}{size:7.2f}{medians[0]:11.2f}{medians[1]:8.2f}{ratios[0]:8.2f}{medians[2]:10.2f}{ratios[1]:8.2f}{peak:9.1f}",
        flush=True,
    )


def copied(source: Path, target: Path) -> tuple[float, float]:
    """Seconds until `cp` ends, and until what it wrote is on the disk."""
    remove(target)
    target.mkdir()
    files = [str(file) for file in source.glob("*.safetensors")]
    began = time.perf_counter()
    subprocess.run(["cp", *files, str(target)], check=True)
    plain = time.perf_counter() - began
    subprocess.run(["sync", *(str(target / Path(file).name) for file in files)], check=True)
    both = time.perf_counter() - began
    remove(target)
    return plain, both


def remove(path: Path) -> None:
    """A file or a folder, and the card beside it."""
    for each in (path, path.with_name(f"{path.name.removesuffix('.gguf')}.card.json")):
        shutil.rmtree(each) if each.is_dir() else each.unlink(missing_ok=True)


def fewbits(*arguments: str | Path) -> dict[str, Any]:
    """The record of one command."""
    command = [sys.executable, "-m", "fewbits", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    record: dict[str, Any] = json.loads(done.stdout)
    return record


def shard(model: Path, folder: Path) -> Path:
    """The same model with its tensors in two files behind an index."""
    if folder.exists():
        return folder
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for path in model.glob("*.json"):
        shutil.copyfile(path, partial / path.name)
    with (model / "model.safetensors").open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        names: list[str] = list(header)
        where: dict[str, str] = {}
        for number in range(SHARDS):
            own = names[number * len(names) // SHARDS : (number + 1) * len(names) // SHARDS]
            path = partial / f"model-{number + 1:05d}-of-{SHARDS:05d}.safetensors"
            write_shard(path, file, 8 + length, {name: header[name] for name in own})
            where |= dict.fromkeys(own, path.name)
    (partial / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    partial.rename(folder)
    return folder


def write_shard(path: Path, source: Any, start: int, entries: dict[str, Any]) -> None:
    """A safetensors file with tensors of another one."""
    header, position = {}, 0
    for name, entry in entries.items():
        begin, end = entry["data_offsets"]
        header[name] = {**entry, "data_offsets": [position, position + end - begin]}
        position += end - begin
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for entry in entries.values():
            begin, end = entry["data_offsets"]
            source.seek(start + begin)
            for at in range(begin, end, 1 << 24):
                file.write(source.read(min(1 << 24, end - at)))


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("out/bench"))
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
