"""What the scripts of other tools share: tokens in, their decoded int4 out as a model directory in float32."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

GROUP = 128
"""Columns that share a scale."""

CODES = 16
"""Values that four bits tell apart."""


def parse(description: str | None) -> argparse.Namespace:
    """MODEL_DIR TOKENS.npy OUT_DIR, which every script takes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL_DIR")
    parser.add_argument("tokens", type=Path, metavar="TOKENS.npy", help="int64 (windows, length)")
    parser.add_argument("output", type=Path, metavar="OUT_DIR")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if options.output.exists():
        parser.error(f"{options.output} exists; name a directory that does not.")
    torch.set_num_threads(options.threads)
    return options


def read_windows(path: Path) -> torch.Tensor:
    """Token ids (windows, length), int64."""
    return torch.from_numpy(np.load(path).astype(np.int64))


def distinct_values(matrix: torch.Tensor) -> int:
    """The most distinct values in any group of a matrix (rows, columns).

    >>> distinct_values(torch.arange(256.0).reshape(1, 256) // 64)
    2
    """
    groups = matrix.reshape(matrix.shape[0], -1, GROUP).sort(dim=-1).values
    return int((groups.diff(dim=-1) != 0).sum(dim=-1).max()) + 1


def relative_error(before: torch.Tensor, after: torch.Tensor) -> float:
    """Root mean square of the error over that of the matrix.

    >>> relative_error(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 3.0]))
    0.2
    """
    return round(float((after.double() - before.double()).norm() / before.double().norm()), 6)


def write(
    options: argparse.Namespace,
    decoded: Mapping[str, torch.Tensor],
    *,
    before: Mapping[str, torch.Tensor] | None = None,
    folded: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """The model in float32 with `decoded` matrices in place of its own, checked to be int4 by groups.

    `before` are the matrices that were rounded, where they are not the model's own, and `folded` the vectors that took
    up the difference. Exits where a name, a shape or the number of values of a group is not as it must be.
    """
    original = {name: tensor.float() for path in shards(options.model) for name, tensor in load_file(path).items()}
    result = original | {name: t.detach().float().contiguous() for name, t in {**(folded or {}), **decoded}.items()}
    if any(name not in original or original[name].shape != tensor.shape for name, tensor in result.items()):
        sys.exit("a tensor of the tool's result has no like in the model.")
    before = before or original
    errors = [relative_error(before[name].float(), result[name]) for name in decoded]
    values = max(distinct_values(result[name]) for name in decoded)
    if values > CODES:
        sys.exit(f"a group holds {values} distinct values, which is not int4 in groups of {GROUP} columns.")
    matrices = {name for name, tensor in original.items() if tensor.dim() == 2}
    options.output.mkdir(parents=True)
    save_file(result, options.output / "model.safetensors", metadata={"format": "pt"})
    copy_rest(options.model, options.output)
    print(f"{len(decoded)} matrices decoded; as they were: {', '.join(sorted(matrices - set(decoded)))}")
    print(f"relative error {min(errors):.4f} to {max(errors):.4f}; at most {values} distinct values in a group")


def shards(model: Path) -> list[Path]:
    """The files of a model directory that hold weights."""
    return sorted(model.glob("*.safetensors"))


def copy_rest(model: Path, output: Path) -> None:
    """Configuration and tokenizer; the configuration says float32."""
    for path in model.iterdir():
        if path.is_file() and ".safetensors" not in path.name and path.name != "config.json":
            shutil.copyfile(path, output / path.name)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)
    text = json.dumps(config | {"dtype": "float32"}, indent=2)
    (output / "config.json").write_text(text + "\n", encoding="utf-8")
