"""What fuzzing found, one input each: all of these ended in something else than a sentence."""

from __future__ import annotations

import json
import shutil
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz.containers import gguf_seeds
from fuzz.directories import FORMATS, directory_seeds
from fuzz.laws import ROOT
from fuzz.targets import TARGETS
from fuzz.texts import tokenizer_seeds

import fewbits
from fewbits import planning
from fewbits.checkpoints.gguf import GGUFReader
from fewbits.checkpoints.huggingface import convert_directory
from fewbits.errors import CheckpointError, EngineError, EvaluationError, FewbitsError, RecipeError
from fewbits.evaluation.gguf_config import read_config
from fewbits.models import add_architecture


@pytest.fixture
def folder(pocket: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pocket, tmp_path / "model"))


def read(name: str, data: bytes, folder: Path) -> None:
    path = folder / TARGETS[name].name
    path.write_bytes(data)
    TARGETS[name].read(path)


def test_a_gguf_of_four_billion_layers(tmp_path: Path) -> None:
    """The names of all their tensors were made before anybody looked for one."""
    data = gguf_seeds()[2]
    place = data.index(b"llama.block_count") + len(b"llama.block_count") + 4
    path = tmp_path / "x.gguf"
    path.write_bytes(data[:place] + b"\xff\xff\xff\xff" + data[place + 4 :])

    with pytest.raises(EvaluationError, match="4294967295 layers"):
        read_config(GGUFReader(path))


def test_an_unknown_token_that_is_a_list(tmp_path: Path) -> None:
    told = json.loads(tokenizer_seeds()[2])
    told["model"]["unk_token"] = ["<s>"]

    with pytest.raises(CheckpointError, match="without an unknown one"):
        read("tokenizer", json.dumps(told).encode(), tmp_path)


@pytest.mark.parametrize("number", [[], {}, "7", None])
def test_a_number_of_a_word_piece_that_is_none(number: Any, tmp_path: Path) -> None:
    told = json.loads(tokenizer_seeds()[2])
    told["model"]["vocab"]["a"] = number

    with pytest.raises(CheckpointError, match="with number"):
        read("tokenizer", json.dumps(told).encode(), tmp_path)


def test_an_added_token_with_five_thousand_digits(tmp_path: Path) -> None:
    told = {"added_tokens_decoder": {"9" * 5000: {"content": "x"}}}

    read("tokenizer-config", json.dumps(told).encode(), tmp_path)  # no token has that number: it adds none


@pytest.mark.parametrize("key", ["model", "normalizer", "post_processor", "pre_tokenizer"])
def test_a_kind_that_floods_the_sentence(key: str, tmp_path: Path) -> None:
    told = json.loads(tokenizer_seeds()[0])
    told[key] = {"type": ["x" * 999] * 9, "vocab": {}, "merges": []}

    with pytest.raises(CheckpointError) as caught:
        read("tokenizer", json.dumps(told).encode(), tmp_path)
    assert len(str(caught.value)) < 1000


def test_rope_parameters_beyond_every_float(folder: Path) -> None:
    told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    told["rope_parameters"] = {"rope_type": "linear", "rope_theta": 1e4, "factor": 10**400}
    (folder / "config.json").write_text(json.dumps(told), encoding="utf-8")

    with pytest.raises(CheckpointError, match="factor"):
        convert_directory(folder)


@pytest.mark.parametrize(
    "value", [{"architectures": [["x"] * 999]}, "x" * 9999, 10**4000], ids=["table", "text", "number"]
)
@pytest.mark.parametrize("key", ["num_attention_heads", "hidden_act", "rms_norm_eps", "rope_theta", "head_dim"])
def test_a_value_that_floods_the_sentence(key: str, value: Any, folder: Path) -> None:
    told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    told.pop("rope_parameters", None)
    (folder / "config.json").write_text(json.dumps({**told, key: value}), encoding="utf-8")

    with pytest.raises(CheckpointError) as caught:
        convert_directory(folder)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("value", ["9" * 5000, "0x" + "f" * 5000, "[" * 5000, str(2**63)], ids=lambda v: v[:4])
