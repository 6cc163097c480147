"""Write docs/containers.md: which container holds which format, asked of the containers themselves.

python scripts/containers_document.py
"""

from __future__ import annotations

from pathlib import Path

from fewbits import formats
from fewbits.checkpoints import gguf_writer
from fewbits.checkpoints.dialects import DIALECTS, ROUNDED_AS, get, refusal
from fewbits.checkpoints.equivalents import BY_FIELDS, BY_ROWS
from fewbits.checkpoints.fields import PLAIN, Matrix
from fewbits.checkpoints.onnx.dialects import GRAPH_DIALECTS, GraphMatrix
from fewbits.checkpoints.onnx.dialects import get as graph_dialect
from fewbits.testing.dialect_suite import MORE

DOCUMENT = Path(__file__).parent.parent / "docs" / "containers.md"
GRAPHS = ("int4_g32_sym", "int8_g32_sym", "int2_g32_sym", "uint4_g64_asym", "uint8_g64_asym", "uint2_g64_asym")
"""Formats that graphs in float32 are made for."""
MATRIX = "model.layers.0.mlp.up_proj.weight"
SHAPE = (4096, 6144)
"""What every format and every dialect can cut into its groups."""

INTRODUCTION = """# Containers and dialects

<!-- Written by scripts/containers_document.py; a test compares. -->

A **container** is a kind of file: GGUF, a model directory with safetensors, or an ONNX graph. In a directory, and in a
graph, a **dialect** says how the codes, scales and zero points of a matrix are named and packed: `fewbits` is our own
and holds every format; the others are what other programs read. `fewbits quantize SOURCE -o OUT --to FORMAT --dialect
NAME` writes one, recipes of known algorithms bring theirs (`--to gptq`, `awq`, `w8a8`, `w8a8_fp8`, `smoothquant`), and

```
fewbits convert SOURCE OUT [--dialect NAME]          # directory in any dialect -> directory in another
fewbits convert DIRECTORY OUT.gguf                   # formats that ggml has, or has under another name
fewbits convert FILE.gguf OUT --like DIRECTORY       # back, with configuration and tokenizer of the original
fewbits convert FILE.onnx OUT.onnx [--dialect NAME]  # a graph from qdq to matmulnbits, or to qdq
```

moves between them **without rounding anything**: what is written is read again by code of its own and compared, number
by number, with what was read. `inspect` reads all of them, and `compare` all but graphs. Where a container cannot hold
a format, the command says so before it works, and nothing is written.

A directory's weights may lie in several files behind an index (`--split-size 5G`), and a GGUF file in parts. A torch
module in memory holds every format, too: `fewbits.quantize(network, "nf4_g64_dq")`
([what of it, and how](design/0017-modules.md)).

"""


def document() -> str:
    """The whole text."""
    parts = [INTRODUCTION, "## Who reads which dialect\n\n", _readers(), "\n## Which container holds which format\n\n"]
    parts += [_graphs(), _legend(), _table(), "\n## What a refusal says\n\n", _refusals()]
    return "".join(parts)


def _readers() -> str:
    lines = ["| dialect | holds | read by |", "|---|---|---|", "| `fewbits` | every format | fewbits |"]
    for name in DIALECTS:
        dialect = get(name)
        holds = (type(dialect).__doc__ or "").strip().rstrip(".").replace("\n    ", " ")
        lines.append(f"| `{name}` | {holds} | {dialect.readers} |")
    for name in GRAPH_DIALECTS:
        graph = graph_dialect(name)
        holds = (type(graph).__doc__ or "").strip().rstrip(".").replace("\n    ", " ")
        lines.append(f"| `{name}` (ONNX) | {holds} | {graph.readers} |")
    return "\n".join(lines) + "\n"


def _graphs() -> str:
    return (
        "An ONNX graph is quantized as a graph: `fewbits quantize MODEL.onnx -o OUT.onnx --to int4_g32_sym`, with\n"
        "`--dialect matmulnbits` (the default) or `qdq`. Scales have the type that the graph computes in: where a\n"
        "format has members with scales in 32 and in 16 bits, a float32 graph takes the first, a float16 graph the\n"
        "second.\n"
        "[How, and what not](design/0016-onnx.md).\n\n"
    )


def _legend() -> str:
    return (
        "Formats with parameters stand for their family: what holds `int4_g64_sym_f16` holds other groups too, as far\n"
        "as its readers know them. A name in a cell is the one under which the same numbers lie there; `yes*`: with\n"
        "inputs rounded per token.\n\n"
    )


def _table() -> str:
    names = list(dict.fromkeys([*formats.FORMATS, *MORE, *GRAPHS]))
    head = ["format", "GGUF", "`fewbits`", *(f"`{name}`" for name in (*DIALECTS, *GRAPH_DIALECTS))]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name in names:
        cells = [_in_gguf(name), "yes", *(_in_dialect(dialect, name) for dialect in DIALECTS)]
        cells += [_in_graph(dialect, name) for dialect in GRAPH_DIALECTS]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _in_gguf(name: str) -> str:
    if gguf_writer.refuses(name) is None:
        return "yes"
    return f"`{BY_FIELDS[name].rows}`" if name in BY_FIELDS else ""


def _in_dialect(dialect: str, name: str) -> str:
    if name in PLAIN:
        return "as it is"
    if _held(dialect, name):
        return "yes"
    if any(_held(dialect, name, activation) for activation in get(dialect).inputs):
        return "yes*"
    pair = BY_ROWS.get(name)
    return f"`{pair.fields}`" if pair and _held(dialect, pair.fields) else ""


def _in_graph(dialect: str, name: str) -> str:
    if name in PLAIN:
        return "as it is"
    pair = BY_ROWS.get(name)
    own = pair.fields if pair else name
    matrix = GraphMatrix(MATRIX, own, SHAPE, transposed=True, dims=SHAPE[::-1])
    held = formats.fits(formats.get(name), SHAPE[1]) and graph_dialect(dialect).refuses(matrix) is None
    return "" if not held else f"`{own}`" if pair else "yes"


def _held(dialect: str, name: str, activation: str | None = None) -> bool:
    fits = formats.fits(formats.get(name), SHAPE[1])
    return fits and refusal(get(dialect), Matrix(MATRIX, name, SHAPE, activation)) is None


def _refusals() -> str:
    lines = []
    for dialect, name in (
        ("gptq", "nf4_g64"),
        ("awq", "int4_g128_sym_f16"),
        ("bitsandbytes", "int8_g64_sym"),
        ("mlx", "Q4_K"),
        ("torchao", "nf4_g64"),
    ):
        why = refusal(get(dialect), Matrix(MATRIX, name, SHAPE))
        lines.append(
            f"- `--to {name} --dialect {dialect}`: tensor {MATRIX} {why}; --dialect fewbits holds every format."
        )
    lines.append("- columns kept in 16 bits (`outliers`) and GPT-2's Conv1D: only `--dialect fewbits` can say them.")
    lines.append(
        "- what torchao saves in tiles of a CUDA kernel (Int4TilePackedTo4dTensor), with zero points in floats\n"
        "  (Int4Tensor where they are not 0), or as MX, whose inputs its readers always round: not read."
    )
    lines.append("")
    lines += [
        f"`--to {old} --dialect {dialect}` becomes `{own}`: readers round so."
        for (dialect, old), own in ROUNDED_AS.items()
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
