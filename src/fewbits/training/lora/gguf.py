"""An adapter as llama.cpp reads it: a GGUF file of the kind "adapter", with A and B under the names of its tensors.

Rows of B are those of W, so that they move where a GGUF file has the rows of W in another order (RoPE's pairs in
Llama's heads). llama.cpp adds alpha / rank B A; what peft scales otherwise is multiplied into B. Source: llama.cpp's
convert_lora_to_gguf.py and src/llama-adapter.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fewbits.checkpoints.base import Value
from fewbits.checkpoints.gguf_writer import GGUFWriter, Row, plan_layout
from fewbits.checkpoints.rope import interleaved, parted
from fewbits.errors import CheckpointError, TrainingError
from fewbits.loading.pieces import numbers
from fewbits.loading.sources import Source, open_source
from fewbits.models import Architecture, TensorFact, for_config
from fewbits.training.lora.base import base_at, require_same
from fewbits.training.lora.reading import Adapter, Pair

Named = Mapping[str, tuple[str, TensorFact]]
"""Parameter of the network -> GGUF's name and the fact."""


def adapter_to_gguf(adapter: str | Path, base: str | Path, output: str | Path, *, force: bool = False) -> Path:
    """Write `adapter` of the model `base` to the GGUF file `output`, in float32, for llama.cpp's `--lora`.

    `base` is the directory or GGUF file that it was trained on; it is read for names and widths alone. Raises a
    FewbitsError and leaves nothing where a GGUF file has no such tensor, or the adapter is of another base.
    """
    path, target, source = Path(adapter), Path(output), open_source(Path(base))
    if target.exists() and not force:
        raise TrainingError(f"{target} exists already; choose another output, or replace it (force).")
    opened = Adapter.open(path)
    require_same(path, opened.base, base_at(Path(base)))
    values = source.config.to_dict() | {"architectures": [source.network.__name__]}
    architecture = _architecture(source, values)
    values = {**architecture.defaults, **{key: value for key, value in values.items() if value is not None}}
    tensors = _tensors(opened, values, _names(architecture, values), source)
    rows: list[Row] = [(name, "F32", tuple(t.shape), t.nbytes) for name, t in tensors.items()]
    with GGUFWriter(target, plan_layout(architecture.gguf, _metadata(opened), rows)) as writer:
        for name, tensor in tensors.items():
            writer.write_rows(name, 0, np.ascontiguousarray(tensor.numpy()).view(np.uint8))
        writer.sync()
        writer.publish()
    return target


def _architecture(source: Source, values: Mapping[str, Any]) -> Architecture:
    try:
        return for_config(values)
    except CheckpointError as error:
        raise TrainingError(
            f"{source.path}: a GGUF adapter needs an architecture that is known here ({error})"
        ) from error


def _names(architecture: Architecture, values: Mapping[str, Any]) -> Named:
    facts = architecture.parameters(values, int(values["num_hidden_layers"]))
    return {parameter: (gguf, fact) for gguf, (parameter, fact) in facts.items()}


def _metadata(adapter: Adapter) -> dict[str, Value]:
    alpha = float(adapter.config["lora_alpha"])
    return {
        "general.type": Value("adapter", "string"),
        "general.name": Value(adapter.path.name, "string"),
        "adapter.type": Value("lora", "string"),
        "adapter.lora.alpha": Value(alpha, "float32"),
    }


def _tensors(adapter: Adapter, values: Mapping[str, Any], named: Named, source: Source) -> dict[str, torch.Tensor]:
    found = {}
    for module, pair in adapter.pairs.items():
        gguf, fact = _tensor_of(adapter, module, named, source)
        a, b = numbers(pair.a), numbers(pair.b)
        order = _order(fact, values, pair)
        found[f"{gguf}.lora_a"] = a
        scale = pair.scale * pair.rank / float(adapter.config["lora_alpha"])
        found[f"{gguf}.lora_b"] = (b if order is None else b[torch.from_numpy(order)]) * scale
    return found


def _tensor_of(adapter: Adapter, module: str, named: Named, source: Source) -> tuple[str, TensorFact]:
    prefix = f"{source.network.base_model_prefix}."
    for stem in (module, prefix + module, module.removeprefix(prefix)):
        gguf, fact = named.get(f"{stem}.weight", ("", None))
        if fact is not None and not fact.view and not fact.stacked:
            return gguf, fact
    raise TrainingError(
        f"{adapter.path} adapts {module}, which no GGUF file of {source.network.__name__} has as a tensor of its own; "
        "merge the adapter instead (merge_adapter)."
    )


def _order(fact: TensorFact, values: Mapping[str, Any], pair: Pair) -> Any:
    """Row of B for each row of the file's, (rows,); None where none moves."""
    heads, keys = int(values["num_attention_heads"]), int(values.get("num_key_value_heads") or 0)
    keys = keys or heads
    rows = pair.shape[0]
    if fact.order == "rope":
        return interleaved(rows, keys if fact.shape[0] == "key" else heads)
    return parted(rows, heads, keys) if fact.order == "qkv" else None
