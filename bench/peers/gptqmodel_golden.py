"""GPTQModel's own files of one small layer, and the numbers that it reads from them: tests/golden/dialects.

    GPTQMODEL_CPU_WORKERS=2 python bench/peers/gptqmodel_golden.py tests/golden/dialects

Runs in GPTQModel's own environment (bench/peers/README.md). The model is a Llama of one layer with random weights; of
what the tool saves, the matrices of one projection are kept, and in the header its configuration and the SHA-256 of the
numbers (rows, cols) that its module for PyTorch makes of them, in float16.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from gptqmodel import BACKEND, GPTQModel, QuantizeConfig
from safetensors.torch import load_file, save_file

KINDS: Mapping[str, Mapping[str, Any]] = {
    "gptq-sym": {"bits": 4, "group_size": 32, "sym": True, "desc_act": False},
    "gptq-asym": {"bits": 4, "group_size": 32, "sym": False, "desc_act": False},
    "gptq-act-order": {"bits": 4, "group_size": 32, "sym": True, "desc_act": True, "act_group_aware": False},
    "gptq-3-bits": {"bits": 3, "group_size": 32, "sym": True, "desc_act": False},
    "gptq-8-bits": {"bits": 8, "group_size": -1, "sym": True, "desc_act": False, "act_group_aware": False},
    "awq": {"bits": 4, "group_size": 32, "quant_method": "awq", "format": "gemm"},
}
MODULE = "model.layers.0.mlp.down_proj"


def main() -> int:
    """Quantize, save, read, keep."""
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as temporary:
        model = Path(temporary) / "model"
        make(model)
        windows = torch.randint(0, 256, (32, 64), generator=torch.Generator().manual_seed(1))
        for kind, options in KINDS.items():
            keep(out, kind, model, options, windows)
    return 0


def make(folder: Path) -> None:
    """A Llama of one layer."""
    config = transformers.LlamaConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=256,
        initializer_range=0.1,
        max_position_embeddings=128,
        bos_token_id=1,
        eos_token_id=2,
    )
    model: Any = transformers.LlamaForCausalLM(config)
    model.half().save_pretrained(folder)
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {c: n for n, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    fast: Any = transformers.PreTrainedTokenizerFast
    fast(tokenizer_object=tokenizer, eos_token="!", pad_token="!").save_pretrained(folder)


def keep(out: Path, kind: str, model: Path, options: Mapping[str, Any], windows: torch.Tensor) -> None:
    """One kind of file."""
    quantized = GPTQModel.load(str(model), QuantizeConfig(**options), device="cpu")
    data = [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in windows]
    quantized.quantize(data, batch_size=1)
    with tempfile.TemporaryDirectory() as folder:
        quantized.save(folder)
        config = json.loads((Path(folder) / "config.json").read_text())["quantization_config"]
        saved = {
            n: t for p in Path(folder).glob("*.safetensors") for n, t in load_file(p).items() if n.startswith(MODULE)
        }
        read = GPTQModel.load(folder, device="cpu", backend=BACKEND.TORCH, dtype=torch.float16)
        module = dict(read.model.named_modules())[MODULE]
        if hasattr(module, "dequantize_weight"):
            numbers = module.dequantize_weight().T.contiguous().half()
        else:
            numbers = module(torch.eye(module.in_features, dtype=torch.float16)).detach().T.contiguous()
    path = out / f"{kind}.safetensors"
    digest = hashlib.sha256(numbers.numpy().tobytes()).hexdigest()
    save_file(saved, path, metadata={"quantization_config": json.dumps(config), "numbers_sha256": digest})
    print(path.name, hashlib.sha256(path.read_bytes()).hexdigest(), flush=True)


if __name__ == "__main__":
    sys.exit(main())
