"""Adapters beside packed matrices: gradients, what peft sees, and what is refused."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
import transformers
from torch.func import functional_call

import fewbits
from fewbits.errors import TrainingError
from fewbits.layers import ops
from fewbits.layers.matrix import PackedMatrix
from fewbits.layers.modules import Packed
from fewbits.layers.products import Product
from fewbits.training import add_lora
from fewbits.training.lora.adding import quiet_peft
from references.random_models import small_config

FORMATS = ["nf4_g64_dq", "Q4_K", "Q6_K", "Q2_K", "uint4_g128_asym_f16", "int8_row_sym", "fp8_e4m3_row", "BF16"]


def llama(to: str | None = None, dtype: torch.dtype = torch.float32) -> Any:
    """A random Llama of two layers, its matrices quantized where they stand."""
    torch.manual_seed(0)
    config = small_config(transformers.LlamaConfig, rows=300, hidden_size=256, intermediate_size=512, head_dim=64)
    network = transformers.LlamaForCausalLM(config).to(dtype).eval()
    if to is not None:
        fewbits.quantize(network, to, tensors={"token_embd": "F32", "output": "F32"})
    return network


def moved(model: Any) -> Any:
    """`model` with numbers in B, which begin as zeros."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model


def ids(tokens: int = 24) -> torch.Tensor:
    return torch.randint(0, 300, (2, tokens), generator=torch.Generator().manual_seed(2))


def trained(model: Any) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def loss_of(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=ids(), labels=ids()).loss
    return found


