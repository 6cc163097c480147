"""Model directories, plain and in other programs' containers, against transformers on their decoded weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file, save_file

import fewbits
from fewbits.checkpoints.dialects.reader import open_quantized
from fewbits.engine import load
from fewbits.errors import EngineError
from fewbits.evaluation.fields_model import FieldsModel
from fewbits.evaluation.huggingface_model import HuggingFaceModel

POCKET = Path(__file__).parents[2] / "examples" / "models" / "pocket-llama"
TOKENS = [int(n) for n in np.random.default_rng(7).integers(3, 4000, 48)]
EXACT, ROUNDED = 1e-5, 1e-3
"""Most that the mean KL divergence may be: of numbers as they are, and of numbers that are rounded to 8 bits."""

CONTAINERS = (
    ("gptq", "int4_g128_sym_f16"),
    ("gptq", "int8_row_sym_f16"),
    ("awq", "uint4_g128_asym_f16"),
    ("compressed-tensors", "int4_g32_sym_bf16"),
    ("compressed-tensors", "int8_row_sym"),
    ("compressed-tensors", "nvfp4"),
    ("compressed-tensors", "fp8_e4m3_row"),
    ("bitsandbytes", "nf4_g64_dq"),
    ("bitsandbytes", "fp4_bnb_g64"),
    ("bitsandbytes", "int8_row_absmax"),
    ("hqq", "uint4_g64_floatzero_f16"),
    ("mlx", "uint4_g64_bias_f16"),
    ("fp8", "fp8_e4m3_tile128"),
    ("fewbits", "uint2_g64_asym_f16"),
    ("fewbits", "int3_g64_sym"),
    ("fewbits", "uint5_g32_asym_bf16"),
    ("fewbits", "int4_g64_sym_dq"),
    ("fewbits", "int1_g128_sym_f16"),
    ("fewbits", "uint4_tensor_asym"),
    ("fewbits", "ternary_g128_f16"),
    ("fewbits", "nvfp4"),
    ("fewbits", "mxfp4"),
    ("fewbits", "Q4_K"),
)
"""Dialect and format: every kind of span that a matrix can become."""

Floats = npt.NDArray[np.float32]


def logits_of(network: Any) -> Floats:
    with torch.no_grad():
        return np.asarray(network(torch.tensor([TOKENS])).logits[0].float().numpy())


def divergence(expected: Floats, found: Floats) -> float:
    """Mean KL divergence of what follows each token, in nats."""
    p, q = (torch.log_softmax(torch.from_numpy(x).double(), -1) for x in (expected, found))
    return float((p.exp() * (p - q)).sum(-1).mean())


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """The pocket model as a directory in a dialect and a format."""

    def make(dialect: str, format: str) -> Path:
        output = tmp_path_factory.mktemp("directories") / f"{dialect}-{format}"
        fewbits.quantize(POCKET, output, to=format, dialect=dialect)
        return output

    return make


def require_close(path: Path) -> None:
    """The directory's logits are those of its decoded weights, once repacked matrices are let go as well."""
    reader = open_quantized(path)
    assert reader is not None
    expected = logits_of(FieldsModel.open(path, reader).load().network)
    assert divergence(expected, load(path, exact=True, threads=1).session().evaluate_all(TOKENS)) < EXACT
    rounded = load(path, threads=1)
    found = rounded.session().evaluate_all(TOKENS)
    assert divergence(expected, found) < ROUNDED
    assert np.array_equal(rounded.session().evaluate_all(TOKENS), found)


@pytest.mark.parametrize(("dialect", "format"), CONTAINERS)
def test_a_quantized_directory_runs_as_its_decoded_weights(
    dialect: str, format: str, quantized: Callable[[str, str], Path]
) -> None:
    """Nothing is rounded a second time, and every row, scale and zero point is where it belongs."""
    require_close(quantized(dialect, format))


@pytest.mark.parametrize("alike", [True, False])
def test_columns_in_an_order_of_their_own(alike: bool, quantized: Callable[[str, str], Path]) -> None:
    """Act-order: columns of a group are no neighbours; all matrices of a width have the same order, or each its own."""
    path = quantized("gptq", "int4_g32_sym_f16")
    tensors = load_file(path / "model.safetensors")
    for n, name in enumerate(sorted(name for name in tensors if name.endswith(".g_idx"))):
        groups = tensors[name]
        order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(0 if alike else n))
        tensors[name] = groups[order].contiguous()
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    reader = open_quantized(path)
    assert reader is not None
    assert any(getattr(reader.read(name), "ordered", False) for name in reader.names())
    require_close(path)


def test_a_plain_directory_runs_where_it_lies() -> None:
    """Rows stay in the directory's order: RoPE turns halves of heads, where a GGUF file has neighbours."""
    expected = logits_of(HuggingFaceModel.open(POCKET).load().network)
    for exact, limit in ((True, EXACT), (False, ROUNDED)):
        assert divergence(expected, load(POCKET, exact=exact, threads=1).session().evaluate_all(TOKENS)) < limit


@pytest.mark.parametrize(
    ("format", "why"),
    [
        ("nf3_g64", r"is stored as nf3_g64, which the engine does not run; it runs whole numbers"),
        ("int4_g16_sym_f16", r"groups of 16 of 256 columns \(int4_g16_sym_f16\) do not fill spans of 32 columns"),
    ],
)
def test_what_no_span_holds_is_refused(format: str, why: str, quantized: Callable[[str, str], Path]) -> None:
    with pytest.raises(EngineError, match=why):
        load(quantized("fewbits", format))
