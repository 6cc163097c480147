"""Speed of the native codecs beside ggml's, per format: encoding, encoding by importance, decoding beside a plain copy.

    python bench/kernels.py [--formats NAME ...] [--threads 2] [--repeats 5] [--encode-rows 256] [--decode-rows 4096]

Every format of the registry that has a native codec, the listed members of families too, is measured on rows of 4096
heavy-tailed numbers, or as many as whole groups have, which are split evenly over the threads. Encoding: millions of
weights per second, ours (with the errors of each row, which encoding always measures; what all rows share is made
before) and ggml's own quantizer from the library in llama-cpp-python, in changing order within the same round; "times"
is the median of the rounds' ratios. "by importance" is the same with a vector of importance. Where ggml refuses to work
without one, both get an even one; "-" stands where there is no peer. Decoding: bytes read and written per second, and
what share that is of the bytes per second of copying as many numbers, measured in the same round. Time is the processor
time of the slowest thread, which on an idle machine is the time on the wall. `--formats` takes any member of a family.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fewbits import formats, kernels
from fewbits.kernels.fields import decode_fields, encode_fields, has_fields_codec

sys.path.append(str(Path(__file__).parent.parent / "tests"))

COLS = 4096
NOT_WITHOUT_IMPORTANCE = ("IQ2_XXS", "IQ2_XS", "IQ1_S")
"""The types for which ggml refuses to work without importance."""

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Turn = Callable[[slice], object]
NAN = float("nan")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [name for name in formats.FORMATS if is_row(name) or has_fields_codec(formats.get(name))]
    parser.add_argument("--formats", nargs="+", default=known, metavar="NAME")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--encode-rows", type=int, default=256)
    parser.add_argument("--decode-rows", type=int, default=4096)
    args = parser.parse_args()
    peer = ggml()
    print(f"{kernels.isa()}, {args.threads} threads; encoding in M weights/s, decoding in GB/s")
    titles = ("encode", "ggml", "times", "by import.", "ggml", "times", "decode", "of copy")
    print(f"{'format':28}" + "".join(f"{title:>12}" for title in titles))
    with ThreadPoolExecutor(args.threads) as pool:
        clock = Clock(pool, args.threads, args.repeats)
        drawn = heavy_tailed(args.encode_rows)
        for name in args.formats:
            span = formats.get(name).span or 1
            w = np.ascontiguousarray(drawn[:, : COLS // span * span])
            figures = (*encoding(clock, name, w, peer), *decoding(clock, name, w, args.decode_rows))
            cells = ("-" if math.isnan(figure) else f"{figure:.2f}" for figure in figures)
            print(f"{name:28}" + "".join(f"{cell:>12}" for cell in cells), flush=True)


def is_row(name: str) -> bool:
    """Whether the format is a string of bytes per row with a native codec; others have several fields."""
    return name in kernels.formats()


def ggml() -> ModuleType | None:
    """The C functions of ggml, or None where llama-cpp-python is missing."""
    try:
        import_module("llama_cpp")
    except ImportError:
        return None
    return import_module("peers.ggml")


def heavy_tailed(rows: int) -> Floats:
    """Student's t of 3 (rows, COLS), of the size of a model's weights."""
    drawn: Floats = (0.02 * np.random.default_rng(20261121).standard_t(3, (rows, COLS))).astype(np.float32)
    return drawn


@dataclass(frozen=True)
class Clock:
    """Runs turns over slices of rows, one slice per thread, turn after turn and round after round."""

    pool: ThreadPoolExecutor
    threads: int
    repeats: int

    def seconds(self, turn: Turn, rows: int) -> float:
        """Processor seconds of the slowest thread in `turn` over all rows."""

        def timed(part: slice) -> float:
            began = time.thread_time()
            turn(part)
            return time.thread_time() - began

        edges = [rows * i // self.threads for i in range(self.threads + 1)]
        return max(self.pool.map(timed, [slice(*ends) for ends in pairwise(edges)]))

    def compare(self, first: Turn, second: Turn, rows: int) -> tuple[float, float, float]:
        """Median seconds of both, and the median of the second's time over the first's."""
        times: dict[Turn, list[float]] = {first: [], second: []}
        for turn in (first, second):
            turn(slice(0, min(rows, 8)))
        for number in range(self.repeats):
            for turn in (first, second)[:: 1 if number % 2 == 0 else -1]:
                times[turn].append(self.seconds(turn, rows))
        ratios = [b / a for a, b in zip(times[first], times[second], strict=True)]
        return statistics.median(times[first]), statistics.median(times[second]), statistics.median(ratios)


def encoding(clock: Clock, name: str, w: Floats, peer: ModuleType | None) -> tuple[float, ...]:
    """M weights/s of ours and of ggml's and their ratio, without importance and with it; NaN where there is none."""
    even = np.ones(w.shape[1], np.float32) if name in NOT_WITHOUT_IMPORTANCE else None
    figures = encoding_by(clock, name, w, even, peer)
    weighted = name in kernels.weighted_formats() if is_row(name) else formats.get(name).rows != 0
    if not weighted:
        return (*figures, NAN, NAN, NAN)
    importance = np.random.default_rng(1).chisquare(1, (w.shape[1],)).astype(np.float32)
    return (*figures, *encoding_by(clock, name, w, importance, peer))


