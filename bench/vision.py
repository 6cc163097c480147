"""What numbers of 8 and 4 bits cost a residual network on handwritten digits: accuracy, size and speed, in one table.

    python bench/vision.py IMAGES.gz LABELS.gz [--weights FILE] [--epochs 12] [--seconds 2]

IMAGES and LABELS are the 10,000 images of MNIST's test set (t10k-images-idx3-ubyte.gz, t10k-labels-idx1-ubyte.gz):
8,000 to train on, seeded, 2,000 to judge. 512 of those trained on calibrate. `--weights` keeps what was trained for the
next run.

Drop is in points of accuracy. p is McNemar's exact test over all judged images: against float32, and against ONNX
Runtime's own `quantize_static` with the calibration that serves it best of three, on the same graph and images. Speed
is the median of rounds in which all take turns, with 2 threads: in torch, and in ONNX Runtime (peers).
"agree" is the share of ONNX Runtime's outputs within 1/255 of their range of those of the same network in torch.
Dynamic numbers are rounded per image as an 8-bit kernel would and multiplied in floats; 4-bit weights are decoded at
each call: both for accuracy and size, not for speed.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

import fewbits
import fewbits.static
from fewbits import activations

THREADS = 2
CALIBRATED = 512
Answers = npt.NDArray[np.bool_]


class Residual(nn.Module):
    """Two convolutions with batch normalization, added to what came in, or to a convolution of it."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
        )
        self.second = nn.Sequential(nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs))
        turned = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.across = turned if inputs != outputs or stride > 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(samples, outputs, height / stride, width / stride)."""
        return torch.relu(self.second(self.first(x)) + self.across(x))


def network() -> nn.Sequential:
    """Images (samples, 1, 28, 28) to logits (samples, 10)."""
    stem = nn.Sequential(nn.Conv2d(1, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    layers = (Residual(16, 32, 2), Residual(32, 64, 2), Residual(64, 64, 1))
    return nn.Sequential(stem, *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


@dataclass(frozen=True)
class Images:
    """Images (n, 1, 28, 28) float32 and their digits (n,)."""

    x: torch.Tensor
    y: torch.Tensor


def read(images: Path, labels: Path) -> tuple[Images, Images]:
    """8,000 images to train on and 2,000 to judge."""
    pixels = np.frombuffer(gzip.decompress(images.read_bytes()), np.uint8, offset=16).reshape(-1, 1, 28, 28)
    digits = np.frombuffer(gzip.decompress(labels.read_bytes()), np.uint8, offset=8)
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))
    x = (torch.from_numpy(pixels.copy()).float() / 255.0 - 0.1307) / 0.3081
    y = torch.from_numpy(digits.astype(np.int64))
    train, test = order[:8000], order[8000:]
    return Images(x[train], y[train]), Images(x[test], y[test])


def batches(x: torch.Tensor, size: int) -> list[torch.Tensor]:
    """Parts of `size` samples."""
    return [x[start : start + size] for start in range(0, len(x), size)]


def trained(data: Images, epochs: int, kept: Path | None) -> nn.Sequential:
    """The network, trained on images moved by up to two pixels; read from `kept` where that is there."""
    torch.manual_seed(0)
    net = network()
    if kept is not None and kept.exists():
        net.load_state_dict(torch.load(kept, weights_only=True))
        return net.eval()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=1e-2)
    steps = epochs * math.ceil(len(data.y) / 100)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    for _ in range(epochs):
        for part in torch.randperm(len(data.y)).split(100):  # type: ignore[no-untyped-call]
            down, right = torch.randint(-2, 3, (2,)).tolist()
            moved = torch.roll(data.x[part], (down, right), (2, 3))
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(moved), data.y[part], label_smoothing=0.05).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    if kept is not None:
        torch.save(net.state_dict(), kept)
    return net.eval()


Run = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Way:
    """One way to run the network: in torch, in ONNX Runtime, and how many bytes it takes."""

    name: str
    torch: Run | None
    onnx: Run | None
    size: int


def called(net: nn.Module, kind: torch.dtype = torch.float32) -> Run:
    """A module as a function of images, in numbers of `kind`."""
    return lambda x: net(x.to(kind)).float()


def stored(net: nn.Module) -> int:
    """Bytes of parameters and buffers."""
    return sum(t.numel() * t.element_size() for t in [*net.parameters(), *net.buffers()])


def dynamic(net: nn.Module) -> nn.Module:
    """Weights in 8 bits per output, inputs of products in 8 bits with a scale per image."""
    found = copy.deepcopy(net)
    fewbits.quantize(found, "int8_row_sym_restricted")
    rounding = activations.get("int8_token")

    def rounded(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        x = inputs[0]
        return rounding.rounded(x.flatten(1)).reshape(x.shape)

    for module in found.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_pre_hook(rounded)
    return found


def four_bits(net: nn.Module) -> nn.Module:
    """Weights in 4 bits with a scale per output."""
    found = copy.deepcopy(net)
    fewbits.quantize(found, "int4_row_sym")
    return found


def session(path: Path) -> Run:
    """ONNX Runtime over a file."""
    onnxruntime: Any = import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = THREADS, 3
    made = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = made.get_inputs()[0].name
    return lambda x: torch.from_numpy(made.run(None, {name: x.numpy()})[0])


def exported(net: nn.Module, path: Path) -> Path:
    """The network in floats as an ONNX graph, by torch's own exporter."""
    batch = {0: torch.export.Dim("batch")}
    options: dict[str, Any] = {"dynamo": True, "dynamic_shapes": (batch,), "verbose": False, "external_data": False}
    torch.onnx.export(net, (torch.randn(4, 1, 28, 28),), str(path), **options)
    return path


