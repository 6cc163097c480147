"""What is fuzzed: each reader with inputs that it takes, small ones, and the ways in which these are spoiled."""

from __future__ import annotations

import io
import json
import shutil
import struct
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from fuzz.directories import directory_seeds, read_directory
from fuzz.graphs import graph_seeds, read_graph, spoiled_graph
from fuzz.mutations import BYTES, JSON, TOML, Mutation
from fuzz.writing import read_schema_file, read_tokens, schema_seeds

ROOT = Path(__file__).parent.parent
POCKET = ROOT / "examples" / "models" / "pocket-llama"
GOLDEN = ROOT / "tests" / "golden"


@dataclass(frozen=True)
class Target:
    """One reader."""

    seeds: Callable[[], list[bytes]]
    """Inputs that it takes."""
    read: Callable[[Path], object]
    """Reads the file as completely as fewbits ever does; may raise nothing but FewbitsError."""
    mutations: Sequence[Mutation] = BYTES
    name: str = "input"
    """Of the file, whose ending some readers look at."""


# --- containers ----------------------------------------------------------------------------------------------------


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def _key(name: str, kind: int, raw: bytes) -> bytes:
    return _text(name) + struct.pack("<I", kind) + raw


def _strings(*values: str) -> bytes:
    return struct.pack("<IQ", 8, len(values)) + b"".join(map(_text, values))


def _tensor(name: str, dims: Sequence[int], kind: int, offset: int) -> bytes:
    return _text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def _gguf(keys: Sequence[bytes], tensors: Sequence[bytes], size: int) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join((*keys, *tensors))
    return head + bytes(-len(head) % 32) + bytes(size)


def gguf_seeds() -> list[bytes]:
    """Files of every kind of metadata and some types of tensors, one with a tokenizer and a configuration."""
    name = _key("general.architecture", 8, _text("llama"))
    scalars = [_key(f"k{kind}", kind, struct.pack(f"<{code}", 1)) for kind, code in enumerate("BbHhIif?")]
    scalars += [_key("k10", 10, struct.pack("<Q", 1)), _key("k11", 11, struct.pack("<q", -1))]
    scalars += [_key("k12", 12, struct.pack("<d", 0.5)), _key("general.alignment", 4, struct.pack("<I", 64))]
    arrays = [_key("n", 9, struct.pack("<IQ3i", 5, 3, 1, 2, 3)), _key("t", 9, _strings("a", "b", "é"))]
    tensors = [_tensor("a.weight", [8, 4], 0, 0), _tensor("b.weight", [256, 1], 12, 128), _tensor("c", [32], 1, 320)]
    plain = _gguf([name, *arrays], tensors, 384)
    model = [name, *_llama_keys(), *_tokenizer_keys("llama")]
    weights = [_tensor("token_embd.weight", [8, 4], 0, 0), _tensor("output_norm.weight", [8], 0, 128)]
    bytelevel = [name, *_llama_keys(), *_tokenizer_keys("gpt2")]
    return [plain, _gguf([name, *scalars], [], 0), _gguf(model, weights, 160), _gguf(bytelevel, weights, 160)]


def _llama_keys() -> list[bytes]:
    numbers = {"block_count": 1, "embedding_length": 8, "feed_forward_length": 8, "context_length": 16}
    numbers |= {"attention.head_count": 2, "attention.head_count_kv": 1, "rope.dimension_count": 4, "vocab_size": 4}
    keys = [_key(f"llama.{n}", 4, struct.pack("<I", v)) for n, v in numbers.items()]
    eps = _key("llama.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", 1e-5))
    return [*keys, eps, _key("llama.rope.freq_base", 6, struct.pack("<f", 1e4))]


def _tokenizer_keys(kind: str) -> list[bytes]:
    t = "tokenizer.ggml"
    keys = [_key(f"{t}.model", 8, _text(kind)), _key(f"{t}.pre", 8, _text("default" if kind == "llama" else "gpt-2"))]
    keys.append(_key(f"{t}.tokens", 9, _strings("<unk>", "a", "b", "ab")))
    keys.append(_key(f"{t}.token_type", 9, struct.pack("<IQ4i", 5, 4, 2, 1, 1, 1)))
    keys.append(_key(f"{t}.scores", 9, struct.pack("<IQ4f", 6, 4, 0, -1, -2, -3)))
    keys.append(_key(f"{t}.bos_token_id", 4, struct.pack("<I", 1)))
    return [*keys, _key(f"{t}.add_bos_token", 7, b"\1"), _key(f"{t}.merges", 9, _strings("a b"))]


