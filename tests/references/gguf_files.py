"""GGUF files made from a Hugging Face directory with the gguf package alone: its names, its encoder, its writer.

Nothing of fewbits is used, so what reads these files is tested against another author's idea of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from safetensors.torch import load_file

Floats = npt.NDArray[np.float32]
Edit = Callable[[dict[str, Floats]], None]


def write_gguf(
    directory: Path,
    target: Path,
    *,
    kind: str = "F16",
    interleave: bool = True,
    edit: Edit | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write `directory` as a GGUF file whose matrices are stored as `kind`; vectors are F32.

    `edit` may change, add or drop tensors (by GGUF name, float32) before they are written; `metadata` overrides
    values, and None leaves a key out. Without `interleave` the RoPE rows stay as transformers has them.
    """
    writer = gguf.GGUFWriter(target, _name(directory))
    _fill(writer, directory, kind, interleave, edit, metadata)
    return target


def write_parts(directory: Path, target: Path, *, tensors: int, kind: str = "F16") -> list[Path]:
    """The same in parts of so many tensors, as the package names them."""
    writer = gguf.GGUFWriter(target, _name(directory), split_max_tensors=tensors)
    _fill(writer, directory, kind, True, None, None)
    return sorted(target.parent.glob(f"{target.stem}-*-of-*.gguf"))


def _name(directory: Path) -> str:
    config = json.loads((directory / "config.json").read_text())
    architecture = {"LlamaForCausalLM": "llama", "Qwen2ForCausalLM": "qwen2", "Qwen3ForCausalLM": "qwen3"}
    return architecture[config["architectures"][0]]


def _fill(
    writer: gguf.GGUFWriter,
    directory: Path,
    kind: str,
    interleave: bool,
    edit: Edit | None,
    metadata: Mapping[str, Any] | None,
) -> None:
    config, name = json.loads((directory / "config.json").read_text()), _name(directory)
    tensors = _tensors(directory, config, name, interleave)
    if edit is not None:
        edit(tensors)
    _add_metadata(writer, {**_metadata(config, name), **_tokens(directory, config), **(metadata or {})})
    for key, value in tensors.items():
        stored = gguf.GGMLQuantizationType[kind if value.ndim > 1 else "F32"]
        writer.add_tensor(key, gguf.quants.quantize(np.ascontiguousarray(value), stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensors(directory: Path, config: dict[str, Any], name: str, interleave: bool) -> dict[str, Floats]:
    kind = next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == name)
    names = gguf.get_tensor_name_map(kind, config["num_hidden_layers"])
    tensors = {}
    for key, value in load_file(directory / "model.safetensors").items():
        target = names.get_name(key, try_suffixes=(".weight", ".bias"))
        assert target is not None, key
        w = value.float().numpy()
        if interleave and name == "llama" and ("attn_q." in target or "attn_k." in target):
            heads = config["num_attention_heads" if "attn_q" in target else "num_key_value_heads"]
            w = w.reshape(heads, 2, w.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(w.shape)
        tensors[target] = w
    return tensors


def _metadata(config: dict[str, Any], name: str) -> dict[str, Any]:
    width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return {
        f"{name}.vocab_size": config["vocab_size"],
        f"{name}.context_length": config["max_position_embeddings"],
        f"{name}.embedding_length": config["hidden_size"],
        f"{name}.block_count": config["num_hidden_layers"],
        f"{name}.feed_forward_length": config["intermediate_size"],
        f"{name}.attention.head_count": config["num_attention_heads"],
        f"{name}.attention.head_count_kv": config["num_key_value_heads"],
        f"{name}.attention.key_length": width,
        f"{name}.attention.value_length": width,
        f"{name}.rope.dimension_count": width,
        f"{name}.rope.freq_base": float(config["rope_parameters"]["rope_theta"]),
        f"{name}.attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
    }


def _tokens(directory: Path, config: dict[str, Any]) -> dict[str, Any]:
    stored = json.loads((directory / "tokenizer.json").read_text())
    tokens = {index: token for token, index in stored["model"]["vocab"].items()}
    special = {token["id"]: token["content"] for token in stored["added_tokens"]}
    tokens |= special
    merges = [m if isinstance(m, str) else " ".join(m) for m in stored["model"]["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [tokens[i] for i in range(config["vocab_size"])],
        "tokenizer.ggml.token_type": [3 if i in special else 1 for i in range(config["vocab_size"])],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
    }


def _add_metadata(writer: gguf.GGUFWriter, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if value is None:
            continue
        if key == "general.alignment":
            writer.add_custom_alignment(value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)


def write_projector(target: Path, *, stated: bool = True) -> Path:
    """A small multimodal projector in F16, as llama.cpp names its tensors; older files do not state their type."""
    writer = gguf.GGUFWriter(target, "clip")
    if stated:
        writer.add_type("mmproj")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "mlp")
    counts = {"image_size": 56, "patch_size": 14, "embedding_length": 256, "feed_forward_length": 512}
    counts |= {"block_count": 3, "projection_dim": 256, "attention.head_count": 4}
    for key, value in counts.items():
        writer.add_uint32(f"clip.vision.{key}", value)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    writer.add_array("clip.vision.image_mean", [0.5, 0.25, 0.125])
    shapes: dict[str, tuple[int, ...]] = {"v.patch_embd.weight": (256, 3, 14, 14), "v.position_embd.weight": (17, 256)}
    shapes["v.class_embd"] = (256,)
    for layer in range(3):
        prefix = f"v.blk.{layer}"
        for part in ("attn_q", "attn_k", "attn_v", "attn_out"):
            shapes |= {f"{prefix}.{part}.weight": (256, 256), f"{prefix}.{part}.bias": (256,)}
        shapes |= {f"{prefix}.ffn_up.weight": (512, 256), f"{prefix}.ffn_down.weight": (256, 512)}
        shapes[f"{prefix}.ln1.weight"] = (256,)
    shapes |= {"mm.0.weight": (256, 256), "mm.0.bias": (256,), "mm.2.weight": (320, 256), "mm.3.weight": (256, 320)}
    rng = np.random.default_rng(0)
    for name, shape in shapes.items():
        small = len(shape) == 1 or "position" in name
        writer.add_tensor(name, rng.normal(size=shape).astype(np.float32 if small else np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