def theirs(plain: Path, data: Images, folder: Path, *, per_channel: bool) -> Mapping[str, Path]:
    """ONNX Runtime's `quantize_static` by each of its calibrations, behind its own preparation, which folds."""
    quantization: Any = import_module("onnxruntime.quantization")
    preparation: Any = import_module("onnxruntime.quantization.shape_inference")
    methods = quantization.CalibrationMethod

    prepared = folder / "prepared.onnx"
    preparation.quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)
    found = {}
    for method in (methods.MinMax, methods.Entropy, methods.Percentile):
        path = folder / f"theirs-{method.name}-{per_channel}.onnx"
        quantization.quantize_static(
            str(prepared),
            str(path),
            reader(data, prepared),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=per_channel,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=method,
        )
        found[method.name] = path
    return found


def reader(data: Images, graph: Path) -> Any:
    """The calibration images, as ONNX Runtime wants them."""
    import onnx

    base: Any = import_module("onnxruntime.quantization").CalibrationDataReader
    name = onnx.load(graph).graph.input[0].name

    class Reader(base):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = iter(batches(data.x[:CALIBRATED], 64))

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {name: batch.numpy()}

    return Reader()


def right(run: Run, data: Images) -> Answers:
    """Which images a way tells right."""
    with torch.inference_mode():
        answers = torch.cat([run(part).argmax(1) for part in batches(data.x, 250)])
    return (answers == data.y).numpy()


def agreeing(way: Way, test: Images) -> str:
    """The share of outputs of ONNX Runtime within a step, 1/255 of their range, of those of the same way in torch."""
    if way.torch is None or way.onnx is None:
        return "-"
    with torch.inference_mode():
        ours, theirs = (torch.cat([run(part) for part in batches(test.x, 250)]) for run in (way.torch, way.onnx))
    return f"{float(((ours - theirs).abs() <= (ours.max() - ours.min()) / 255).float().mean()):.5f}"


def mcnemar(one: Answers, other: Answers) -> float:
    """The p of McNemar's exact test, two-sided, that both are right equally often.

    >>> mcnemar(np.array([True, True, True, False]), np.array([True, False, False, False]))
    0.5
    """
    only_one, only_other = int((one & ~other).sum()), int((other & ~one).sum())
    n, fewer = only_one + only_other, min(only_one, only_other)
    return min(1.0, float(2 * sum(math.comb(n, k) for k in range(fewer + 1)) / 2**n))


