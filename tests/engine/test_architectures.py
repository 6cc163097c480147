"""Every architecture that the engine runs, against transformers on the decoded weights of the same file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

import fewbits
from fewbits.engine import Model, load
from fewbits.engine.building import Builder
from fewbits.engine.frame import Frame
from fewbits.engine.network import write_network
from fewbits.engine.source import Source, open_model
from fewbits.errors import EngineError
from fewbits.evaluation.gguf_model import GGUFModel
from fewbits.kernels.module import native_module
from fewbits.models import add_architecture, architectures, known
from fewbits.models.network import PowerFact
from references import architecture_models
from references.engine_models import MODELS, calm

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "architectures" / "seed_oss.toml"
POCKET = ROOT / "examples" / "models" / "pocket-llama"
TOKENS = [int(n) for n in np.random.default_rng(5).integers(3, 290, 160)]
EXACT, ROUNDED = 1e-9, 1e-3
"""Most that the mean KL divergence may be: of numbers as they are, and of numbers that are rounded to 8 bits."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Files:
    """A model's GGUF files: sharp, so that every fault shows, and calm, so that 8 bits lose little."""

    name: str
    sharp: Path
    calm: Path

    def expected(self, path: Path, tokens: Sequence[int] = TOKENS) -> Floats:
        """Logits (tokens, vocabulary) of the decoded weights."""
        network = GGUFModel.open(path).load().network
        with torch.no_grad():
            return np.asarray(network(torch.tensor([list(tokens)])).logits[0].float().numpy())


def make_files(directory: Path, name: str) -> Files:
    files = Files(name, directory / f"{name}.sharp.gguf", directory / f"{name}.calm.gguf")
    model = MODELS[name](directory / name)
    fewbits.quantize(model, files.sharp, to="BF16")
    fewbits.quantize(calm(model), files.calm, to="Q8_0")
    return files


@pytest.fixture(scope="module", autouse=True)
def example_known() -> Iterator[None]:
    """An architecture of a user's own runs like ours."""
    given = dict(known._given)
    add_architecture(EXAMPLE)
    yield
    known._given.clear()
    known._given.update(given)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Files]:
    """The files of a model by its name, made once."""
    directory = tmp_path_factory.mktemp("models")
    found: dict[str, Files] = {}

    def files(name: str) -> Files:
        if name not in found:
            found[name] = make_files(directory, name)
        return found[name]

    return files


@pytest.fixture(params=MODELS)
def files(request: pytest.FixtureRequest, made: Callable[[str], Files]) -> Files:
    return made(request.param)


def divergence(expected: Floats, found: Floats) -> float:
    """Mean KL divergence over tokens."""
    a, b = (torch.from_numpy(each).double().log_softmax(-1) for each in (expected, found))
    return float((a.exp() * (a - b)).sum(-1).mean())


def logits(model: Model, tokens: Sequence[int] = TOKENS) -> Floats:
    return model.session(context=256).evaluate_all(tokens)


def built(source: Source, isa: str = "", *, exact: bool = True) -> Model:
    """The model of a source."""
    machine = native_module().Machine(2, exact=exact, keep_stored=False, isa=isa)
    build = Builder(source, machine)
    return Model(source, machine, write_network(build), exact=exact)


def test_every_architecture_with_a_program_is_here() -> None:
    run = {each.name for each in architectures() if each.engine and not each.encoder}
    assert run == (set(MODELS) - {"phi4", "falcon_7b", "gpt_neox_in_turn"})


def test_logits_are_those_of_the_decoded_weights(files: Files) -> None:
    """With windows that are shorter than the text, and experts that get no token."""
    assert divergence(files.expected(files.sharp), logits(load(files.sharp, threads=2, exact=True))) < EXACT
    expected = files.expected(files.calm)
    assert divergence(expected, logits(load(files.calm, threads=2, exact=True))) < EXACT
    assert EXACT < divergence(expected, logits(load(files.calm, threads=2))) < ROUNDED


