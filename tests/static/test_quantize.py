"""Networks in whole numbers: what is folded, shared and left in float, and that the results are networks still."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
import torch
from torch import nn

from fewbits import static
from fewbits.static.arithmetic import MOST
from fewbits.static.exporting import export
from fewbits.static.folding import folded
from fewbits.static.inputs import Batch
from fewbits.static.layers import Add, Average, AveragePool, Concatenate, Convolution, Linear, Quantize
from fewbits.static.program import run
from static.networks import Branches, drawn, images


def kinds(model: static.StaticModule) -> list[type]:
    return [type(layer) for layer in model.layers.values()]


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def test_a_network_runs_in_whole_numbers(branches: nn.Module, branches_codes: static.StaticModule) -> None:
    x = images(20, seed=9)

    with torch.no_grad():
        assert 0 < relative(branches_codes(x), branches(x)) < 0.05
    assert kinds(branches_codes).count(Convolution) == 5
    assert kinds(branches_codes).count(Quantize) == 1  # the image; from there on everything is codes
    assert {Add, Concatenate, Average, AveragePool, Linear} < set(kinds(branches_codes))
    record = branches_codes.record
    assert [layer.name for layer in record.layers] == [
        "stem.0",
        "first.0",
        "second.0",
        "narrow",
        "wide",
        "head",
    ]
    assert record.folded == ("stem.0", "first.0", "second.0")
    assert record.floats == ()
    assert record.error == pytest.approx(relative(branches_codes(images(64)), branches(images(64)).detach()), rel=1e-4)
    assert all(0 < (layer.error or 0) < 0.1 for layer in record.layers)
    assert record.layers[-1].target is None  # logits come out of 32-bit sums
    assert record.bytes_after == sum(t.numel() * t.element_size() for t in branches_codes.buffers())
    assert record.layers[0].name in record.table()


def test_the_module_itself_stays_as_it_is() -> None:
    network = drawn(Branches()).train()
    network.stem.eval()
    before = copy.deepcopy(network.state_dict())
    modes = [module.training for module in network.modules()]

    static.quantize(network, images(8).split(4), tolerance=None)

    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_folding_is_exact(branches: nn.Module) -> None:
    x = images(6)

    found, merged = folded(export(branches, Batch((x,))))

    assert len(merged) == 3
    assert not [step.op for step in found.program.steps if "batch_norm" in step.op or "clone" in step.op]
    with torch.no_grad():
        assert torch.allclose(run(found.program, [x], found.constants)[0], branches(x), rtol=1e-4, atol=1e-5)


def test_batch_normalization_behind_a_linear_layer_folds_only_where_it_is_exact() -> None:
    flat = drawn(nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5)))
    deep = drawn(nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(4)))
    rows, stacks = torch.randn(8, 6), torch.randn(8, 4, 6)

    assert static.quantize(flat, [rows, rows]).record.folded == ("0",)
    left = static.quantize(deep, [stacks, stacks])
    assert left.record.folded == ()
    assert [step.operation for step in left.record.floats] == ["aten._native_batch_norm_legit_no_training.default"]


def test_what_only_a_concatenation_reads_has_its_scale(branches_codes: static.StaticModule) -> None:
    [join] = [layer for layer in branches_codes.layers.values() if isinstance(layer, Concatenate)]

    assert set(join.sources) == {join.target.affine}


def test_bounds_of_what_follows_are_those_of_the_codes(branches_codes: static.StaticModule) -> None:
    first = branches_codes.layers["first_0"]

    assert int(first.bounds[0]) == int(first.out_zero)
    assert int(first.out_zero) + 6 / float(first.out_scale) >= int(first.bounds[1]) - 0.5
    adds = [layer for layer in branches_codes.layers.values() if isinstance(layer, Add)]
    assert [int(add.bounds[0]) == int(add.out_zero) for add in adds] == [True]


def test_linear_layers_between_floats(perceptron: nn.Module, perceptron_codes: static.StaticModule) -> None:
    x = torch.randn(30, 12, generator=torch.Generator().manual_seed(7))

    with torch.no_grad():
        assert 0 < relative(perceptron_codes(x), perceptron(x)) < 0.05
    by_name = {layer.name: layer for layer in perceptron_codes.record.layers}
    assert by_name["first"].target is not None
    assert by_name["second"].target is None
    assert by_name["first"].target.zero == 0
    assert perceptron_codes.record.folded == ("first",)
    assert [step.operation for step in perceptron_codes.record.floats] == ["aten.gelu.default"]


def test_transformers_keep_their_softmax_and_norms_in_float(
    encoder: nn.Module, encoder_codes: static.StaticModule
) -> None:
    ids = torch.randint(0, 40, (9, 6), generator=torch.Generator().manual_seed(8))

    with torch.no_grad():
        found, wanted = encoder_codes(ids=ids), encoder(ids)

    assert list(found) == ["states", "logits"]
    assert relative(found["states"], wanted["states"]) < 0.05
    names = [layer.name for layer in encoder_codes.record.layers]
    assert names == [
        "tokens",
        "layer.self_attn.in_proj_weight",
        "layer.self_attn.out_proj",
        "layer.linear1",
        "layer.linear2",
        "head",
    ]
    floats = {step.operation for step in encoder_codes.record.floats}
    assert {"aten.layer_norm.default", "aten.scaled_dot_product_attention.default"} <= floats
    assert encoder_codes.record.layers[0].bytes_after == 40 * 16 + 40 * 4


def test_a_quantized_network_is_a_module_like_any(branches_codes: static.StaticModule) -> None:
    x = images(7, seed=3)
    wanted = branches_codes(x)

    again = pickle.loads(pickle.dumps(branches_codes))
    assert torch.equal(again(x), wanted)
    for buffer in again.buffers():
        buffer.zero_()
    again.load_state_dict(branches_codes.state_dict())
    assert torch.equal(again(x), wanted)
    assert torch.equal(copy.deepcopy(branches_codes).half().float()(x), wanted)
    assert torch.equal(torch.cat([branches_codes(one) for one in x.split(1)]), wanted)


def test_no_samples_have_no_results(branches_codes: static.StaticModule) -> None:
    assert branches_codes(torch.empty(0, 3, 8, 8)).shape == (0, 5)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_quantized_network_can_be_exported(perceptron_codes: static.StaticModule) -> None:
    x = torch.randn(5, 12)
    shapes = (({0: torch.export.Dim("batch")},),)

    exported = torch.export.export(perceptron_codes, (x,), dynamic_shapes=shapes).module()

    more = torch.randn(11, 12)
    assert torch.equal(exported(more), perceptron_codes(more))


@pytest.mark.parametrize(
    ("options", "scales"),
    [({"weights": "tensor", "observer": "percentile"}, 1), ({"activation": "int8", "observer": "entropy"}, 12)],
)
def test_choices(options: dict[str, str], scales: int) -> None:
    network = drawn(nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 12)))
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))

    found = static.quantize(network, x.split(16), dynamic_batch=False, **options)  # type: ignore[arg-type]

    assert relative(found(x[:16]), network(x[:16]).detach()) < 0.05
    assert [layer.weight_scales for layer in found.record.layers] == [scales, scales]
    assert {layer.source.kind for layer in found.record.layers if layer.source} == {options.get("activation", "uint8")}


def test_layers_that_cost_too_much_alone_stay_in_float() -> None:
    network = drawn(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)))
    network[2].weight.data[0, 0] = 3e4  # one number takes the whole range of the tensor
    network[4].weight.data[:, 0] = 0.0
    x = torch.randn(128, 8, generator=torch.Generator().manual_seed(1))

    found = static.quantize(network, x.split(64), weights="tensor")

    kept = {layer.name: layer.kept for layer in found.record.layers}
    assert kept["2"].startswith("alone it changes the outputs by")
    assert kept["0"] == ""
    assert all((layer.error or 0) > 0.1 for layer in found.record.layers if layer.kept)
    assert {type(layer).__name__ for layer in found.layers.values()} >= {"Linear", "Quantize"}
    free = static.quantize(network, x.split(64), weights="tensor", tolerance=None)
    assert [layer.kept for layer in free.record.layers] == ["", "", ""]
    assert free.record.error > found.record.error


def test_layers_can_be_named_to_stay() -> None:
    network = drawn(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)))

    found = static.quantize(network, torch.randn(64, 8).split(32), float_layers=["0"])

    assert [layer.kept for layer in found.record.layers] == ["it was named in float_layers", ""]
    assert [type(layer).__name__ for layer in found.layers.values()] == ["Quantize", "Linear"]


def test_tables_can_be_named_to_stay(encoder: nn.Module) -> None:
    ids = torch.randint(0, 40, (8, 6), generator=torch.Generator().manual_seed(4))

    found = static.quantize(encoder, [ids, ids], float_layers=["tokens"], tolerance=None)

    assert found.record.layers[0].kept == "it was named in float_layers"
    assert "tokens" not in found.layers


def test_means_over_samples_stay_in_float() -> None:
    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 4, 1), nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x).mean((2, 3))
            return self.second(x + x.mean((0,), keepdim=True))  # type: ignore[no-any-return]

    network = drawn(Centred())
    x = torch.randn(16, 1, 4, 4, generator=torch.Generator().manual_seed(1))

    found = static.quantize(network, x.split(8))

    assert "how many numbers it averages differs from run to run" in [step.why for step in found.record.floats]
    assert relative(found(x), network(x).detach()) < 0.05
    json.dumps(found.record.as_dict())


def test_a_layer_that_is_used_twice_has_scales_of_each_use() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(torch.sigmoid(self.layer(x) * 4))  # type: ignore[no-any-return]

    network = drawn(Twice())
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))

    found = static.quantize(network, x.split(32))

    assert [layer.name for layer in found.record.layers] == ["layer", "layer#2"]
    assert len({layer.source.scale for layer in found.record.layers if layer.source}) == 2
    assert relative(found(x), network(x).detach()) < 0.05


def test_sums_that_may_not_fit_stay_in_float() -> None:
    cols = MOST // (255 * 127) + 1
    network = nn.Sequential(nn.Linear(cols, 2), nn.Linear(2, 2))

    found = static.quantize(network, torch.randn(2, 1, cols).unbind())

    assert [bool(layer.kept) for layer in found.record.layers] == [True, False]
    assert "32 bits" in found.record.layers[0].kept
