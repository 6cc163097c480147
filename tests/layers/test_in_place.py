"""A network is quantized where it stands: the same codes as in a file, tied weights tied, and nothing half done."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import fewbits
from fewbits import formats
from fewbits.errors import CalibrationError, CheckpointError, FewbitsError, RecipeError, VerificationError
from fewbits.evaluation.model_files import open_model
from fewbits.kernels.stored import stored_numbers
from fewbits.layers import in_place, modules
from fewbits.layers.matrix import PackedMatrix


class Everything(torch.nn.Module):
    """One module of each kind, a convolution in groups among them, with weights that are never alike."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(50, 64, padding_idx=3)
        self.mix = torch.nn.Linear(64, 96)
        self.line = torch.nn.Conv1d(32, 24, 4, padding=1, padding_mode="circular")
        self.plane = torch.nn.Conv2d(16, 32, (2, 4), stride=2, groups=2)
        self.free = torch.nn.Parameter(torch.randn(5, 7))
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Something of all of them for `ids` (n, 96)."""
        x = self.mix(self.table(ids))
        flat = self.line(x[:, :32]).mean(1)
        deep = self.plane(x.reshape(len(ids), 16, 6, 96)).mean((1, 2))
        return flat[:, :40] + deep[:, :40]


KINDS = ("table", "mix", "line", "plane")
IDS = torch.arange(192).reshape(2, 96) % 50


def small_lm(kind: str, **more: Any) -> torch.nn.Module:
    """A random model of transformers, its weights wide enough to matter."""
    config = transformers.AutoConfig.for_model(kind, initializer_range=0.1, **more)
    torch.manual_seed(1)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def quantized(network: torch.nn.Module, recipe: str, **options: Any) -> torch.nn.Module:
    """A quantized copy."""
    found = copy.deepcopy(network)
    fewbits.quantize(found, recipe, **options)
    return found


@pytest.mark.parametrize("name", [name for name in formats.FORMATS if name not in ("F64", "F32")])
def test_every_format_computes_with_what_it_stores(name: str) -> None:
    network = Everything()
    wide = [kind for kind in KINDS if formats.fits(formats.get(name), in_place_cols(network, kind))]
    if not wide:
        network.mix = torch.nn.Linear(768, 8)  # of spans that are wider, or odd
        wide = ["mix"]
    found = copy.deepcopy(network)
    record = fewbits.quantize(found, name, tensors=[f"{kind}={name if kind in wide else 'F32'}" for kind in KINDS])

    for kind in wide:
        before, after = getattr(network, kind), getattr(found, kind)
        format, shape = formats.get(after.matrix.format), (len(before.weight), before.weight[0].numel())
        assert format.name.lower() == name.lower()
        assert type(after).__mro__[2] is type(before)
        stored = stored_numbers(format, after.matrix.stored(), shape).reshape(before.weight.shape)
        assert torch.equal(after.weight, stored)
        error = (before.weight - after.weight).double().norm() / before.weight.double().norm()
        told = next(t.relative_rms for t in record.tensors if t.planned.name == f"{kind}.weight")
        assert told == pytest.approx(error.item(), rel=1e-6, abs=1e-12)
    if len(wide) == len(KINDS):
        for kind in KINDS:
            getattr(network, kind).weight.data.copy_(getattr(found, kind).weight)
        wanted = network(IDS).detach()
        torch.testing.assert_close(found(IDS), wanted, rtol=0, atol=5e-4 * float(wanted.abs().max()))


def in_place_cols(network: torch.nn.Module, kind: str) -> int:
    """Columns of a module's matrix."""
    weight: torch.Tensor = getattr(network, kind).weight
    return weight[0].numel()


def test_codes_are_those_of_a_file(pocket: Path, tmp_path: Path) -> None:
    """Whoever quantizes in memory and whoever quantizes the directory compute with the same numbers."""
    network = transformers.AutoModelForCausalLM.from_pretrained(pocket, dtype=torch.bfloat16).eval()
    record = fewbits.quantize(network, "Q4_K_M")
    written = fewbits.quantize(pocket, tmp_path / "model", to="Q4_K_M")

    in_memory = {t.planned.name: (t.planned.format, t.relative_rms) for t in record.tensors}
    in_file = {t.planned.name: (t.planned.format, t.relative_rms) for t in written.tensors if t.planned.quantizable}
    assert in_memory == in_file
    numbers = dict(open_model(tmp_path / "model").load().network.named_parameters())
    for name, module in network.named_modules():
        if isinstance(module, modules.Packed) and name != "lm_head":  # which is tied
            assert torch.equal(module.weight.float(), numbers[f"{name}.weight"].float().bfloat16().float()), name


