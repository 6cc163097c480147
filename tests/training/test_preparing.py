"""Networks are prepared where they stand, trained by whatever loop, and converted to what they computed."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import fewbits
from fewbits import training
from fewbits.errors import CalibrationError, CheckpointError, FewbitsError, FormatError, RecipeError, TrainingError
from fewbits.layers import modules
from fewbits.layers.rounding import StaticRounding
from fewbits.training.fake.batch_norm import freeze_batch_norm
from fewbits.training.fake.modules import Prepared

IDS = torch.arange(192).reshape(2, 96) % 50


class Everything(torch.nn.Module):
    """One module of each kind, a convolution in groups among them, with weights that are never alike."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(50, 64, padding_idx=3)
        self.mix = torch.nn.Linear(64, 96)
        self.line = torch.nn.Conv1d(32, 24, 4, padding=1, padding_mode="circular")
        self.plane = torch.nn.Conv2d(16, 32, (2, 4), stride=2, groups=2)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Something of all of them for `ids` (n, 96)."""
        x = self.mix(self.table(ids))
        flat = self.line(x[:, :32]).mean(1)
        deep = self.plane(x.reshape(len(ids), 16, 6, 96)).mean((1, 2))
        return flat[:, :40] + deep[:, :40]


def llama(**more: Any) -> Any:
    """A random Llama, its weights wide enough to matter."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 100}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.1, "use_cache": False}
    torch.manual_seed(1)
    config = transformers.AutoConfig.for_model("llama", **sizes, **heads, **more)
    return transformers.AutoModelForCausalLM.from_config(config)


def taught(net: torch.nn.Module, wanted: torch.Tensor, steps: int = 20) -> list[float]:
    """Losses while a prepared network learns to answer `IDS` with `wanted`."""
    optimizer = torch.optim.AdamW(training.parameter_groups(net, 1e-3, 1e-2))
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (net(IDS) - wanted).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("activations", [None, "int4_learned", "int8_moving", "int2_learned"])
@pytest.mark.parametrize("recipe", ["int4_row_sym", "uint2_row_asym_f16", "ternary_row", "Q8_0"])
def test_every_kind_of_module_computes_afterwards_what_it_did(recipe: str, activations: str | None) -> None:
    net, wanted = Everything(), Everything()(IDS).detach()
    returned = training.prepare(net, recipe, activations=activations, freeze_observers_after=15)
    taught(net, wanted)

    assert returned is net
    before = net.eval()(IDS).detach()
    weights = {kind: getattr(net, kind).rounded_weight().detach() for kind in ("table", "mix", "line", "plane")}
    training.convert(net, inputs="exact")

    for kind, weight in weights.items():
        module = getattr(net, kind)
        assert isinstance(module, modules.Packed)
        assert torch.equal(module.weight, weight)
    torch.testing.assert_close(net(IDS), before, rtol=1e-5, atol=1e-5)
    assert isinstance(net.plane._modules.get("rounding"), StaticRounding if activations else type(None))
    assert [name for name in net.state_dict() if "fake" in name] == []


def test_low_bits_recover_by_training() -> None:
    net, wanted = Everything(), Everything()(IDS).detach()
    training.prepare(net, "int2_row_sym", activations="int4_learned")

    losses = taught(net, wanted, 60)

    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("name", ["int8_token", "int8_group", "int4_token", "int2_token", "fp8_token"])
def test_inputs_per_token_are_those_of_the_kernels(name: str) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(64, 96), torch.nn.ReLU(), torch.nn.Linear(96, 8))
    training.prepare(net, "int8_row_sym_restricted", activations=name)
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    net(x).sum().backward()
    before = net.eval()(x)

    training.convert(net)

    assert net[0].inputs == name
    torch.testing.assert_close(net(x), before, rtol=1e-5, atol=1e-5)


def test_a_recipe_says_how_inputs_are_rounded() -> None:
    net = llama()

    training.prepare(net, "w8a8")

    assert net.model.layers[0].mlp.up_proj.fake_inputs.name == "int8_token"
    assert net.lm_head.fake_inputs is None


