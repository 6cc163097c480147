"""Configurations, tokenizers and GGUF headers with one thing wrong: refused in our words or harmless, no crash."""

from __future__ import annotations

import copy
import json
import shutil
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import gguf
import pytest
from gguf.scripts.gguf_convert_endian import convert_byteorder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fewbits.checkpoints.gguf import GGUFReader
from fewbits.checkpoints.huggingface import convert_directory
from fewbits.checkpoints.opening import convert_gguf
from fewbits.checkpoints.tokenizer import tokenizer_from_gguf
from fewbits.errors import CheckpointError
from references.conversion_file import write_f16
from references.random_models import byte_level_tokenizer, save_byte_level, save_pieces

POCKET = Path(__file__).parents[2] / "examples" / "models" / "pocket-llama"

FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([-1, 0, 1, 7, 2**31, 2**63, 10**40, 0.5, -1e300, float("inf"), float("nan")]),
    st.sampled_from(["", "x", "silu", "\u0000", "Sequence", "Metaspace", "ByteLevel", "TemplateProcessing", "\ud800"]),
)
VALUES = st.one_of(
    LEAVES,
    st.lists(LEAVES, max_size=3),
    st.dictionaries(st.sampled_from(["type", "id", "content"]), LEAVES, max_size=3),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every position in a JSON value; of long lists and dictionaries, the first few."""
    yield path
    items = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else [])
    for key, part in items[:40]:
        yield from places(part, (*path, key))


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    result = copy.copy(value)
    result[path[0]] = replaced(value[path[0]], path[1:], new)
    return result


@pytest.fixture(scope="module", params=["bytes", "pieces"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A model directory and the JSON files in it."""
    import transformers

    directory = tmp_path_factory.mktemp(request.param)
    if request.param == "pieces":
        save_pieces(directory)
        transformers.LlamaTokenizer.from_pretrained(directory, add_bos_token=True).save_pretrained(directory)
        (directory / "tokenizer.model").unlink()
    else:
        save_byte_level(directory, byte_level_tokenizer(nfc=True, bos="<|begin|>"))
    for name in ("config.json", "model.safetensors"):
        shutil.copy(POCKET / name, directory)
    return directory, {name: json.loads((directory / name).read_text()) for name in FILES}


SETTINGS = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@SETTINGS
@given(name=st.sampled_from(FILES), where=st.integers(0, 10**6), value=VALUES)
def test_one_wrong_value_in_a_json_file(name: str, where: int, value: Any, model: tuple[Path, dict[str, Any]]) -> None:
    directory, files = model
    found = list(places(files[name]))
    changed = replaced(files[name], found[where % len(found)], value)
    (directory / name).write_text(json.dumps(changed))
    try:
        conversion = convert_directory(directory)
        tokenizer_from_gguf(conversion.metadata)
    except CheckpointError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either outcome is right, but a sentence is one line
    finally:
        (directory / name).write_text(json.dumps(files[name]))


@pytest.fixture(scope="module", params=["little", "big"])
def gguf_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    path = tmp_path_factory.mktemp("gguf") / "pocket.gguf"
    write_f16(convert_directory(POCKET), path)
    if request.param == "big":
        with mock.patch("builtins.input", return_value="YES"):
            convert_byteorder(gguf.GGUFReader(path, "r+"), Namespace(order="big", dry_run=False))
    return path, path.read_bytes()


@SETTINGS
@given(position=st.integers(0, 4000), byte=st.integers(0, 255), cut=st.integers(0, 9_000_000))
def test_one_wrong_byte_in_a_gguf_header(position: int, byte: int, cut: int, gguf_file: tuple[Path, bytes]) -> None:
    path, raw = gguf_file
    head = bytearray(raw[:200_000])
    head[position] = byte
    damaged = path.with_name("damaged.gguf")
    damaged.write_bytes(head if cut % 2 else head[: cut % 200_000])
    with damaged.open("r+b") as file:
        file.truncate(len(raw))
    try:
        reader = GGUFReader(damaged)
        for name in reader.names():
            stored = reader.read(name)
            assert stored.bytes * 8 >= stored.elements
        del reader
        convert_gguf(damaged)
    except CheckpointError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either outcome is right, but a sentence is one line