def test_tied_weights_stay_tied() -> None:
    network = small_lm("llama", hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=2,
                       vocab_size=80, tie_word_embeddings=True)  # fmt: skip
    record = fewbits.quantize(network, "Q8_0")

    assert network.lm_head.matrix is network.model.embed_tokens.matrix
    assert [t.planned.name for t in record.tensors].count("token_embd.weight") == 1
    assert "output.weight" not in {t.planned.name for t in record.tensors}


def test_a_linear_module_that_lies_the_other_way() -> None:
    network = small_lm("gpt2", n_embd=64, n_layer=2, n_head=2, vocab_size=80, n_positions=32)
    found = quantized(network, "int8_row_sym")
    plain = copy.deepcopy(network)
    for name, module in found.named_modules():
        if isinstance(module, modules.Packed):
            plain.get_parameter(f"{name}.weight").data.copy_(module.weight)
    ids = torch.arange(30)[None]

    assert isinstance(found.transformer.h[0].attn.c_attn, modules.Conv1D)
    with torch.no_grad():
        close = torch.allclose(found(ids).logits, plain(ids).logits, atol=2e-4)
        moved = (found(ids).logits - network(ids).logits).abs().max()
    assert close
    assert moved > 1e-3


def test_rules_know_modules_by_their_own_names_and_by_gguf_s(pocket: Path) -> None:
    network = transformers.AutoModelForCausalLM.from_pretrained(pocket)
    record = fewbits.quantize(
        network, "Q4_K_M", tensors={"model.layers.*.mlp.down_proj": "Q8_0", "blk.0.attn_q": "F16", "lm_head": "Q6_K"},
        dry_run=True,
    )  # fmt: skip
    chosen = {t.name: t.format for t in record.tensors}

    assert {chosen[f"blk.{n}.ffn_down.weight"] for n in range(4)} == {"Q8_0"}
    assert chosen["blk.0.attn_q.weight"] == "F16"
    assert not any(isinstance(m, modules.Packed) for m in network.modules())


@pytest.mark.parametrize("recipe", ["nf4_g64_dq", "Q4_0", "fp8_e4m3_tensor"])
def test_kept_copied_and_converted(recipe: str) -> None:
    network = quantized(Everything(), recipe, tensors={"line": "F16", "plane": "F16"})
    expected = network(IDS)

    assert torch.equal(pickle.loads(pickle.dumps(network))(IDS), expected)
    other = quantized(Everything(), recipe, tensors={"line": "F16", "plane": "F16"})
    for name, buffer in other.named_buffers():
        if name.endswith("codes") or name.endswith("data"):
            buffer.zero_()
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(IDS), expected)
    half = copy.deepcopy(network).bfloat16()
    assert half.mix.weight.dtype == torch.bfloat16
    assert torch.equal(half.mix.weight, network.mix.weight.bfloat16())
    assert half.table(IDS).dtype == torch.bfloat16


def test_gradients_pass_through() -> None:
    layer = quantized(torch.nn.Sequential(torch.nn.Linear(64, 8)), "Q4_0")
    x = torch.randn(3, 64, requires_grad=True)
    layer(x).sum().backward()

    assert x.grad is not None
    assert torch.allclose(x.grad, layer[0].weight.sum(0).expand(3, 64), atol=1e-6)
    assert [name for name, _ in layer.named_parameters()] == ["0.bias"]


def test_what_is_looked_up_is_all_that_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    network = quantized(Everything(), "Q8_0", tensors={"line": "F16", "plane": "F16"})
    whole = network.table.weight[IDS]
    monkeypatch.setattr(PackedMatrix, "numbers", lambda _: pytest.fail("the whole table was decoded"))

    assert torch.equal(network.table(IDS), whole)


def test_what_stays_is_said() -> None:
    network = Everything()
    network.bounded = torch.nn.Embedding(10, 32, max_norm=1.0)
    network.normed = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(32, 4))
    record = fewbits.quantize(network, "int8_row_sym")

    assert type(network.bounded) is torch.nn.Embedding
    assert any("free and" in note and "stays as it is" in note for note in record.preview.notes), record.preview.notes


def damaged() -> torch.nn.Module:
    """A network whose last matrix is no number."""
    network = Everything()
    network.plane.weight.data[0, 0, 0, 0] = float("nan")
    return network


def of_integers() -> torch.nn.Module:
    """A network with nothing to quantize."""
    return torch.nn.Sequential(torch.nn.ReLU(), torch.nn.LayerNorm(3))