def test_convolutions_get_no_rounding_per_token_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    net = Everything()

    with caplog.at_level(logging.WARNING, "fewbits"):
        training.prepare(net, "int8_row_sym", activations="int8_token")

    assert net.plane.fake_inputs is None
    assert net.mix.fake_inputs is not None
    assert any("line.weight and 1 more: convolutions get their inputs as they are" in note for note in caplog.messages)


def test_modules_by_name_get_what_is_asked_for_them() -> None:
    net = Everything()

    training.prepare(
        net,
        "int4_row_sym",
        tensors={"mix": "Q8_0", "table": "F32"},
        activations={"plane": "int4_learned", "l*": "int2_moving"},
    )

    assert net.fewbits_plan.formats == {
        "mix.weight": "Q8_0",
        "line.weight": "int4_row_sym",
        "plane.weight": "int4_row_sym",
    }
    assert net.fewbits_plan.activations == {"line.weight": "int2_moving", "plane.weight": "int4_learned"}
    assert type(net.table) is torch.nn.Embedding


def test_tied_weights_share_what_is_learned_and_stay_tied() -> None:
    net = llama(tie_word_embeddings=True)
    training.prepare(net, "int4_g32_sym_f16")
    net(IDS, labels=IDS).loss.backward()

    assert net.lm_head.fake is net.model.embed_tokens.fake
    assert len([name for name in net.state_dict() if name.endswith("embed_tokens.fake_weight.scale_move")]) == 1
    assert "lm_head.fake_weight.scale_move" not in net.state_dict()
    training.convert(net)
    assert net.lm_head.matrix is net.model.embed_tokens.matrix


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("recipe", ["int4_g32_sym_f16", "ternary_g32_f16", "nf4_g64"])
def test_what_is_saved_answers_as_the_trained_network(recipe: str, tied: bool, tmp_path: Path) -> None:
    net = llama(tie_word_embeddings=tied)
    training.prepare(net, recipe)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        net(IDS, labels=IDS).loss.backward()
        optimizer.step()
    before = net.eval()(IDS).logits.detach()

    training.convert(net, inputs="exact")
    net.save_pretrained(tmp_path)
    loaded = fewbits.load(tmp_path, inputs="exact")

    torch.testing.assert_close(loaded(IDS).logits, before, rtol=1e-4, atol=1e-4)


def test_a_static_range_is_in_no_checkpoint_and_saving_says_so(tmp_path: Path) -> None:
    net = llama()
    training.prepare(net, "int4_g32_sym_f16", activations="int8_learned")
    net(IDS)
    training.convert(net)

    with pytest.raises(CheckpointError, match=r"under a static range, which no dialect of matrices holds"):
        net.save_pretrained(tmp_path)


def test_calibration_fixes_ranges_and_training_moves_them() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    training.prepare(net, "int8_row_sym", activations="int4_moving", observer="minmax", freeze_observers_after=2)
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))

    training.calibrate(net, x.split(16))
    first = net[0].fake_inputs
    assert first.ends.tolist() == [x.min().item(), x.max().item()]
    assert int(first.calls) == 0
    for _ in range(4):
        net(x * 2)
    moved = [x.min().item() + (1 - 0.95**2) * x.min().item(), x.max().item() + (1 - 0.95**2) * x.max().item()]

    assert first.ends.tolist() == pytest.approx(moved, rel=1e-5)
    ends = first.ends.clone()
    net.eval()(x * 9)
    assert torch.equal(first.ends, ends)


def test_ranges_begin_at_the_first_batch_where_nobody_calibrates() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(16, 8))
    training.prepare(net, "int8_row_sym", activations="int8_learned", observer="minmax")
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))

    with pytest.raises(CalibrationError, match=r"no input has been seen yet"):
        training.convert(net)
    net(x)

    scale = (x.max() - x.min()) / 255
    assert net[0].fake_inputs.range_of()[0].item() == pytest.approx(float(scale))


def test_learned_ranges_follow_the_loss_until_they_are_frozen() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(16, 8))
    training.prepare(net, "int8_row_sym", activations="int2_learned", freeze_observers_after=1)
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))

    net(x).square().sum().backward()
    move = net[0].fake_inputs.scale_move
    assert float(move.grad) != 0.0
    move.grad = None
    net(x).square().sum().backward()

    assert move.grad is None