def test_chunks_sequences_and_threads_change_no_bit(files: Files) -> None:
    for exact in (True, False):
        model = load(files.calm, threads=1, exact=exact)
        whole = logits(model)
        session = model.session(context=256)
        parts = [session.evaluate_all(TOKENS[a:b]) for a, b in ((0, 1), (1, 2), (2, 70), (70, 71), (71, 160))]
        assert np.array_equal(np.concatenate(parts), whole)
        session.keep(80)
        assert np.array_equal(session.evaluate(TOKENS[80:82]), whole[81])

        several = model.session(context=256, sequences=3)
        texts = [TOKENS[:90], TOKENS[30:47], TOKENS[5:6]]
        together = several.evaluate_together(texts)
        assert np.array_equal(together, [logits(model, text)[-1] for text in texts])
        again = several.evaluate_together([TOKENS[90:91], TOKENS[47:49], TOKENS[6:8]])
        texts = [TOKENS[:91], TOKENS[30:49], TOKENS[5:8]]
        assert np.array_equal(again, [logits(model, text)[-1] for text in texts])

        for threads in (2, 3):
            assert np.array_equal(logits(load(files.calm, threads=threads, exact=exact)), whole)
        assert np.array_equal(logits(load(files.calm, threads=2, exact=exact, mapped=True)), whole)


def test_a_session_outlives_its_model(made: Callable[[str], Files]) -> None:
    """The machine keeps what it looks at."""
    expected = logits(load(made("llama").calm, threads=1))
    session = load(made("llama").calm, threads=1).session(context=256)
    others = [logits(load(made("qwen2").calm, threads=1)) for _ in range(3)]  # whose memory could take its place
    assert np.array_equal(session.evaluate_all(TOKENS), expected)
    assert np.array_equal(others[0], others[1])


def test_instruction_sets_change_no_bit(made: Callable[[str], Files]) -> None:
    for name in ("gemma2", "gpt_oss", "qwen2_moe", "gpt2"):
        source = open_model(made(name).calm)
        results = [logits(built(source, isa, exact=False)) for isa in native_module().available()]
        assert all(np.array_equal(each, results[0]) for each in results)


# ---- faults that must be seen


def other_rope(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Builder.rope
    turned = lambda self, *rest: right(Turned(self), *rest)
    monkeypatch.setattr(Builder, "rope", turned)


class Turned:
    """A builder that takes neighbours for halves and halves for neighbours."""

    def __init__(self, build: Builder) -> None:
        self.source = replace(build.source, neighbours=not build.source.neighbours)
        self.op = build.op


def no_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Builder.vector
    monkeypatch.setattr(
        Builder, "vector", lambda self, name, count: -1 if name.endswith(".bias") else right(self, name, count)
    )


def swapped_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    right, other = Frame.name, {0: 1, 1: 0}
    monkeypatch.setattr(Frame, "name", lambda self, layer, name: right(self, other.get(layer, layer), name))


def no_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Frame, "window", lambda self, layer: 0)


def one_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Frame, "table", lambda self, layer: 0 if self.tables else None)


def without(monkeypatch: pytest.MonkeyPatch, operation: str) -> None:
    monkeypatch.setattr(Builder, operation, lambda *_, **__: None)


def no_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Builder.attend
    monkeypatch.setattr(Builder, "attend", lambda self, *rest, **named: right(self, *rest, **{**named, "softcap": 0.0}))


def no_sinks(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Builder.attend
    monkeypatch.setattr(Builder, "attend", lambda self, *rest, **named: right(self, *rest, **{**named, "sinks": -1}))


def no_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PowerFact, "of", lambda self, values: 1.0)


def wrong_softmax(monkeypatch: pytest.MonkeyPatch) -> None:
    right, other = Builder.route, {"softmax": "softmax of chosen", "softmax of chosen": "softmax"}
    monkeypatch.setattr(Builder, "route", lambda self, scores, count, how: right(self, scores, count, other[how]))


