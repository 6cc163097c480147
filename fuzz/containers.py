"""Files that hold tensors: GGUF, safetensors and their indexes, importance matrices."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fuzz.laws import require_sentence
from fuzz.writing import read_tokens


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
            require_sentence(error)


def _decode(reader: Any) -> None:
    """Every small tensor as numbers."""
    from fewbits.evaluation.decoding import decoded, require_decodable

    stored = [reader.read(name) for name in reader.names()]
    require_decodable({each.format for each in stored})
    for each in stored:
        if each.elements < 1 << 16:
            assert decoded(each).numel() == each.elements


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
