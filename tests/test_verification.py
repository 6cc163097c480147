"""Faults planted in the way in must be found on the way out, and leave nothing at the output."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

import fewbits
from fewbits import workers
from fewbits.checkpoints import huggingface
from fewbits.checkpoints.gguf_writer import GGUFWriter
from fewbits.errors import VerificationError
from fewbits.reporting.card import card_path
from references.random_models import byte_level_tokenizer, save_byte_level, save_model, small_config

Corrupt = Callable[[GGUFWriter], None]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers wide enough for K formats; gate and up, and the layers, have the same shapes."""
    directory = tmp_path_factory.mktemp("model")
    tokenizer = byte_level_tokenizer(size=400)
    save_byte_level(directory, tokenizer)
    config = small_config(
        transformers.LlamaConfig, rows=tokenizer.get_vocab_size(), hidden_size=256, intermediate_size=512
    )
    save_model(directory, config)
    return directory


def quantize(model: Path, folder: Path, recipe: str = "Q4_K_M", **options: Any) -> Path:
    output = folder / "out.gguf"
    fewbits.quantize(model, output, to=recipe, **{"threads": 2, **options})
    return output


def refused(model: Path, folder: Path, message: str, recipe: str = "Q4_K_M") -> None:
    """Quantizing fails with one sentence that matches `message`, and nothing of it is left."""
    with pytest.raises(VerificationError, match=message) as caught:
        quantize(model, folder, recipe)
    assert "\n" not in str(caught.value)
    assert list(folder.iterdir()) == []


def before_verifying(monkeypatch: pytest.MonkeyPatch, corrupt: Corrupt) -> None:
    """Run `corrupt` on the writer once all tensors are written."""
    flush = GGUFWriter.start_flush

    def start_flush(writer: GGUFWriter) -> None:
        corrupt(writer)
        flush(writer)

    monkeypatch.setattr(GGUFWriter, "start_flush", start_flush)


def edit(writer: GGUFWriter, position: int, change: Callable[[np.ndarray], np.ndarray], size: int) -> None:
    """Replace `size` bytes at `position` of the unfinished file by `change` of them."""
    with writer.partial.open("r+b") as file:
        file.seek(position)
        found = np.frombuffer(file.read(size), np.uint8)
        changed = np.ascontiguousarray(change(found.copy())).view(np.uint8)
        assert not np.array_equal(found, changed)
        file.seek(position)
        file.write(changed.tobytes())


def offset(writer: GGUFWriter, name: str) -> int:
    return next(slot.offset for slot in writer.layout.slots if slot.name == name)


@pytest.mark.parametrize("recipe", ["Q8_0", "Q4_0", "Q4_K_S", "Q4_K_M", "Q6_K", "F16", "BF16"])
def test_a_clean_run_passes(model: Path, tmp_path: Path, recipe: str) -> None:
    assert quantize(model, tmp_path, recipe).is_file()
    assert len(list(tmp_path.iterdir())) == 2


SWAPS = [
    ("blk.0.ffn_gate.weight", "blk.0.ffn_up.weight"),
    ("blk.0.attn_q.weight", "blk.1.attn_q.weight"),
    ("token_embd.weight", "output.weight"),
    ("blk.0.attn_norm.weight", "blk.0.ffn_norm.weight"),
]


@pytest.mark.parametrize("pair", SWAPS, ids=lambda pair: pair[0])
def test_swapped_tensors_of_one_shape(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pair: tuple[str, str]
) -> None:
    write, swap = GGUFWriter.write_rows, {pair[0]: pair[1], pair[1]: pair[0]}
    monkeypatch.setattr(
        GGUFWriter, "write_rows", lambda writer, name, *arguments: write(writer, swap.get(name, name), *arguments)
    )
    # Q8_0 throughout, so that both have the same number of bytes.
    refused(model, tmp_path, "off by .* was recorded", "Q8_0")


def identity(rows: int, heads: int) -> np.ndarray:
    return np.arange(rows)


def inverse(rows: int, heads: int) -> np.ndarray:
    """The permutation the wrong way round."""
    return np.argsort(ORIGINAL(rows, heads))


def as_one_head(rows: int, heads: int) -> np.ndarray:
    return ORIGINAL(rows, 1)


ORIGINAL = huggingface.interleaved


@pytest.mark.parametrize("wrong", [identity, inverse, as_one_head])
def test_a_wrong_permutation(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: Callable[[int, int], np.ndarray]
) -> None:
    monkeypatch.setattr(huggingface, "interleaved", wrong)
    refused(model, tmp_path, r"attn_[qk].* off by")


# Where the binary16 scale of the first span of a tensor in the recipe lies: (recipe, tensor, bytes from its start).
SCALES = [
    ("Q8_0", "blk.1.ffn_up.weight", 0),
    ("Q4_0", "blk.1.ffn_up.weight", 0),
    ("Q4_K_S", "blk.1.ffn_up.weight", 0),
    ("Q4_K_S", "blk.1.attn_v.weight", 0),
    ("Q6_K", "blk.1.ffn_up.weight", 208),
]


