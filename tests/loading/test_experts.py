"""Experts that transformers keeps in stacks: loaded as layers of their own, each of whose matrices stays packed."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import fewbits
from fewbits.evaluation.model_files import open_model
from fewbits.layers.experts import Experts, in_place_of, why_not
from fewbits.layers.modules import Packed
from fewbits.loading.experts import unstack
from references.expert_models import write_experts

KINDS = {"mixtral": 4, "qwen2_moe": 8, "qwen3_moe": 8}
"""Kind of model -> its experts."""
LAYERS = 2
IDS = torch.arange(3, 43) * 7 % 500


def logits(network: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = network(input_ids=IDS[None]).logits[0].float()
    return found


def require_equal(path: Path, network: Any) -> None:
    """The network's logits are those by which `fewbits.compare` judges the file, whose experts are decoded."""
    with torch.no_grad():
        wanted = open_model(path).load().logits(IDS)
    assert float((logits(network) - wanted).abs().max()) <= 1e-4 * float(wanted.abs().max())


def of_experts(network: Any) -> dict[str, Packed]:
    return {n: m for n, m in network.named_modules() if isinstance(m, Packed) and ".experts." in n}


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize(
    ("name", "to", "dialect"),
    [
        ("out.gguf", "Q4_0", None),
        ("out.gguf", "Q8_0", None),
        ("own", "Q8_0", None),
        ("other", "int4_g32_sym", "compressed-tensors"),
        ("bnb", "nf4_g64", "bitsandbytes"),
    ],
)
def test_experts_stay_packed(kind: str, name: str, to: str, dialect: str | None, tmp_path: Path) -> None:
    fewbits.quantize(write_experts(tmp_path / "model", kind), tmp_path / name, to=to, dialect=dialect, threads=1)
    network = fewbits.load(tmp_path / name, inputs="exact")
    assert len(of_experts(network)) == LAYERS * KINDS[kind] * 3
    assert (network.fewbits.decoded, network.fewbits.notes) == ((), ())
    assert all(parameter.dim() < 3 for parameter in network.parameters())
    require_equal(tmp_path / name, network)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen")
    fewbits.quantize(write_experts(folder / "model", "qwen3_moe"), folder / "out", to="Q8_0", threads=1)
    return folder


def test_whole_numbers_multiply_packed_experts(qwen: Path) -> None:
    """With inputs as they are by default, which are rounded to 16 bits."""
    wanted = logits(fewbits.load(qwen / "out", inputs="exact"))
    found = logits(fewbits.load(qwen / "out"))
    assert 0 < float((found - wanted).abs().max()) <= 2e-3 * float(wanted.abs().max())


def test_a_plain_directory_keeps_the_bits_of_its_experts(qwen: Path) -> None:
    network = fewbits.load(qwen / "model", inputs="exact")
    assert {each.matrix.format for each in of_experts(network).values()} == {"BF16"}
    require_equal(qwen / "model", network)


def test_experts_are_saved_and_loaded_again(qwen: Path, tmp_path: Path) -> None:
    network = fewbits.load(qwen / "out", inputs="exact")
    network.save_pretrained(tmp_path / "saved")
    again = fewbits.load(tmp_path / "saved", inputs="exact")
    assert again.fewbits.formats == network.fewbits.formats
    assert torch.equal(logits(again), logits(network))


def test_experts_are_copied_and_kept(qwen: Path) -> None:
    network = fewbits.load(qwen / "out", inputs="exact")
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):  # our own
        assert torch.equal(logits(other), logits(network))


def test_a_missing_expert_leaves_the_stack(qwen: Path) -> None:
    """Whoever then loads the checkpoint says what is missing."""
    from fewbits.loading.sources import open_source

    source = open_source(qwen / "out")
    with torch.device("meta"):
        network = source.network(source.config)
    pieces = dict(source.pieces)
    del pieces["model.layers.1.mlp.experts.5.up_proj.weight"]
    before = set(pieces)
    notes = unstack(network, pieces, {}, torch.float32)
    assert isinstance(network.get_submodule("model.layers.0.mlp.experts"), Experts)
    assert not isinstance(network.get_submodule("model.layers.1.mlp.experts"), Experts)
    assert set(pieces) == before, "their names are those of the layers"
    (note,) = notes
    assert note.startswith("The experts of model.layers.1.mlp.experts are decoded: its experts' matrices are not all")


def test_layers_compute_what_stacks_do() -> None:
    """The slow and obvious one is transformers' own."""
    config = transformers.Qwen3MoeConfig(
        num_experts=5, num_experts_per_tok=2, hidden_size=8, moe_intermediate_size=6, experts_implementation="eager"
    )
    from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts

    chance = torch.Generator().manual_seed(3)
    stacks = Qwen3MoeExperts(config)
    for parameter in stacks.parameters():
        parameter.data = torch.randn(parameter.shape, generator=chance)
    experts = in_place_of(stacks).to_empty(device="cpu")
    for number in range(5):
        one = experts.get_submodule(str(number))
        gate, up = stacks.gate_up_proj[number].chunk(2)
        for name, weight in (("gate_proj", gate), ("up_proj", up), ("down_proj", stacks.down_proj[number])):
            one.get_submodule(name).weight.data.copy_(weight)
    x = torch.randn(7, 8, generator=chance)
    chosen = torch.stack([torch.randperm(5, generator=chance)[:2] for _ in range(7)])
    chosen[3, 1] = 5  # nobody
    weights = torch.rand(7, 2, generator=chance)
    with torch.no_grad():
        torch.testing.assert_close(experts(x, chosen, weights), stacks(x, chosen, weights))


def test_what_computes_otherwise_is_left_and_said() -> None:
    from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts

    with torch.device("meta"):
        odd = GptOssExperts(transformers.GptOssConfig(num_local_experts=2, hidden_size=8, intermediate_size=6))
    assert "has_bias" in str(why_not(odd))
    assert why_not(torch.nn.Linear(2, 3)) == ""
