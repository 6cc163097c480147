"""Files of text beside a model, tables of ours, and pickles."""

from __future__ import annotations

import io
import json
import shutil
import struct
import zipfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from fuzz.laws import POCKET, ROOT, require_sentence
from fuzz.mutations import BYTES


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


def tokenizer_file(name: str) -> Callable[[Path], object]:
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
        require_sentence(error)
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