def encoding_by(
    clock: Clock, name: str, w: Floats, importance: Floats | None, peer: ModuleType | None
) -> tuple[float, float, float]:
    """M weights/s of ours and of ggml's, and their ratio, under one vector of importance or none."""
    ours = encoder(name, w, importance)

    def theirs(rows: slice) -> None:
        assert peer is not None
        peer.encode(name, w[rows], importance)

    if peer is None or name not in peer.FORMATS:
        seconds, *_ = clock.compare(ours, lambda rows: None, len(w))
        return w.size / seconds / 1e6, NAN, NAN
    seconds, peer_seconds, ratio = clock.compare(ours, theirs, len(w))
    return w.size / seconds / 1e6, w.size / peer_seconds / 1e6, ratio


def encoder(name: str, w: Floats, importance: Floats | None) -> Turn:
    """What encodes some rows of `w`."""
    format, source = formats.get(name), w.view(np.uint8)
    if is_row(name):
        size = formats.row_bytes(format, w.shape[1])
        return lambda rows: kernels.encode_rows(name, source[rows], "F32", size, importance=importance)
    like = format.prepare([torch.from_numpy(w)])

    def encode(rows: slice) -> None:
        own = like and like.slice(rows.start, rows.stop)
        encode_fields(format, source[rows], "F32", like=own, importance=importance)

    return encode


def decoding(clock: Clock, name: str, w: Floats, rows: int) -> tuple[float, float]:
    """GB/s of decoding, bytes read and written, and its share of the GB/s of copying the numbers."""
    shape = rows, w.shape[1]
    source, target = np.ones(shape, np.float32), np.zeros(shape, np.float32)
    decode = decoder(name, w, target)

    def copy(part: slice) -> None:
        np.copyto(target[part], source[part])

    seconds, copy_seconds, _ = clock.compare(decode, copy, rows)
    moved = formats.bits(formats.get(name), *shape) // 8 + target.nbytes
    speed, copy_speed = moved / seconds, 2 * target.nbytes / copy_seconds
    return speed / 1e9, speed / copy_speed


def decoder(name: str, w: Floats, target: Floats) -> Turn:
    """What decodes rows, those of `w` again and again, into rows of `target`."""
    format, (count, cols) = formats.get(name), target.shape
    if is_row(name):
        size, importance = formats.row_bytes(format, cols), np.ones(cols, np.float32)
        encoded = kernels.encode_rows(name, w.view(np.uint8), "F32", size, importance=importance).stored
        stored = np.resize(encoded, (count, size))
        return lambda rows: kernels.decode_rows(name, stored[rows], cols, into=target[rows])
    found = encode_fields(format, w.view(np.uint8), "F32").fields
    shapes = format.shapes(count, cols).items()
    fields: formats.Fields = {key: np.resize(found[key], shape) for key, (_, shape) in shapes}

    def decode(rows: slice) -> None:
        shape = (rows.stop - rows.start, cols)
        own = {key: lines(fields[key], rows, count, first) for key, (_, (first, *_)) in format.shapes(*shape).items()}
        decode_fields(format, own, shape, into=target[rows])

    return decode


def lines(field: npt.NDArray[Any], rows: slice, count: int, wanted: int) -> npt.NDArray[Any]:
    """The `wanted` lines of a field of `count` rows that serve `rows`; a field that all rows share, as it is."""
    first = 0 if wanted == len(field) else len(field) * rows.start // count
    return field[first : first + wanted]


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