def read_gguf(path: Path) -> None:
    """Every tensor and value; the file as a source, for people, and its tokenizer and configuration."""
    from fewbits.checkpoints.gguf import GGUFReader
    from fewbits.checkpoints.opening import convert_gguf
    from fewbits.checkpoints.tokenizer import tokenizer_from_gguf
    from fewbits.errors import FewbitsError
    from fewbits.evaluation.gguf_config import read_config
    from fewbits.inspection import inspect

    reader = GGUFReader(path)
    for name in reader.names():
        stored = reader.read(name)
        assert stored.buffer.size == stored.bytes
        assert stored.rows * stored.row_bytes == stored.bytes, "rows do not fill the tensor"
    for value in reader.metadata.values():
        if value.type.startswith("array:"):
            list(value.value)
    steps: tuple[Callable[[], object], ...] = (
        lambda: convert_gguf(path),
        lambda: inspect(path).to_json(),
        lambda: read_config(reader),
        lambda: tokenizer_from_gguf(reader.metadata),
        lambda: read_tokens(path),
        lambda: _decode(reader),
    )
    for step in steps:
        try:
            step()
        except FewbitsError as error:  # what the next step says is of interest too
            _require_sentence(error)


def _decode(reader: Any) -> None:
    """Every small tensor as numbers."""
    from fewbits.evaluation.decoding import decoded, require_decodable

    stored = [reader.read(name) for name in reader.names()]
    require_decodable({each.format for each in stored})
    for each in stored:
        if each.elements < 1 << 16:
            assert decoded(each).numel() == each.elements


def _require_sentence(error: Exception) -> None:
    text = str(error)
    assert "\n" not in text, "a sentence is one line"
    assert len(text) < 2000, "a sentence is short"


def _safetensors(header: Mapping[str, Any], size: int) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(size)


def _entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def safetensors_seeds() -> list[bytes]:
    """Plain numbers, and matrices in the fewbits dialect with outliers and roundings of inputs."""
    plain = {"a": _entry("F32", [2, 3], 0, 24), "b": _entry("BF16", [4], 24, 32), "__metadata__": {"format": "pt"}}
    return [_safetensors(plain, 32), _safetensors({}, 0), *map(_dialect, ("int8_row_sym", "nf4_g64", "Q4_0"))]


def _dialect(name: str) -> bytes:
    from fewbits.checkpoints.fields import DTYPES, Matrix, field_name, statement

    matrix = Matrix("w", name, (2, 64), activation="int8_token", outliers=1)
    header: dict[str, Any] = {"__metadata__": {"fewbits": statement([matrix])}}
    position = 0
    for field, (dtype, shape) in matrix.shapes.items():
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        header[field_name("w", field)] = _entry(DTYPES[dtype], list(shape), position, position + size)
        position += size
    return _safetensors(header, position)


def read_safetensors(path: Path) -> None:
    """Every tensor; in the dialect every matrix, its fields decoded; and what a person is shown."""
    from fewbits import formats
    from fewbits.checkpoints.fields import FieldsReader, StoredMatrix, is_fields_file
    from fewbits.checkpoints.safetensors import SafetensorsReader
    from fewbits.inspection import inspect

    file = SafetensorsReader(path)
    for name in file.names():
        stored = file.read(name)
        assert stored.buffer.size == stored.bytes
    inspect(path).to_json()
    if not is_fields_file(file):
        return
    reader = FieldsReader(file)
    for name in reader.names():
        found = reader.read(name)
        if isinstance(found, StoredMatrix) and np.prod(found.shape) < 1 << 16:
            formats.get(found.format).shapes(int(np.prod(found.shape[:-1])), found.shape[-1])


def read_header(path: Path) -> None:
    """A file whose header is the input, of the length that it states."""
    text = path.read_bytes()
    file = path.with_name("whole.safetensors")
    file.unlink(missing_ok=True)
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(1024))
    size = max((n for n in _offsets(text) if type(n) is int and n > 0), default=0)
    with file.open("r+b") as opened:
        opened.truncate(8 + len(text) + min(size, 1 << 20))
    read_safetensors(file)


def _offsets(header: bytes) -> list[Any]:
    """Where the tensors of a header end, as far as it can be read."""
    try:
        found = json.loads(header)
        return [each["data_offsets"][1] for name, each in found.items() if name != "__metadata__"]
    except Exception:  # a header that was spoiled
        return []


