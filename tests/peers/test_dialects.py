"""Dialects against the packages that read them: their numbers from our files, ours from theirs, bit by bit."""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("compressed_tensors")
pytest.importorskip("bitsandbytes")

import transformers
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationScheme
from safetensors.torch import save_file

import fewbits
from fewbits import formats
from fewbits.checkpoints.dialects import get
from fewbits.checkpoints.dialects.reader import open_quantized
from fewbits.checkpoints.fields import Matrix, StoredMatrix
from fewbits.evaluation.model_files import open_model
from fewbits.kernels.stored import stored_numbers
from fewbits.testing.dialect_suite import coded
from fewbits.testing.inputs import normal
from references.expert_models import write_experts

NAME, ROWS, COLS = "model.layers.0.mlp.up_proj.weight", 128, 256
TEXT = Path(__file__).parents[2] / "docs" / "glossary.md"


def logits_of(network: Any) -> torch.Tensor:
    """Logits of some real text: of random tokens none of them is sure."""
    with torch.inference_mode():
        found: torch.Tensor = network(tokens()).logits.double()
    return found


@cache
def tokens() -> torch.Tensor:
    pocket = Path(__file__).parents[2] / "examples" / "models" / "pocket-llama"
    ids = open_model(pocket).vocabulary().encode(TEXT.read_text(encoding="utf-8"))
    return torch.tensor([list(ids)[:256]])


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def divergence(found: torch.Tensor, wanted: torch.Tensor) -> float:
    a, b = wanted.log_softmax(-1), found.log_softmax(-1)
    return float((a.exp() * (a - b)).sum(-1).mean())


def loaded(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parametrize(
    "to", ["int4_g32_sym_bf16", "int8_g64_sym_f16", "int3_g32_sym_f16", "fp8_e4m3_row", "fp8_e4m3_tile128"]
)
def test_transformers_reads_what_compressed_tensors_is_to_read(pocket: Path, tmp_path: Path, to: str) -> None:
    fewbits.quantize(pocket, tmp_path / "out", to=to, dialect="compressed-tensors", threads=2)
    ours, theirs = open_model(tmp_path / "out").load().network, loaded(tmp_path / "out")
    assert relative(logits_of(theirs), logits_of(ours)) < 1e-6
    matrices = dict(theirs.named_modules())
    for name, module in ours.named_modules():
        if isinstance(module, torch.nn.Linear):
            assert torch.equal(matrices[name].weight.float(), module.weight), name


@pytest.mark.parametrize("recipe", ["w8a8_fp8", "w8a8"])
def test_inputs_are_rounded_as_compressed_tensors_does(pocket: Path, tmp_path: Path, recipe: str) -> None:
    """FP8 exactly so; for INT8 it divides the largest input by 127.5 where vLLM, and we, divide by 127.

    In a whole model, sums in another order move inputs over the edge between two codes, which moves the next ones.
    """
    fewbits.quantize(pocket, tmp_path / "out", to=recipe, threads=2)
    ours, theirs = open_model(tmp_path / "out").load().network, loaded(tmp_path / "out")
    assert divergence(logits_of(theirs), logits_of(ours)) < 1e-3
    name, x = "model.layers.1.mlp.up_proj", normal(300, 256, 4)[None]
    a, b = (dict(network.named_modules())[name](x) for network in (ours, theirs))
    assert relative(b.double(), a.double()) < {"w8a8_fp8": 1e-7, "w8a8": 2e-2}[recipe]
    rounded = a.double() - torch.nn.functional.linear(x, dict(ours.named_modules())[name].weight).double()
    assert rounded.norm() / a.double().norm() > 4e-3, "inputs are rounded at all"


@pytest.mark.parametrize(("dialect", "to"), [("compressed-tensors", "int4_g32_sym_f16"), ("fp8", "fp8_e4m3_tile128")])
def test_transformers_puts_listed_experts_into_its_stacks(tmp_path: Path, dialect: str, to: str) -> None:
    source = write_experts(tmp_path / "model", "qwen3_moe", dtype=torch.float32)
    fewbits.quantize(source, tmp_path / "out", to=to, dialect=dialect, threads=2)
    more = {"quantization_config": transformers.FineGrainedFP8Config(dequantize=True)} if dialect == "fp8" else {}
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype=torch.float32, output_loading_info=True, **more
    )
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ours = open_model(tmp_path / "out").load().network
    with torch.inference_mode():
        found, wanted = (network(torch.arange(3, 60)[None]).logits.double() for network in (theirs, ours))
    assert relative(found, wanted) < 2e-3