FAULTS: tuple[tuple[str, Callable[[pytest.MonkeyPatch], None]], ...] = (
    *((name, other_rope) for name in ("llama", "qwen3", "gemma3", "phi3", "gpt_neox", "mixtral")),
    *((name, no_bias) for name in ("llama", "qwen2", "gpt2", "gpt_oss", "starcoder2")),
    *((name, swapped_layers) for name in ("llama", "gemma2", "gpt2", "qwen3_moe", "falcon")),
    *((name, no_window) for name in ("gemma2", "gemma3", "gpt_oss")),
    ("gemma3", one_table),
    ("gemma2", no_cap),
    ("gpt_oss", no_sinks),
    *((name, no_factor) for name in ("granite", "gemma2", "gemma3")),
    *((name, wrong_softmax) for name in ("mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss")),
    ("gemma2", partial(without, operation="scale")),
    ("qwen2_moe", partial(without, operation="weigh")),
    ("gpt2", partial(without, operation="add_positions")),
    ("falcon", partial(without, operation="add")),
)


def name_of(each: object) -> str:
    """What a test is called by: an architecture, or what is planted in it."""
    if isinstance(each, partial):
        return f"without_{each.keywords['operation']}"
    return getattr(each, "__name__", str(each))


@pytest.mark.parametrize(("name", "plant"), FAULTS, ids=name_of)
def test_a_planted_fault_is_far_beyond_both_bars(
    name: str,
    plant: Callable[[pytest.MonkeyPatch], None],
    made: Callable[[str], Files],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = made(name)
    monkeypatch.setattr(Builder, "require_all_used", lambda self: None)
    plant(monkeypatch)
    assert divergence(files.expected(files.sharp), logits(load(files.sharp, threads=2, exact=True))) > ROUNDED


def test_a_tensor_that_no_operation_takes_is_refused(
    made: Callable[[str], Files], monkeypatch: pytest.MonkeyPatch
) -> None:
    no_bias(monkeypatch)
    with pytest.raises(EngineError, match=r"blk\.0\.attn_k\.bias is used by nothing"):
        load(made("qwen2").sharp)


# ---- windows that a GGUF file cannot state, RoPE that depends on the context


@pytest.mark.parametrize(("name", "kind"), [("mistral", "mistral"), ("qwen2", "qwen2")])
def test_a_window_that_the_configuration_states(name: str, kind: str, made: Callable[[str], Files]) -> None:
    """Of all layers (Mistral), and of those that are named (Qwen2); a GGUF file of either states none."""
    values: dict[str, Any] = {"sliding_window": 20, "use_sliding_window": True}
    values |= {"layer_types": ["full_attention", "sliding_attention"]} if name == "qwen2" else {}
    read = GGUFModel.open(made(name).sharp)
    config = replace(read.config, model_type=kind, values={**read.config.values, **values})
    network = replace(read, config=config).load().network
    assert network.config.sliding_window == 20
    with torch.no_grad():
        expected = network(torch.tensor([TOKENS])).logits[0].numpy()
    source = open_model(made(name).sharp)
    facts = next(each for each in architectures() if each.name == kind)
    windowed = replace(source, architecture=facts, network=facts.engine, values={**source.values, **values})
    assert divergence(expected, logits(built(windowed))) < EXACT
    assert divergence(expected, logits(built(source))) > ROUNDED


def test_longrope_goes_by_the_context_of_the_session(made: Callable[[str], Files]) -> None:
    """As transformers does for a text of that length; a short text in a large context turns by the long list."""
    path = made("phi3").sharp
    model = load(path, threads=2, exact=True)
    original = model.source.values["rope_parameters"]["original_max_position_embeddings"]
    tokens = (TOKENS * 4)[: original + 40]
    expected = made("phi3").expected(path, tokens)
    long = model.session(context=original + 40).evaluate_all(tokens)
    assert divergence(expected, long) < EXACT
    short = model.session(context=original).evaluate_all(tokens[:original])
    assert divergence(made("phi3").expected(path, tokens[:original]), short) < EXACT
    assert divergence(short, long[:original]) > 1e-5


# ---- text


def greedy(model: Model, prompt: list[int], count: int) -> list[int]:
    session, written = model.session(context=512), list(prompt)
    row = session.evaluate(prompt)
    for _ in range(count):
        written.append(int(row.argmax()))
        row = session.evaluate(written[-1:])
    return written


def test_greedy_text_is_that_of_transformers(tmp_path: Path) -> None:
    """Two hundred tokens of the trained model, from weights of 4 bits."""
    fewbits.quantize(POCKET, tmp_path / "pocket.gguf", to="Q4_K_M")
    network = GGUFModel.open(tmp_path / "pocket.gguf").load().network
    prompt = [1, 300, 77, 1200, 15]
    with torch.no_grad():
        expected = network.generate(torch.tensor([prompt]), max_new_tokens=200, min_new_tokens=200, do_sample=False)
    assert greedy(load(tmp_path / "pocket.gguf", threads=2, exact=True), prompt, 200) == expected[0].tolist()


# ---- what is refused


def test_an_architecture_without_a_program_is_named(tmp_path: Path) -> None:
    model = architecture_models.deepseek_v3(tmp_path / "model")
    fewbits.quantize(model, tmp_path / "f16.gguf", to="F16")
    with pytest.raises(EngineError, match=r"does not run the architecture deepseek_v\d; it runs .*llama.*qwen3_moe"):
        load(tmp_path / "f16.gguf")


def test_a_cache_of_groups_needs_heads_of_whole_groups(made: Callable[[str], Files]) -> None:
    with pytest.raises(EngineError, match="heads have 16 columns, a cache of Q8_0 holds groups of 32; choose F16"):
        load(made("llama").calm).session(context=64, cache="Q8_0")
    for cache in ("Q8_0", "Q4_0"):  # heads of 32 columns
        session = load(made("qwen3").calm).session(context=256, cache=cache)
        assert divergence(logits(load(made("qwen3").calm)), session.evaluate_all(TOKENS)) < 0.05


def test_sizes_that_contradict_one_another_are_refused(made: Callable[[str], Files]) -> None:
    source = open_model(made("gpt_oss").sharp)
    for key, number in (("num_key_value_heads", 3), ("num_key_value_heads", 0), ("num_experts_per_tok", 9)):
        with pytest.raises(EngineError, match="sizes do not fit together"):
            built(replace(source, values={**source.values, key: number}))


class Changed:
    """A reader that lacks a tensor, or has one of another shape."""

    def __init__(self, reader: Any, name: str, shape: tuple[int, ...] | None) -> None:
        self.reader, self.name, self.shape, self.metadata = reader, name, shape, reader.metadata

    def names(self) -> list[str]:
        return [name for name in self.reader.names() if self.shape or name != self.name]

    def read(self, name: str) -> Any:
        tensor = self.reader.read(name)
        return replace(tensor, shape=self.shape) if name == self.name and self.shape else tensor


@pytest.mark.parametrize(
    ("name", "tensor", "shape", "says"),
    [
        ("llama", "blk.1.attn_v.weight", (48, 64), r"attn_v.weight has shape \(48, 64\), .* asks for \(32, 64\)"),
        ("llama", "blk.1.ffn_norm.weight", None, r"tensor blk.1.ffn_norm.weight is missing"),
        ("gpt_oss", "blk.0.ffn_up_exps.bias", (7, 96), r"ffn_up_exps.bias has shape"),
    ],
)
def test_a_damaged_file_is_refused(
    name: str,
    tensor: str,
    shape: tuple[int, ...] | None,
    says: str,
    made: Callable[[str], Files],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from fewbits.checkpoints.gguf_parts import open_gguf

    reader = Changed(open_gguf(made(name).sharp), tensor, shape)
    monkeypatch.setattr("fewbits.engine.source.open_gguf", lambda _: reader)
    with pytest.raises(EngineError, match=says):
        load(made(name).sharp)


def test_the_formats_of_gpt_oss(made: Callable[[str], Files], tmp_path: Path) -> None:
    """Experts of MXFP4, as the model is published."""
    model, path = made("gpt_oss").sharp.parent / "gpt_oss", tmp_path / "mxfp4.gguf"
    fewbits.quantize(model, path, to="Q8_0", tensors=["blk.*.ffn_*_exps=MXFP4"])
    assert open_model(path).read("blk.0.ffn_up_exps.weight").format == "MXFP4"
    expected = made("gpt_oss").expected(path)
    assert divergence(expected, logits(load(path, threads=2, exact=True))) < EXACT
    assert divergence(expected, logits(load(path, threads=2))) < ROUNDED
