"""Every architecture everywhere: GGUF files and directories, read back, walked by text, and faults that are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import fewbits
from fewbits.checkpoints import derived, huggingface
from fewbits.checkpoints.gguf_writer import GGUFWriter
from fewbits.cli.main import main
from fewbits.errors import CheckpointError, TransformError, VerificationError
from fewbits.evaluation.gguf_model import GGUFModel
from fewbits.evaluation.model_files import open_model
from fewbits.models import known
from fewbits.transforms import groups_of
from references.architecture_models import MODELS, gpt2, seed_oss
from references.random_models import manual

EXAMPLE = Path(__file__).parents[1] / "examples" / "architectures" / "seed_oss.toml"
TEXT = 8_000


@pytest.fixture(scope="module", params=MODELS, ids=lambda make: make.__name__)
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    make: Callable[[Path], Path] = request.param
    return make(tmp_path_factory.mktemp("models") / make.__name__)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "text.txt"
    path.write_text(manual()[:TEXT], encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def source(directory: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


def log_probabilities(network: Any) -> torch.Tensor:
    ids = torch.randint(3, 500, (1, 160), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return torch.Tensor(network(ids).logits[0].double().log_softmax(-1))


def divergence(expected: Any, found: Any) -> float:
    """Mean KL divergence over tokens that are drawn at random."""
    a, b = log_probabilities(expected), log_probabilities(found)
    assert float(-(a.exp() * a).sum(-1).mean()) > 1.0
    return float((a.exp() * (a - b)).sum(-1).mean())


def test_a_plain_gguf_file_computes_what_its_source_does(directory: Path, source: Any, tmp_path: Path) -> None:
    fewbits.quantize(directory, tmp_path / "f16.gguf", to="F16")
    assert divergence(source, GGUFModel.open(tmp_path / "f16.gguf").load().network) < 1e-9


def stacks_experts(directory: Path) -> bool:
    """Whether the checkpoint has all experts of a layer in one tensor, which no directory of ours has."""
    facts = huggingface.read_configuration(directory).architecture.tensors
    return any(fact.view and not fact.merged for fact in facts)


def test_a_plain_directory_computes_what_its_source_does(directory: Path, source: Any, tmp_path: Path) -> None:
    if stacks_experts(directory):
        with pytest.raises(CheckpointError, match="is a stack of all experts"):
            fewbits.quantize(directory, tmp_path / "plain", to="F16")
        return
    fewbits.quantize(directory, tmp_path / "plain", to="F16")
    assert divergence(source, open_model(tmp_path / "plain").load().network) < 1e-9


def test_quantized_both_ways_it_is_near(directory: Path, source: Any, tmp_path: Path) -> None:
    fewbits.quantize(directory, tmp_path / "q.gguf", to="Q8_0")
    networks = [GGUFModel.open(tmp_path / "q.gguf").load()]
    if not stacks_experts(directory):
        fewbits.quantize(directory, tmp_path / "fields", to="int8_g32_sym_f16")
        networks.append(open_model(tmp_path / "fields").load())
    for network in networks:
        assert 1e-9 < divergence(source, network.network) < 0.2


@pytest.mark.parametrize("output", ["walked.gguf", "walked"])
def test_text_chooses_codes(directory: Path, text: Path, output: str, tmp_path: Path) -> None:
    if not output.endswith("gguf") and stacks_experts(directory):
        return
    record: Any = fewbits.quantize(
        directory,
        tmp_path / output,
        to="Q4_0" if output.endswith("gguf") else "int4_g32_sym_f16",
        method="awq+gptq",
        calibration=text,
        windows=4,
        sequence_length=48,
    )
    solved = [t for t in record.tensors if t.planned.method == "awq+gptq"]
    assert len(solved) == record.calibration.tensors > 0
    # Where the guard, which judges on other text, kept what was solved, outputs are nearer than those of plain codes.
    found, plain = (
        sum(errors) for errors in zip(*((t.output_error, t.output_error_plain) for t in solved), strict=True)
    )
    assert found < plain if record.calibration.kept else found == plain


def test_rotated_it_computes_the_same_or_is_refused(directory: Path, source: Any, tmp_path: Path) -> None:
    """Where the facts say who writes into the residual stream, a rotation of it changes nothing but last bits."""
    output = tmp_path / "rotated.gguf"
    if huggingface.read_configuration(directory).architecture.stream.writers:
        fewbits.quantize(directory, output, to="F32", method="hadamard")
        assert divergence(source, GGUFModel.open(output).load().network) < 1e-7
    else:
        with pytest.raises(TransformError, match="leave hadamard out"):
            fewbits.quantize(directory, output, to="F32", method="hadamard")


def scaled(network: Any, name: str, factors: torch.Tensor, *, rows: bool, turned: bool) -> None:
    """Multiply rows, or columns, of a parameter; those of Conv1D lie the other way."""
    w = network.get_parameter(name).data
    across = w.ndim > 1 and (rows == turned)
    w.mul_(factors if across or w.ndim == 1 else factors[:, None])


def test_groups_may_be_rewritten_exactly(directory: Path, tmp_path: Path) -> None:
    """What leaves the producers of a group divided, and is multiplied by its consumers, changes nothing."""
    config = huggingface.read_configuration(directory)
    source = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    facts = config.architecture.parameters(config.values, config.layers).values()
    turned = {name: fact.transposed for name, fact in facts}
    expected, drawn, seen = log_probabilities(source), torch.Generator().manual_seed(1), 0
    for layer in range(config.layers):
        for group in groups_of(config.architecture, config.values, turned, layer):
            producer = source.get_parameter(group.producers[0])
            count = producer.shape[1 if turned[group.producers[0]] and producer.ndim > 1 else 0]
            factors = torch.exp(torch.randn(count, generator=drawn))
            for name in group.producers:
                scaled(source, name, 1 / factors, rows=True, turned=turned[name])
            for name in group.consumers:
                scaled(source, name, group.spread(factors), rows=False, turned=turned[name])
            seen += 1
    assert seen >= config.layers
    found = log_probabilities(source)
    assert float((expected.exp() * (expected - found)).sum(-1).mean()) < 1e-7


def refused(directory: Path, output: Path) -> None:
    with pytest.raises(VerificationError):
        fewbits.quantize(directory, output, to="Q8_0")
    assert not output.exists()


def test_tensors_of_other_layers_are_refused(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, other = GGUFWriter.write_rows, {"blk.0.attn": "blk.1.attn", "blk.1.attn": "blk.0.attn"}

    def swapped(name: str) -> str:
        return other.get(name[:10], name[:10]) + name[10:]

    monkeypatch.setattr(GGUFWriter, "write_rows", lambda w, name, *rest: write(w, swapped(name), *rest))
    refused(directory, tmp_path / "swapped.gguf")


def test_a_forgotten_fact_is_refused(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way in computes something else than the facts say; the verifier reads them by itself."""
    facts = huggingface.read_configuration(directory).architecture.tensors
    if any(fact.add for fact in facts):
        monkeypatch.setattr(
            derived.ShiftedTensor,
            "of",
            staticmethod(lambda own, add: derived.ShiftedTensor(own.name, "F32", own.shape, own.buffer[:0], own, 0.5)),
        )
        refused(directory, tmp_path / "unshifted.gguf")
    if any(fact.transposed and not fact.view for fact in facts):
        right = derived.TransposedTensor.slab
        monkeypatch.setattr(
            derived.TransposedTensor, "slab", lambda self, start, stop: right(self, start, stop)[:, ::-1].copy()
        )
        refused(directory, tmp_path / "mirrored.gguf")
    if any(fact.view for fact in facts):
        part = derived.PartTensor.slab
        monkeypatch.setattr(derived.PartTensor, "slab", lambda self, start, stop: part(self, start, stop)[::-1].copy())
        refused(directory, tmp_path / "backwards.gguf")
    if any(fact.order == "qkv" for fact in facts):
        monkeypatch.setattr(huggingface, "parted", lambda rows, heads, key_heads: np.roll(np.arange(rows), 1))
        refused(directory, tmp_path / "together.gguf")
    if any(fact.order == "rope" for fact in facts):
        monkeypatch.setattr(huggingface, "interleaved", lambda rows, heads: np.arange(rows))
        refused(directory, tmp_path / "unordered.gguf")