def speeds(runs: Mapping[str, Run], batch: torch.Tensor, seconds: float) -> dict[str, float]:
    """Images per second: medians over rounds in which all take turns, forwards and backwards."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    with torch.inference_mode():
        for run in runs.values():
            run(batch)
        end, order = time.perf_counter() + seconds * len(runs), list(runs)
        while time.perf_counter() < end or len(taken[order[0]]) < 4:
            for name in order:
                start = time.perf_counter()
                runs[name](batch)
                taken[name].append(time.perf_counter() - start)
            order.reverse()
    return {name: len(batch) / statistics.median(each) for name, each in taken.items()}


def ways(net: nn.Module, data: Images, test: Images, folder: Path) -> list[Way]:
    """All that are compared, ONNX Runtime's own last."""
    plain = exported(net, folder / "plain.onnx")
    halved = copy.deepcopy(net).to(torch.bfloat16)
    found = [
        Way("float32", called(net), session(plain), plain.stat().st_size),
        Way("bf16", called(halved, torch.bfloat16), None, stored(halved)),
        Way("INT8 dynamic", called(dynamic(net)), None, stored(dynamic(net))),
    ]
    for scales, bits in (("tensor", 8), ("channel", 8), ("tensor", 7), ("channel", 7)):
        quantized = fewbits.static.quantize(net, batches(data.x[:CALIBRATED], 64), weights=scales, weight_bits=bits)
        path = fewbits.static.to_onnx(quantized, folder / f"ours-{scales}-{bits}.onnx")
        name = f"INT8 static per {scales}" + (", weights of 7 bits" if bits == 7 else "")
        found.append(Way(name, called(quantized), session(path), quantized.record.bytes_after))
        print(f"{name}:\n{quantized.record.table()}\n")
    found.append(Way("INT4 weights", called(four_bits(net)), None, stored(four_bits(net))))
    for per_channel in (False, True):
        by_method = theirs(plain, data, folder, per_channel=per_channel)
        best = max(by_method, key=lambda name: float(right(session(by_method[name]), test).mean()))
        scales = "channel" if per_channel else "tensor"
        path = by_method[best]
        found.append(Way(f"ORT static per {scales} ({best})", None, session(path), path.stat().st_size))
    return found


def table(found: list[Way], test: Images, seconds: float) -> str:
    """The table."""
    answers = {way.name: right(run, test) for way in found if (run := way.torch or way.onnx)}
    in_torch = speeds({way.name: way.torch for way in found if way.torch}, test.x[:250], seconds)
    in_onnx = speeds({way.name: way.onnx for way in found if way.onnx}, test.x[:250], seconds)
    float_answers = answers["float32"]
    peer = max((way.name for way in found if way.name.startswith("ORT")), key=lambda name: answers[name].mean())
    lines = [f"{'':42} accuracy   drop  p float    p ORT   bytes  torch img/s  ORT img/s  ORT accuracy    agree"]
    for way in found:
        own = answers[way.name]
        p = mcnemar(own, float_answers), mcnemar(own, answers[peer])
        speed = [f"{each[way.name]:9.0f}" if way.name in each else f"{'-':>9}" for each in (in_torch, in_onnx)]
        there = f"{100 * right(way.onnx, test).mean():12.2f}" if way.onnx else f"{'-':>12}"
        drop = 100 * (float_answers.mean() - own.mean())
        lines.append(
            f"{way.name:42} {100 * own.mean():8.2f} {drop:6.2f} {p[0]:8.3f} {p[1]:8.3f} {way.size:7d}    {speed[0]}  "
            f"{speed[1]}  {there}  {agreeing(way, test):>7}"
        )
    return "\n".join([*lines, f"p ORT: against {peer}. {len(test.y)} images; {THREADS} threads; batches of 250."])


def main() -> int:
    """Read, train, quantize in every way, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    data, test = read(options.images, options.labels)
    net = trained(data, options.epochs, options.weights)
    with tempfile.TemporaryDirectory() as folder:
        print(table(ways(net, data, test, Path(folder)), test, options.seconds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