@pytest.mark.parametrize(
    ("make", "recipe", "options", "error", "words"),
    [
        (damaged, "int8_row_sym", {}, CheckpointError, "plane.weight of the source holds 1 NaN"),
        (of_integers, "Q8_0", {}, CheckpointError, "has no Linear, Conv1d"),
        (lambda: quantized(Everything(), "int8_row_sym"), "Q8_0", {}, CheckpointError, "quantized already"),
        (Everything, "int8_row_sym", {"method": "gptq"}, CalibrationError, "save_pretrained"),
        (Everything, "Q9_K", {}, RecipeError, "Q9_K"),
        (Everything, "int8_row_sym", {"tensors": {"mox": "Q8_0"}}, RecipeError, "mox"),
        (Everything, "int8_row_sym", {"tensors": ["mix"]}, RecipeError, "mix"),
    ],
)
def test_refused_and_left_as_it_was(
    make: Callable[[], torch.nn.Module], recipe: str, options: Any, error: type[FewbitsError], words: str
) -> None:
    network = make()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(error, match=words):
        fewbits.quantize(network, recipe, **options)

    after = network.state_dict()
    assert set(after) == set(before)
    assert all(torch.equal(after[name].nan_to_num(), before[name].nan_to_num()) for name in before)


@pytest.mark.parametrize(
    ("recipe", "inputs"),
    [("w8a8", "int8_token"), ("w8a8_fp8", "fp8_token"), ("llm_int8_batch", "int8_token_split")],
)
def test_recipes_that_round_inputs(recipe: str, inputs: str, pocket: Path) -> None:
    """Layers' matrices round what comes in; embedding and output matrix stay, as in a file."""
    source = transformers.AutoModelForCausalLM.from_pretrained(pocket, dtype=torch.float32).eval()
    network = copy.deepcopy(source)
    record = fewbits.quantize(network, recipe)
    chosen = {t.name: t.activation for t in record.preview.tensors}
    assert chosen["blk.0.attn_q.weight"] == inputs
    assert chosen["token_embd.weight"] is None
    assert network.model.layers[0].self_attn.q_proj.inputs == inputs
    ids = torch.arange(40)[None] + 5
    with torch.no_grad():
        one, other = (each(ids).logits.softmax(-1) for each in (source, network))
    assert 1e-4 < float((one - other).abs().max()) < 0.3


def test_a_recipe_that_rounds_inputs_says_whose_it_does_not() -> None:
    network = Everything()
    record = fewbits.quantize(network, "w8a8")
    said = " ".join(record.preview.notes)
    assert "line.weight and 1 more: Conv1d, Conv2d modules get their inputs as they are." in said
    assert "decoded at every call" in said
    assert network.mix.inputs == "int8_token"
    assert {t.name: t.activation for t in record.preview.tensors} == {
        "table.weight": None,
        "mix.weight": "int8_token",
        "line.weight": None,
        "plane.weight": None,
    }


def test_what_is_not_multiplied_packed_is_said() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(48, 8), torch.nn.Linear(8, 64), torch.nn.Linear(64, 2))
    record = fewbits.quantize(network, "int8_row_sym", tensors={"1": "fp8_e4m3_row"})
    said = " ".join(record.preview.notes)
    assert "0.weight" in said
    assert "1.weight" in said
    assert "do not fill spans of 32 columns" in said
    assert "2.weight" not in said
    x = torch.randn(3, 48)
    dense = torch.nn.Sequential(*(torch.nn.Linear(*reversed(m.weight.shape)) for m in network))
    for plain, packed in zip(dense, network, strict=True):
        plain.weight.data, plain.bias.data = packed.weight, packed.bias.data
    torch.testing.assert_close(network(x), dense(x), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["Q4_0", "nf4_g64"])
def test_a_wrong_code_is_not_kept(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network, honest = torch.nn.Sequential(torch.nn.Linear(64, 8)), in_place._Work._packed

    def wrong(*arguments: Any) -> Any:
        matrix, error = honest(*arguments)
        next(matrix.buffers())[3, 5] ^= 1
        return matrix, error

    monkeypatch.setattr(in_place._Work, "_packed", wrong)
    with pytest.raises(VerificationError, match=r"0\.weight"):
        fewbits.quantize(network, name)
    assert type(network[0]) is torch.nn.Linear


def test_threads_change_nothing() -> None:
    one, two = (quantized(Everything(), "nf4_g64_dq", threads=n) for n in (1, 3))

    assert all(np.array_equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
