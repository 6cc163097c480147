"""What an installed transformers makes of a directory in the hqq dialect: kinds of modules, and logits beside ours.

    python bench/peers/hqq_transformers.py DIRECTORY --write LOGITS.npy     in an environment with transformers and hqq
    python bench/peers/hqq_transformers.py DIRECTORY --beside LOGITS.npy    in ours

All in float32 on the CPU.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

TOKENS = torch.arange(5, 69)[None]


def main() -> int:
    """Load, count, write or compare."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("directory", type=Path)
    what = options.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", type=Path)
    what.add_argument("--beside", type=Path)
    given = options.parse_args()
    network = by_transformers(given.directory) if given.write else by_fewbits(given.directory)
    with torch.inference_mode():
        found = network(TOKENS).logits.double().numpy()
    if given.write:
        np.save(given.write, found)
    else:
        wanted = np.load(given.beside)
        print(f"relative distance of logits: {np.linalg.norm(found - wanted) / np.linalg.norm(wanted):.3g}")
    return 0


def by_transformers(directory: Path) -> Any:
    """As transformers loads it; its version and the kinds of modules are printed."""
    import transformers

    network = transformers.AutoModelForCausalLM.from_pretrained(directory, torch_dtype=torch.float32)
    kinds = Counter(type(module).__name__ for module in network.modules() if "Linear" in type(module).__name__)
    print(f"transformers {transformers.__version__}: {dict(kinds)}")
    return network


def by_fewbits(directory: Path) -> Any:
    """As we decode it."""
    from fewbits.evaluation.model_files import open_model

    return open_model(directory).load().network


if __name__ == "__main__":
    sys.exit(main())