def index_seeds() -> list[bytes]:
    """Indices of two files that lie beside."""
    two = {"a": "one.safetensors", "b": "two.safetensors"}
    return [json.dumps({"metadata": {"total_size": 8}, "weight_map": two}).encode()]


def read_index(path: Path) -> None:
    """The checkpoint behind an index."""
    from fewbits.checkpoints.safetensors import ShardedReader

    for name, tensor in (("one", "a"), ("two", "b")):
        file = path.with_name(f"{name}.safetensors")
        if not file.exists():
            file.write_bytes(_safetensors({tensor: _entry("F32", [1], 0, 4)}, 4))
    reader = ShardedReader(path)
    for tensor in reader.names():
        reader.read(tensor)


def imatrix_gguf_seeds() -> list[bytes]:
    """As llama-imatrix writes it."""
    keys = [_key("general.type", 8, _text("imatrix")), _key("imatrix.datasets", 9, _strings("text.txt"))]
    keys.append(_key("imatrix.chunk_count", 4, struct.pack("<I", 3)))
    tensors = [_tensor("w.weight.in_sum2", [8, 1], 0, 0), _tensor("w.weight.counts", [1, 1], 0, 32)]
    return [_gguf(keys, tensors, 0) + np.ones(16, "<f4").tobytes()]


def imatrix_dat_seeds() -> list[bytes]:
    """The older form, with and without what stands at its end."""
    one = struct.pack("<i8sii", 8, b"w.weight", 3, 8) + np.ones(8, "<f4").tobytes()
    end = struct.pack("<ii8s", 3, 8, b"text.txt")
    return [struct.pack("<i", 2) + one + one.replace(b"w.w", b"v.w") + end, struct.pack("<i", 1) + one]


def read_imatrix(path: Path) -> None:
    """Every entry, as rows by which errors are weighed."""
    from fewbits.checkpoints.imatrix import read_importance

    found = read_importance(path)
    for name in found.entries:
        matched = found.of(name, (2, 8))
        if matched is not None:
            assert np.isfinite(matched.row(0)).all(), "an importance that is no number"


# --- text ----------------------------------------------------------------------------------------------------------


@cache
def _small_tokenizer() -> str:
    vocabulary = {chr(c): c - 33 for c in range(33, 127)} | {"ab": 94, "<s>": 95}
    model = {"type": "BPE", "vocab": vocabulary, "merges": [["a", "b"]], "byte_fallback": False}
    cutter = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True, "trim_offsets": True}
    added = [{"id": 95, "content": "<s>", "special": True, "lstrip": False, "rstrip": False, "normalized": False}]
    template = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {}}],
    }
    told: dict[str, Any] = {
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": cutter,
        "post_processor": template,
    }
    return json.dumps({"version": "1.0", **told, "decoder": {"type": "ByteLevel"}, "model": model})


def config_seeds() -> list[bytes]:
    """Configurations of the embedded model and of others."""
    own = json.loads((POCKET / "config.json").read_text(encoding="utf-8"))
    rope = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaled = {**own, "rope_parameters": {**rope, "original_max_position_embeddings": 64}}
    others = [
        {**own, "architectures": [name]} for name in ("Qwen2ForCausalLM", "GemmaForCausalLM", "MixtralForCausalLM")
    ]
    named = ("Gemma3ForCausalLM", "BertModel", "GPT2LMHeadModel", "Phi3ForCausalLM")
    others += [{**own, "architectures": [name]} for name in named]
    return [json.dumps(each).encode() for each in (own, scaled, *others)]


def read_config_json(path: Path) -> None:
    """A model directory whose config.json is the input, seen as the file that it would become."""
    from fewbits.checkpoints.huggingface import convert_directory

    folder = path.parent / "model"
    if not folder.exists():
        folder.mkdir()
        (folder / "model.safetensors").symlink_to(POCKET / "model.safetensors")
        (folder / "tokenizer.json").write_text(_small_tokenizer(), encoding="utf-8")
    shutil.copyfile(path, folder / "config.json")
    convert_directory(folder)


@cache
def _configuration() -> Any:
    from fewbits.checkpoints.configuration import read_configuration

    return read_configuration(POCKET)