def test_names_of_the_bare_network(tmp_path: Path) -> None:
    """Checkpoints of GPT-2 on the hub lack the prefix that transformers writes today."""
    model = gpt2(tmp_path / "model")
    fewbits.quantize(model, tmp_path / "expected.gguf", to="Q8_0")
    weights = model / "model.safetensors"
    tensors = {name.removeprefix("transformer."): w for name, w in load_file(weights).items()}
    save_file(tensors, weights, {"format": "pt"})
    fewbits.quantize(model, tmp_path / "found.gguf", to="Q8_0")
    fewbits.quantize(model, tmp_path / "directory", to="int8_row_sym_f16")
    assert (tmp_path / "found.gguf").read_bytes() == (tmp_path / "expected.gguf").read_bytes()
    open_model(tmp_path / "directory").load()


def test_an_architecture_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the command line, as docs/architectures.md shows it."""
    monkeypatch.setattr(known, "_given", {})
    model, file, text = seed_oss(tmp_path / "model"), tmp_path / "q.gguf", tmp_path / "text.txt"
    text.write_text(manual()[:TEXT], encoding="utf-8")
    with pytest.raises(CheckpointError, match="SeedOssForCausalLM is not supported"):
        fewbits.quantize(model, file, to="Q8_0")
    assert main(["quantize", str(model), "-o", str(file), "--to", "Q8_0", "-q", "--architecture", str(EXAMPLE)]) == 0
    known._given.clear()
    asked = ["compare", str(model), str(file), "--text", str(text), "--context", "64", "--max-tokens", "640", "--json"]
    assert main([*asked, "--architecture", str(EXAMPLE)]) == 0
    assert "seed_oss.toml" in (tmp_path / "q.card.json").read_text(encoding="utf-8")