def scheme_of(matrix: Matrix) -> tuple[Any, QuantizationScheme]:
    """Its own reader and writer for a matrix, and its own understanding of our configuration."""
    group = get("compressed-tensors").configuration([matrix], [])["config_groups"]["group_0"]
    scheme = QuantizationScheme.model_validate(group)
    return BaseCompressor.get_value_from_registry(group["format"]), scheme


PACKED = ("int4_g32_sym", "uint4_g32_asym", "uint8_g64_asym", "uint3_g32_asym", "int5_g64_sym", "int8_row_sym", "mxfp4")
PACKED += ("nvfp4_divided",)
WHOLE = ("int8_row_sym", "fp8_e4m3_row")


def matrix_of(name: str, activation: str | None = None) -> Matrix:
    return Matrix(NAME, name, (ROWS, COLS), activation)


def its_numbers(kind: Any, state: dict[str, torch.Tensor], scheme: QuantizationScheme) -> torch.Tensor:
    """What its module decodes, in float32: four-bit floats it decodes in bfloat16 unless it is told otherwise."""
    module = sys.modules[kind.__module__]
    usual = getattr(module, "unpack_fp4_from_uint8", None)
    with pytest.MonkeyPatch.context() as patch:
        if usual is not None and scheme.weights.group_size == 16:
            patch.setattr(module, "unpack_fp4_from_uint8", lambda *given: usual(*given, dtype=torch.float32))
        found: torch.Tensor = kind.decompress(state, scheme)["weight"].float()
    return found


@pytest.mark.parametrize("matrix", [*map(matrix_of, PACKED), matrix_of("int8_row_sym", "int8_token")], ids=str)
def test_its_module_reads_our_tensors(matrix: Matrix) -> None:
    fields = coded(matrix)
    packed = get("compressed-tensors").pack(matrix, fields)
    kind, scheme = scheme_of(matrix)
    state = {name.rpartition(".")[2]: torch.from_numpy(np.ascontiguousarray(a)) for name, a in packed.items()}
    if matrix.format == "nvfp4_divided":
        state["weight_scale"] = state["weight_scale"].view(torch.float8_e4m3fn)
    theirs = its_numbers(kind, state, scheme)
    assert torch.equal(theirs, stored_numbers(formats.get(matrix.format), fields, (ROWS, COLS)))


@pytest.mark.parametrize(
    "matrix", [*map(matrix_of, PACKED), matrix_of("int8_row_sym", "int8_token"), matrix_of("fp8_e4m3_row")], ids=str
)
def test_we_read_what_its_module_writes(tmp_path: Path, matrix: Matrix) -> None:
    kind, scheme = scheme_of(matrix)
    w = normal(ROWS, COLS, 11) * normal(ROWS, 1, 12)
    given = {"weight": w}
    if matrix.format == "nvfp4_divided":
        whole = 448 * 6 / w.abs().max()[None]
        scale = (w.reshape(ROWS, -1, 16).abs().amax(-1) / 6 * whole).to(torch.float8_e4m3fn)
        given |= {"weight_scale": scale.float(), "weight_global_scale": whole}
    else:
        scale, zero = parameters(w, matrix.format)
        given |= {"weight_scale": scale} | ({} if zero is None else {"weight_zero_point": zero})
    state = kind.compress(given, scheme)
    theirs = its_numbers(kind, state, scheme)
    stated = get("compressed-tensors").configuration([matrix], [])
    folder = tmp_path / "theirs"
    folder.mkdir()
    save_file({NAME.replace("weight", key): t.contiguous() for key, t in state.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"quantization_config": stated}))
    reader = open_quantized(folder)
    assert reader is not None
    stored = reader.read(NAME)
    assert isinstance(stored, StoredMatrix)
    assert stored.format == matrix.format
    assert torch.equal(stored_numbers(formats.get(stored.format), stored.load(), (ROWS, COLS)), theirs)
    assert torch.unique(theirs).numel() > 50