def _tokenizer_file(name: str) -> Callable[[Path], object]:
    """Reads a tokenizer of which the input is the file `name`."""

    def read(path: Path) -> object:
        from fewbits.checkpoints.tokenizer import read_tokenizer

        folder = path.parent / "model"
        folder.mkdir(exist_ok=True)
        if name not in ("tokenizer.json", "tokenizer.model"):
            (folder / "tokenizer.json").write_text(_small_tokenizer(), encoding="utf-8")
        shutil.copyfile(path, folder / name)
        return read_tokenizer(folder, _configuration())

    return read


def tokenizer_seeds() -> list[bytes]:
    """A byte-level tokenizer, one of SentencePiece's kind, and WordPiece."""
    level = json.loads(_small_tokenizer())
    pieces = json.loads(_small_tokenizer())
    pieces["model"] |= {"byte_fallback": True, "unk_token": "<s>"}
    pieces["pre_tokenizer"] = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False}
    words = json.loads(_small_tokenizer())
    words["model"] = {"type": "WordPiece", "unk_token": "<s>", "vocab": level["model"]["vocab"]}
    words |= {"normalizer": {"type": "BertNormalizer"}, "pre_tokenizer": {"type": "BertPreTokenizer"}}
    words["post_processor"] = {"type": "BertProcessing", "cls": ["<s>", 95], "sep": ["<s>", 95]}
    return [json.dumps(each).encode() for each in (level, pieces, words)]


def settings_seeds() -> list[bytes]:
    """tokenizer_config.json."""
    template = [{"name": "default", "template": "{{ x }}"}, {"name": "tool", "template": "y"}]
    told = {"bos_token": {"content": "<s>"}, "eos_token": "<s>", "add_bos_token": True, "chat_template": template}
    return [json.dumps(told).encode(), (POCKET / "tokenizer_config.json").read_bytes()]


def _field(number: int, wire: int, data: bytes) -> bytes:
    return bytes([number << 3 | wire]) + (bytes([len(data)]) if wire == 2 else b"") + data


def pieces_seeds() -> list[bytes]:
    """A SentencePiece model with all kinds of pieces."""
    kinds = {"<unk>": 2, "<s>": 3, "</s>": 3, "<0x0A>": 6, "\u2581a": 1, "b": 1, "ab": 4}
    pieces = [
        _field(1, 2, text.encode()) + _field(2, 5, struct.pack("<f", -n)) + _field(3, 0, bytes([kind]))
        for n, (text, kind) in enumerate(kinds.items())
    ]
    rules = _field(1, 2, b"identity") + _field(3, 0, b"\1") + _field(4, 0, b"\0")
    return [b"".join(_field(1, 2, p) for p in pieces) + _field(2, 2, _field(3, 0, b"\2")) + _field(3, 2, rules)]


def recipe_seeds() -> list[bytes]:
    """The recipes that come with fewbits, as users' own."""
    folder = ROOT / "src" / "fewbits" / "planning" / "recipes"
    return [path.read_bytes() for path in sorted(folder.rglob("*.toml"))[:12]]


def read_recipe(path: Path) -> None:
    """A recipe of the user's."""
    from fewbits import planning

    planning.get(path)


def architecture_seeds() -> list[bytes]:
    """The architectures that come with fewbits."""
    return [path.read_bytes() for path in sorted((ROOT / "src" / "fewbits" / "models").glob("*.toml"))]


def read_architecture_file(path: Path) -> None:
    """Facts of an architecture, and what they say of the embedded model."""
    from fewbits.models.known import _read

    found = _read(path)
    values = json.loads((POCKET / "config.json").read_text(encoding="utf-8"))
    found.stored({**found.defaults, **values}, 2, [])


def calibration_seeds() -> list[bytes]:
    """Rows of every kind."""
    rows = ({"text": "a"}, "b", {"messages": [{"role": "user", "content": [{"text": "c"}]}]})
    others = ({"conversations": [{"from": "human", "value": "d"}]},)
    return ["\n".join(json.dumps(row) for row in (*rows, *others)).encode(), json.dumps({"text": "x" * 50}).encode()]


def read_calibration(path: Path) -> None:
    """A source of calibration text."""
    from fewbits.calibration.files import read_source

    read_source(path)