def test_toml_that_python_stumbles_over(value: str, tmp_path: Path, pocket: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f"name = {value}\n", encoding="utf-8")

    with pytest.raises(RecipeError, match=r"64 bits|nests too deep|Invalid|Unclosed"):
        planning.get(path)
    with pytest.raises(CheckpointError, match=r"64 bits|nests too deep|Invalid|Unclosed"):
        add_architecture(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"blk.{layer}.attn_q.weight"', '"blk.{layer}.attn_q{.weight"'),
        ('"blk.{layer}.attn_q.weight"', '"blk.{layer.__class__}.attn_q.weight"'),
        ('"blk.{layer}.attn_q.weight"', '"blk.{layer}.{0}attn_q.weight"'),
    ],
)
def test_braces_around_something_else(old: str, new: str, tmp_path: Path) -> None:
    """Names are filled in by their braces, and anything may stand between those."""
    text = (Path(planning.__file__).parents[1] / "models" / "llama.toml").read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")

    with pytest.raises(CheckpointError, match="braces"):
        add_architecture(path)


@pytest.mark.parametrize("columns", [0, 1])
def test_a_matrix_without_columns(columns: int, tmp_path: Path) -> None:
    from fewbits.evaluation.decoding import decoded

    path = tmp_path / "x.gguf"
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + struct.pack("<Q1sIQQIQ", 1, b"v", 2, columns, 3, 0, 0)
    path.write_bytes(head + bytes(-len(head) % 32) + bytes(12))

    assert decoded(GGUFReader(path).read("v")).shape == (3, columns)


@pytest.mark.parametrize("line", ["groups = 3", "groups = [3]", "implied = {}", "prefix = 3", "transformers = []"])
def test_facts_of_other_kinds(line: str, tmp_path: Path) -> None:
    text = (Path(planning.__file__).parents[1] / "models" / "llama.toml").read_text(encoding="utf-8")
    path = tmp_path / "mine.toml"
    key = line.split(maxsplit=1)[0]
    kept = [part for part in text.split("\n[") if not part.startswith((f"[{key}]", f"{key}]"))]
    path.write_text(f"{line}\n" + "\n[".join(kept), encoding="utf-8")

    with pytest.raises(FewbitsError, match=key):
        add_architecture(path)


@pytest.mark.parametrize(("kind", "name"), [(2, "Q4_0"), (8, "Q8_0")])
def test_a_vector_in_spans(kind: int, name: str, tmp_path: Path) -> None:
    """ggml can store one, and `compare` and `explain` broke over it: its elements were taken for rows."""
    from gguf import GGMLQuantizationType, quants

    from fewbits.evaluation.decoding import decoded

    stored = quants.quantize(np.linspace(-1, 1, 64, dtype=np.float32)[None], GGMLQuantizationType[name])
    path = tmp_path / "x.gguf"
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + struct.pack("<Q1sIQIQ", 1, b"v", 1, 64, kind, 0)
    path.write_bytes(head + bytes(-len(head) % 32) + stored.tobytes())

    found = decoded(GGUFReader(path).read("v"))

    assert np.array_equal(found.numpy(), quants.dequantize(stored, GGMLQuantizationType[name])[0])


def described(dialect: str) -> dict[str, Any]:
    """A directory that the fuzzer begins with."""
    found: dict[str, Any] = json.loads(directory_seeds()[list(FORMATS).index(dialect)])
    return found


@pytest.mark.parametrize(
    ("dialect", "ending"),
    [
        ("gptq", "qweight"),
        ("awq", "qweight"),
        ("compressed-tensors", "weight_packed"),
        ("fp8", "weight"),
    ],
)
def test_codes_with_more_sides_than_a_matrix(dialect: str, ending: str, tmp_path: Path) -> None:
    told = described(dialect)
    told["tensors"] = {n: t for n, t in told["tensors"].items() if not n.endswith("weight_shape")}
    tensor = told["tensors"][f"model.layers.0.mlp.up_proj.{ending}"]
    tensor["shape"] = [1, *tensor["shape"]]

    with pytest.raises(CheckpointError, match="which has 3 sides"):
        read("directory", json.dumps(told).encode(), tmp_path)