def parameters(w: torch.Tensor, name: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Scales, and zero points, that a tool might choose: from the range of each group."""
    format: Any = formats.get(name)
    grouped = w.reshape(len(w), -1, format.span or w.shape[1])
    if name == "mxfp4":
        return 2.0 ** grouped.abs().amax(-1).div(6).log2().ceil(), None
    if name.startswith("fp8"):
        return grouped.abs().amax(-1) / 448, None
    top = 2.0**format.code_bits - 1
    if format.symmetric:
        return grouped.abs().amax(-1) * 2 / top, None
    low, high = grouped.amin(-1).clamp(max=0), grouped.amax(-1).clamp(min=0)
    scale = (high - low) / top
    return scale, (-low / scale - 2 ** (format.code_bits - 1)).round().to(torch.int8)


@pytest.mark.parametrize("to", ["nf4_g64_dq", "nf4_g64", "fp4_bnb_g128_dq"])
def test_transformers_reads_what_bitsandbytes_is_to_read(pocket: Path, tmp_path: Path, to: str) -> None:
    fewbits.quantize(pocket, tmp_path / "out", to=to, dialect="bitsandbytes", threads=2)
    compare_with_bitsandbytes(tmp_path / "out", loaded(tmp_path / "out"))


@pytest.mark.parametrize(("kind", "double"), [("nf4", True), ("nf4", False), ("fp4", True)])
def test_we_read_what_bitsandbytes_saves(pocket: Path, tmp_path: Path, kind: str, double: bool) -> None:
    asked = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_use_double_quant=double
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(pocket, quantization_config=asked, dtype=torch.float32)
    model.save_pretrained(tmp_path / "theirs")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "theirs" / name).write_bytes((pocket / name).read_bytes())
    compare_with_bitsandbytes(tmp_path / "theirs", model)


def test_transformers_reads_our_eight_bits(pocket: Path, tmp_path: Path) -> None:
    """Its matrices bit by bit, and its logits although it rounds inputs to 8 bits, where ours does not here."""
    fewbits.quantize(pocket, tmp_path / "out", to="int8_row_sym", dialect="bitsandbytes", threads=2)
    compare_rows(tmp_path / "out", loaded(tmp_path / "out"))


def test_we_read_the_eight_bits_that_bitsandbytes_saves(pocket: Path, tmp_path: Path) -> None:
    asked = transformers.BitsAndBytesConfig(load_in_8bit=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(pocket, quantization_config=asked, dtype=torch.float32)
    model.save_pretrained(tmp_path / "theirs")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "theirs" / name).write_bytes((pocket / name).read_bytes())
    compare_rows(tmp_path / "theirs", model)


def compare_rows(folder: Path, theirs: Any) -> None:
    """Its numbers of every matrix, and what it makes of inputs, against ours from the same directory."""
    import bitsandbytes.functional as bnb

    ours = open_model(folder).load().network
    matrices, compared = dict(theirs.named_modules()), 0
    for name, module in ours.named_modules():
        weight = getattr(matrices.get(name), "weight", None)
        if isinstance(module, torch.nn.Linear) and getattr(weight, "SCB", None) is not None:
            found = bnb.int8_vectorwise_dequant(weight.data, weight.SCB)
            assert torch.equal(found, module.weight), name
            x = normal(300, module.in_features, 4)
            assert relative(matrices[name](x).double(), module(x).double()) < 2e-2, "inputs are rounded to 8 bits"
            compared += 1
    assert compared == 28
    assert divergence(logits_of(theirs), logits_of(ours)) < 1e-3


def compare_with_bitsandbytes(folder: Path, theirs: Any) -> None:
    """Its numbers of every matrix, and its logits, against ours from the same directory."""
    import bitsandbytes.functional as bnb

    ours = open_model(folder).load().network
    matrices, compared = dict(theirs.named_modules()), 0
    for name, module in ours.named_modules():
        state = getattr(getattr(matrices.get(name), "weight", None), "quant_state", None)
        if state is not None:
            state.dtype = matrices[name].compute_dtype = torch.float32
            found = bnb.dequantize_4bit(matrices[name].weight.data, state)
            assert torch.equal(found + 0.0, module.weight + 0.0), name
            compared += 1
    assert compared == 28
    # The file says bfloat16, and transformers then computes everything in that: the rest in float32 as well.
    for each in (*theirs.parameters(), *theirs.buffers()):
        each.data = each.data.float() if each.is_floating_point() else each.data
    # Where a processor multiplies bfloat16 bitsandbytes does so, and inputs and weights are rounded once more.
    limit = 5e-3 if getattr(bnb, "has_avx512bf16", bool)() else 1e-3
    assert relative(logits_of(theirs), logits_of(ours)) < limit


def test_transformers_reads_fine_grained_fp8(pocket: Path, tmp_path: Path) -> None:
    """Decoded when it is loaded: its products of 8 bits want a GPU."""
    fewbits.quantize(pocket, tmp_path / "out", to="fp8_e4m3_tile128", dialect="fp8", threads=2)
    asked = transformers.FineGrainedFP8Config(dequantize=True)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype=torch.float32, quantization_config=asked
    )
    ours = open_model(tmp_path / "out").load().network
    assert relative(logits_of(theirs), logits_of(ours)) < 1e-3