def card_seeds() -> list[bytes]:
    """A card and a comparison."""
    from fewbits.reporting.record import SCHEMA

    tensor = {"name": "w", "method": "nearest", "format": "Q4_K"}
    form = {"format": "Q4_K", "tensors": 1, "parameters": 256, "bits_per_weight": 4.5, "relative_rms": 0.07}
    hub = {"repository": "a/b", "revision": None, "commit": "0" * 40, "license": {"license": "mit"}}
    plan = {"text": {"sha256": "ab" * 32}, "tokens": 100}
    preview: dict[str, Any] = {
        "output": "/x/o.gguf",
        "recipe": "Q4_K_M",
        "nominal_format": "Q4_K",
        "architecture": "llama",
    }
    preview |= {"parameters": 256, "bytes_in": 512, "bytes_out": 144, "bits_per_weight": 4.5, "share_not_nominal": 0.0}
    preview |= {"fallbacks": [], "source": "a/b", "hub": hub, "calibration": plan, "importance": {"text": "t"}}
    card: dict[str, Any] = {
        "schema": SCHEMA,
        "preview": preview,
        "tensors": [tensor],
        "formats": [form],
        "output_sha256": "cd" * 32,
    }
    card |= {"versions": {"fewbits": "0.1.0"}, "calibration": {"kept": 1, "tensors": 2}}
    text = {"text": "t.txt", "text_sha256": "ab" * 32, "tokens": 9, "windows": 2, "context": 8, "protocol": "p"}
    figures = {"perplexity_original": 9.5, "perplexity_quantized": 9.6, "kl_divergence_mean": 0.01}
    compared = {**text, **figures, "bytes_original": 512, "bytes_quantized": 144}
    return [json.dumps(card).encode(), json.dumps(compared).encode()]


def read_card(path: Path) -> None:
    """A card, and as a comparison, as the model card shows them."""
    from fewbits.checkpoints.jsonfile import load_object
    from fewbits.errors import FewbitsError
    from fewbits.hub.facts import facts_of, quality_of
    from fewbits.hub.model_card import Section, model_card

    raw = load_object(path)
    quality = None
    try:
        quality = quality_of(raw, "x")
    except FewbitsError as error:
        _require_sentence(error)
    facts = facts_of(raw, "x")
    model_card("me/x", [Section(facts, quality)], base_model=None, license=facts.license, library="gguf")


def pickle_seeds() -> list[bytes]:
    """What torch.save writes."""
    import torch

    file = io.BytesIO()
    torch.save({"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}, file)
    return [file.getvalue()]


def spoiled_pickle(random: Any, data: bytes, corpus: Sequence[bytes]) -> bytes:
    """Another pickle in the same archive, its checksum right."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = {each.filename: archive.read(each) for each in archive.infolist()}
    except Exception:  # an archive that was spoiled before
        return data
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in entries.items():
            own = name.endswith("data.pkl")
            archive.writestr(name, random.choice(BYTES)(random, content, corpus) if own else content)
    return out.getvalue()


def read_pickle(path: Path) -> None:
    """Every tensor of PyTorch's own weights."""
    from fewbits.checkpoints.pickled import PickledReader

    reader = PickledReader(path)
    for name in reader.names():
        reader.read(name)


TARGETS: Mapping[str, Target] = MappingProxyType(
    {
        "gguf": Target(gguf_seeds, read_gguf),
        "safetensors": Target(safetensors_seeds, read_safetensors, name="input.safetensors"),
        "safetensors-header": Target(
            lambda: [each[8 : 8 + int.from_bytes(each[:8], "little")] for each in safetensors_seeds()],
            read_header,
            JSON,
        ),
        "index": Target(index_seeds, read_index, JSON),
        "imatrix-gguf": Target(imatrix_gguf_seeds, read_imatrix),
        "imatrix-dat": Target(imatrix_dat_seeds, read_imatrix),
        "config": Target(config_seeds, read_config_json, JSON),
        "tokenizer": Target(tokenizer_seeds, _tokenizer_file("tokenizer.json"), JSON),
        "tokenizer-config": Target(settings_seeds, _tokenizer_file("tokenizer_config.json"), JSON),
        "sentencepiece": Target(pieces_seeds, _tokenizer_file("tokenizer.model")),
        "recipe": Target(recipe_seeds, read_recipe, TOML, "mine.toml"),
        "architecture": Target(architecture_seeds, read_architecture_file, TOML, "mine.toml"),
        "calibration": Target(calibration_seeds, read_calibration, JSON, "rows.jsonl"),
        "card": Target(card_seeds, read_card, JSON),
        "directory": Target(directory_seeds, read_directory, JSON),
        "onnx": Target(graph_seeds, read_graph, (*BYTES, *[spoiled_graph] * 12), "input.onnx"),
        "schema": Target(schema_seeds, read_schema_file, JSON),
        "pickle": Target(pickle_seeds, read_pickle, (*BYTES, *[spoiled_pickle] * 6)),
    }
)