def test_a_group_of_a_number_that_no_machine_counts_to(tmp_path: Path) -> None:
    """Counting them took eight bytes for every number below the largest."""
    told = described("gptq")
    told["tensors"]["model.layers.0.mlp.up_proj.g_idx"]["bytes"] = "ffffff7f"
    read("directory", json.dumps(described("gptq")).encode(), tmp_path)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match="g_idx"):
            read("directory", json.dumps(told).encode(), tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()


def test_a_group_of_more_columns_than_numpy_counts(tmp_path: Path) -> None:
    told = described("gptq")
    told["quantization_config"]["group_size"] = 2**63

    with pytest.raises(CheckpointError, match="9223372036854775808"):
        read("directory", json.dumps(told).encode(), tmp_path)


def test_a_name_that_is_half_a_letter(tmp_path: Path) -> None:
    told = described("torchao")
    told["metadata"]["tensor_names"] = "\ud800"

    with pytest.raises(CheckpointError, match="not valid JSON"):
        read("directory", json.dumps(told).encode(), tmp_path)


def test_a_statement_that_is_half_a_letter(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not valid JSON"):
        read("safetensors-header", json.dumps({"__metadata__": {"fewbits": "\ud800"}}).encode(), tmp_path)


def test_half_a_letter_in_a_configuration_stays(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "note": "\ud800"}))
    fewbits.quantize(folder, tmp_path / "out", to="int8_row_sym")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["note"] == "\ud800"


def test_a_configuration_that_is_a_whole_model(tmp_path: Path) -> None:
    told = described("gptq")
    told["quantization_config"]["bits"] = described("awq")

    with pytest.raises(CheckpointError) as caught:
        read("directory", json.dumps(told).encode(), tmp_path)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("dialect", "place"),
    [("compressed-tensors", ("config_groups", "group_0", "weights")), ("mlx", ()), ("gptq", ()), ("awq", ())],
)
def test_a_group_that_no_format_has(dialect: str, place: tuple[str, ...], tmp_path: Path) -> None:
    told = described(dialect)
    stated = told["quantization_config"]
    for key in place:
        stated = stated[key]
    stated["group_size"] = 2**64 - 32

    with pytest.raises(CheckpointError):
        read("directory", json.dumps(told).encode(), tmp_path)


@pytest.mark.parametrize("default", ["", "interleave_moe_layer_step = 0"])
def test_layers_that_are_counted_by_nothing(default: str, tmp_path: Path) -> None:
    """A KeyError or a division by zero, where nothing said which layers have experts."""
    text = (ROOT / "src" / "fewbits" / "models" / "llama4.toml").read_text(encoding="utf-8")
    lines = [default if line.startswith("interleave_moe_layer_step =") else line for line in text.splitlines()]

    with pytest.raises(CheckpointError, match="sparse counts layers by interleave_moe_layer_step"):
        read("architecture", "\n".join(lines).encode(), tmp_path)


def test_a_token_of_a_number_without_end(tmp_path: Path) -> None:
    told = json.loads(tokenizer_seeds()[0])
    told["model"]["vocab"][next(iter(told["model"]["vocab"]))] = 10**3000

    with pytest.raises(CheckpointError) as caught:
        read("tokenizer", json.dumps(told).encode(), tmp_path)
    assert len(str(caught.value)) < 1000


def test_a_normalizer_of_two_lines(tmp_path: Path) -> None:
    data = next(seed for seed in TARGETS["sentencepiece"].seeds() if b"identity" in seed)

    with pytest.raises(CheckpointError, match="rewrites text first") as caught:
        read("sentencepiece", data.replace(b"identity", b"iden\nity"), tmp_path)
    assert "\n" not in str(caught.value)


def test_a_schema_with_a_number_without_end(tmp_path: Path) -> None:
    from fewbits.engine.schema import read_schema

    (tmp_path / "schema.json").write_text('{"type": "integer", "maximum": ' + "9" * 5000 + "}", encoding="utf-8")

    with pytest.raises(EngineError, match="a whole number of the JSON schema has too many digits"):
        read_schema(tmp_path / "schema.json")