@pytest.mark.parametrize(("recipe", "tensor", "at"), SCALES)
def test_a_scale_that_is_off_by_two_percent(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str, tensor: str, at: int
) -> None:
    """In one span of the whole file."""

    def corrupt(writer: GGUFWriter) -> None:
        edit(writer, offset(writer, tensor) + at, lambda d: (d.view(np.float16) * 1.02).astype(np.float16), 2)

    before_verifying(monkeypatch, corrupt)
    refused(model, tmp_path, f"{tensor} is off by", recipe)


@pytest.mark.parametrize(
    ("recipe", "tensor", "byte"),
    [
        ("Q8_0", "blk.0.ffn_down.weight", 2),
        ("Q4_0", "blk.0.ffn_down.weight", 17),
        ("Q4_K_S", "blk.1.ffn_down.weight", 16),
        ("Q4_K_S", "blk.1.attn_v.weight", 16),
        ("Q6_K", "blk.1.ffn_down.weight", 0),
        ("F16", "blk.1.ffn_down.weight", 0),
        ("BF16", "output.weight", 0),
        ("Q4_0", "output_norm.weight", 0),
    ],
)
def test_one_flipped_bit(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str, tensor: str, byte: int
) -> None:
    """The lowest bit of one code."""
    before_verifying(monkeypatch, lambda writer: edit(writer, offset(writer, tensor) + byte, lambda b: b ^ 1, 1))
    refused(model, tmp_path, f"{tensor} is off by", recipe)


def test_a_dropped_last_slab(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "SLAB_BYTES", 1 << 16)
    write = GGUFWriter.write_rows

    def dropping(writer: GGUFWriter, name: str, first_row: int, rows: np.ndarray) -> None:
        slot = next(slot for slot in writer.layout.slots if slot.name == name)
        last = first_row + len(rows) == slot.shape[0] and name == "blk.1.ffn_up.weight"
        if not (last and first_row):
            write(writer, name, first_row, rows)

    monkeypatch.setattr(GGUFWriter, "write_rows", dropping)
    refused(model, tmp_path, "ffn_up.weight is off by")


def replaced(writer: GGUFWriter, old: bytes, new: bytes) -> None:
    header = writer.layout.header
    assert len(old) == len(new)
    assert header.count(old) == 1
    edit(writer, header.index(old), lambda _: np.frombuffer(new, np.uint8), len(old))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"llama.block_count\4\0\0\0\2", b"llama.block_count\4\0\0\0\3"),
        (b"llama.block_count\4", b"llama.block_coins\4"),
        (b"llama.attention.head_count\4\0\0\0\4", b"llama.attention.head_count\4\0\0\0\2"),
    ],
    ids=["a value", "a key", "heads"],
)
def test_changed_metadata(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bytes, new: bytes) -> None:
    before_verifying(monkeypatch, lambda writer: replaced(writer, old, new))
    refused(model, tmp_path, "metadata key")


def test_a_renamed_tensor(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = b"blk.1.ffn_up.weight", b"blk.1.ffn_op.weight"
    before_verifying(monkeypatch, lambda writer: replaced(writer, old, new))
    refused(model, tmp_path, r"differ in the tensor blk\.1\.ffn_[ou]p\.weight")


def test_a_truncated_file(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def corrupt(writer: GGUFWriter) -> None:
        with writer.partial.open("r+b") as file:
            file.truncate(writer.layout.size - 100)

    before_verifying(monkeypatch, corrupt)
    with pytest.raises(fewbits.errors.FewbitsError) as caught:
        quantize(model, tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_older_output_survives_a_fault(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = quantize(model, tmp_path, "Q8_0")
    kept = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    before_verifying(monkeypatch, lambda writer: edit(writer, offset(writer, "output.weight") + 2, lambda b: b ^ 1, 1))
    with pytest.raises(VerificationError):
        quantize(model, tmp_path, "Q4_0", force=True)
    assert output.is_file()
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == kept


def result(model: Path, folder: Path, recipe: str, threads: int) -> tuple[bytes, Any]:
    folder.mkdir()
    output = quantize(model, folder, recipe, threads=threads)
    return output.read_bytes(), json.loads(card_path(output).read_text())["tensors"]


@pytest.mark.parametrize("recipe", ["Q4_K_M", "Q4_0"])
def test_nothing_depends_on_threads_or_slabs(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    wanted = result(model, tmp_path / "first", recipe, 1)
    for threads, slab in ((2, 4 << 20), (3, 4 << 20), (1, 3000), (2, 70_000), (3, 1)):
        monkeypatch.setattr(workers, "SLAB_BYTES", slab)
        assert result(model, tmp_path / f"{threads} {slab}", recipe, threads) == wanted
