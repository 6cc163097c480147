"""What `fewbits.load` takes of memory: python bench/loading.py [--layers 6].

A random Llama of 2,048 columns is written to a temporary folder, plain, as a GGUF file and in bitsandbytes' dialect. A
process of its own loads each, after the embedded model has brought all modules into memory, and says how many bytes
stay packed and how far its resident memory rose meanwhile, pages of mapped files included.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

POCKET = Path(__file__).parents[1] / "examples" / "models" / "pocket-llama"

MEASURE = """
import sys
from pathlib import Path
import fewbits
from fewbits.memory import peak_resident_memory
fewbits.load(sys.argv[1])
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before = peak_resident_memory()
network = fewbits.load(sys.argv[2])
print(network.fewbits.bytes, peak_resident_memory() - before)
"""


def write(folder: Path, layers: int) -> Path:
    """The plain model."""
    import torch
    import transformers
    from safetensors.torch import save_file

    config = transformers.AutoConfig.from_pretrained(POCKET)
    config.hidden_size, config.intermediate_size, config.num_hidden_layers = 2048, 5632, layers
    config.head_dim, config.num_attention_heads, config.num_key_value_heads = 128, 16, 16
    config.architectures = ["LlamaForCausalLM"]
    kind: Any = transformers.AutoModelForCausalLM
    with torch.device("meta"):
        network = kind.from_config(config, dtype=torch.bfloat16)
    torch.manual_seed(0)
    state = {name: torch.randn(p.shape, dtype=p.dtype) * 0.02 for name, p in network.named_parameters()}
    config.save_pretrained(folder)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    for file in POCKET.glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def main() -> None:
    """Write, quantize, load, print."""
    import fewbits

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=6)
    layers = parser.parse_args().layers
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain = write(folder / "plain", layers)
        fewbits.quantize(plain, folder / "q4.gguf", to="Q4_K_M")
        fewbits.quantize(plain, folder / "nf4", to="nf4_g64_dq", dialect="bitsandbytes")
        print(f"{'model':26}{'packed MB':>12}{'peak MB':>12}{'more MB':>12}")
        for what, path in (
            ("BF16, directory", plain),
            ("Q4_K_M, GGUF", folder / "q4.gguf"),
            ("nf4_g64_dq, bitsandbytes", folder / "nf4"),
        ):
            command = [sys.executable, "-W", "ignore", "-c", MEASURE, str(POCKET), str(path)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            size, peak = (int(n) / 1e6 for n in done.stdout.split())
            print(f"{what:26}{size:12.1f}{peak:12.1f}{peak - size:12.1f}")


if __name__ == "__main__":
    main()