def reference(model: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss and gradients of a plain Llama with the weights W + scale B A, by autograd in float64."""
    plain, base = llama().double(), model.get_base_model()
    leaves = {name: p.detach().double().requires_grad_() for name, p in trained(model).items()}
    weights = {}
    for name in dict(plain.named_parameters()):
        module = base.get_submodule(name.removesuffix(".weight"))
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        weights[name] = getattr(module, "base_layer", module).weight.detach().double()
        if f"{stem}.lora_A.default.weight" in leaves:
            a, b = (leaves[f"{stem}.lora_{half}.default.weight"] for half in "AB")
            weights[name] = weights[name] + module.scaling["default"] * b @ a
    loss = functional_call(plain, weights, (), {"input_ids": ids(), "labels": ids()}).loss
    loss.backward()
    return loss, {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}


@pytest.mark.parametrize("to", FORMATS)
def test_gradients_are_those_of_the_decoded_weights(to: str) -> None:
    model = moved(add_lora(llama(to), rank=4, alpha=6))
    loss, expected = reference(model)
    own = loss_of(model)
    own.backward()

    assert abs(float((own - loss).detach())) < 1e-5
    found = {name: p.grad for name, p in trained(model).items()}
    assert set(found) == set(expected)
    assert len(found) == 28
    for name, grad in expected.items():
        assert found[name] is not None
        assert float((found[name] - grad).norm() / grad.norm()) < 1e-5, name


def test_the_base_stays_packed_and_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    base = llama("nf4_g64_dq")
    before = {name: buffer.clone() for name, buffer in base.named_buffers() if ".matrix." in name}
    base(input_ids=ids())
    assert any(module.matrix.tensors()[0] in ops._products for module in base.modules() if isinstance(module, Packed))
    model = moved(add_lora(base, rank=4))
    packed = [module.matrix for module in model.modules() if isinstance(module, Packed)]
    assert not any(matrix.tensors()[0] in ops._products for matrix in packed)

    monkeypatch.setattr(PackedMatrix, "numbers", lambda _: pytest.fail("a whole matrix was decoded"))
    monkeypatch.setattr(Product, "of", lambda *_: pytest.fail("panels were made"))
    loss_of(model.train()).backward()
    after = {name.replace(".base_layer", ""): buffer for name, buffer in model.get_base_model().named_buffers()}
    assert all(torch.equal(buffer, after[name]) for name, buffer in before.items())
    assert {name for name, p in model.named_parameters() if p.grad is not None} == set(trained(model))


def test_a_new_adapter_changes_nothing_and_its_seed_makes_it() -> None:
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    model = add_lora(llama("Q4_K"), rank=4, seed=3)
    plain = llama("Q4_K")
    for module in plain.modules():
        if isinstance(module, Packed):
            module.floats = True

    assert torch.equal(model(input_ids=ids()).logits, plain(input_ids=ids()).logits)
    same, other = (add_lora(llama("Q4_K"), rank=4, seed=seed) for seed in (3, 4))
    own, again, differs = (next(iter(trained(m).values())) for m in (model, same, other))
    assert torch.equal(own, again)
    assert not torch.equal(own, differs)
    assert own.dtype == torch.float32
    torch.manual_seed(7)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_peft_s_own_layer_computes_the_same(dropout: float) -> None:
    def run(model: Any) -> tuple[float, dict[str, torch.Tensor | None]]:
        moved(model).train()
        torch.manual_seed(5)
        loss = loss_of(model)
        loss.backward()
        return float(loss.detach()), {name: p.grad for name, p in trained(model).items()}

    ours = add_lora(llama("nf4_g64"), rank=4, dropout=dropout)
    base = llama("nf4_g64")
    for module in base.modules():
        if isinstance(module, Packed):
            module.floats = True
    config = peft.LoraConfig(r=4, lora_alpha=4, lora_dropout=dropout, target_modules="all-linear")
    torch.manual_seed(0)  # which makes A
    with quiet_peft():
        theirs = peft.get_peft_model(base.requires_grad_(False), config)
    (loss, grads), (expected, others) = run(ours), run(theirs)

    assert loss == pytest.approx(expected, abs=1e-5)
    assert set(grads) == set(others)
    for name, grad in others.items():
        assert grad is not None
        torch.testing.assert_close(grads[name], grad, rtol=1e-3, atol=1e-5)


def test_bfloat16_is_near_float32() -> None:
    wide, narrow = (moved(add_lora(llama("nf4_g64", dtype), rank=4)) for dtype in (torch.float32, torch.bfloat16))
    losses = [loss_of(model) for model in (wide, narrow)]
    for loss in losses:
        loss.backward()

    assert losses[1].item() == pytest.approx(losses[0].item(), rel=0.02)
    for (name, exact), few in zip(trained(wide).items(), trained(narrow).values(), strict=True):
        assert exact.grad is not None
        assert few.grad is not None
        assert few.grad.dtype == torch.float32
        assert float(torch.cosine_similarity(few.grad.flatten(), exact.grad.flatten(), dim=0)) > 0.9, name


def test_checkpointed_activations_give_the_same_gradients() -> None:
    def grads(*, checkpointed: bool) -> list[torch.Tensor | None]:
        model = moved(add_lora(llama("Q4_K"), rank=4)).train()
        if checkpointed:
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        loss_of(model).backward()
        return [p.grad for p in trained(model).values()]

    for own, expected in zip(grads(checkpointed=True), grads(checkpointed=False), strict=True):
        assert own is not None
        assert expected is not None
        assert torch.equal(own, expected)


def test_conv1d_of_gpt2_is_adapted() -> None:
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_embd=64, n_head=2, n_layer=1, vocab_size=300, n_positions=64)
    base = transformers.GPT2LMHeadModel(config).eval()
    fewbits.quantize(base, "nf4_g64", tensors={"*embd*": "F32"})
    model = moved(add_lora(base, rank=2))
    loss_of(model).backward()

    name = "base_model.model.transformer.h.0.attn.c_attn"
    layer = model.get_submodule(name)
    assert model.peft_config["default"].fan_in_fan_out
    x = torch.randn(3, 64)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    expected = x @ (layer.base_layer.weight + (b @ a).T) + layer.base_layer.bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)
    assert all(p.grad is not None for p in trained(model).values())


def test_a_plain_network_is_adapted_by_peft_alone() -> None:
    model = moved(add_lora(llama(), rank=4, targets=["q_proj", "layers.1.mlp.*"]))

    names = {name.split(".lora_")[0].removeprefix("base_model.model.model.layers.") for name in trained(model)}
    assert names == {"0.self_attn.q_proj", "1.self_attn.q_proj", "1.mlp.gate_proj", "1.mlp.up_proj", "1.mlp.down_proj"}


def test_merging_where_weights_stand_is_refused() -> None:
    with pytest.raises(TrainingError, match="merge_adapter"):
        add_lora(llama("Q4_K"), rank=4).merge_and_unload()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"rank": 0}, "the rank of an adapter is 1 to 128, the smaller side of model.layers.0.self_attn.k_proj"),
        ({"rank": 129}, "and not 129"),
        ({"rank": 2.0}, "and not 2.0"),
        ({"dropout": 1.0}, "a share from 0 to below 1, and not 1.0"),
        (
            {"targets": ["query"]},
            "no linear module is called 'query'; there are down_proj, gate_proj, k_proj, lm_head, ",
        ),
        ({"targets": []}, "no target was named; there are down_proj"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(TrainingError) as caught:
        add_lora(llama("Q4_K"), **options)
    assert sentence in str(caught.value)


def test_a_second_adapter_is_refused() -> None:
    with pytest.raises(TrainingError, match="has an adapter already"):
        add_lora(add_lora(llama("Q4_K"), rank=4), rank=4)


@pytest.mark.parametrize("kind", ["Llama", "GPT2"])
def test_no_matrix_is_decoded_while_adapters_are_added(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """peft reads weights of every module for their device alone, and for each part of an adapter anew."""
    if kind == "Llama":
        model = llama("Q4_K")
    else:
        config = transformers.GPT2Config(n_embd=64, n_head=2, n_layer=1, vocab_size=300, n_positions=64)
        model = transformers.GPT2LMHeadModel(config).eval()
        fewbits.quantize(model, "nf4_g64")
    with monkeypatch.context() as patched:
        patched.setattr(PackedMatrix, "numbers", lambda self: pytest.fail("a matrix was decoded"))
        adapted = add_lora(model, rank=2)
    assert {p.device.type for p in trained(adapted).values()} == {"cpu"}
    linear = next(module for module in model.modules() if isinstance(module, Packed))
    assert bool(linear.weight.any()), "afterwards weights are numbers again"