def test_batch_normalization_keeps_its_statistics_after_so_many_batches() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.BatchNorm1d(8))
    training.prepare(net, "int8_row_sym", freeze_batch_norm_after=2)
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))

    means = []
    for _ in range(4):
        net.train()
        net(x).sum().backward()
        means.append(net[1].running_mean.clone())

    assert not torch.equal(means[0], means[1])
    assert torch.equal(means[1], means[3])
    assert net[1].weight.grad is not None
    with pytest.raises(TrainingError, match=r"^0 keeps no statistics"):
        freeze_batch_norm(torch.nn.Sequential(torch.nn.BatchNorm1d(8, track_running_stats=False)))


def test_gradient_checkpointing_counts_and_computes_the_same() -> None:
    from torch.utils.checkpoint import checkpoint

    net = torch.nn.Sequential(torch.nn.Linear(16, 8))
    training.prepare(net, "int4_row_sym", activations="int4_moving", delay=1)
    other = copy.deepcopy(net)
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))

    for _ in range(3):
        net(x).square().sum().backward()
        checkpoint(other, x, use_reentrant=False).square().sum().backward()

    assert int(other[0].fake_weight.calls) == int(net[0].fake_weight.calls) == 3
    assert torch.equal(other[0].weight.grad, net[0].weight.grad)


@pytest.mark.parametrize(
    ("make", "options", "error", "words"),
    [
        (lambda: "net", {"recipe": "Q8_0"}, TrainingError, "is a torch module, and this is a str"),
        (lambda: torch.nn.Sequential(torch.nn.ReLU()), {"recipe": "Q8_0"}, TrainingError, "has no Linear"),
        (lambda: torch.nn.Sequential(torch.nn.LSTM(32, 8)), {"recipe": "Q8_0"}, TrainingError, "rounds nothing of a"),
        (Everything, {"recipe": "int9_row_sym"}, FewbitsError, "codes have 1 to 8 bits"),
        (Everything, {"recipe": "F32"}, TrainingError, "F32 rounds nothing"),
        (Everything, {"recipe": "Q8_0", "activations": "int9_learned"}, RecipeError, "int8_learned, int4_moving"),
        (
            Everything,
            {"recipe": "Q8_0", "activations": "int8_learned", "observer": "max"},
            CalibrationError,
            "observer",
        ),
        (Everything, {"recipe": "Q8_0", "tensors": {"mix": "none"}}, (RecipeError, FormatError), "none"),
    ],
)
def test_what_cannot_be_prepared_is_refused_and_stays_as_it_was(
    make: Any, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    net = make()

    with pytest.raises(error, match=words) as caught:
        training.prepare(net, **options)

    assert "\n" not in str(caught.value)
    if isinstance(net, torch.nn.Module):
        assert not any(isinstance(module, Prepared) for module in net.modules())


def test_what_was_prepared_or_converted_is_not_prepared_again() -> None:
    net = Everything()
    training.prepare(net, "Q8_0")

    with pytest.raises(TrainingError, match=r"prepared already"):
        training.prepare(net, "Q8_0")
    training.convert(net)
    with pytest.raises(TrainingError, match=r"quantized already"):
        training.prepare(net, "Q8_0")
    with pytest.raises(TrainingError, match=r"is not prepared"):
        training.convert(net)
    with pytest.raises(TrainingError, match=r"no inputs of this module have a static range"):
        training.calibrate(net, [IDS])


def test_weights_that_are_no_numbers_are_refused() -> None:
    net = Everything()
    net.mix.weight.data[0, 0] = torch.nan
    with pytest.raises(TrainingError, match=r"^mix.weight holds NaN"):
        training.prepare(net, "Q8_0")
    net.mix.weight.data[0, 0] = 0.0
    training.prepare(net, "int8_row_sym")
    net.mix.weight.data[0, 0] = torch.inf

    with pytest.raises(TrainingError, match=r"the weight of mix holds NaN or infinite"):
        training.convert(net)
    assert isinstance(net.mix, Prepared)
