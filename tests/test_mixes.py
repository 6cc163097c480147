"""Which mix a file is: what it says, checked tensor by tensor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fewbits import inspect, quantize
from fewbits.checkpoints.base import StoredTensor, Value
from fewbits.checkpoints.gguf import GGUFReader
from fewbits.mixes import Mix, find_mix
from references.gguf_files import write_gguf

Tensors = tuple[StoredTensor, ...]


@pytest.fixture(scope="module")
def reader(pocket: Path, tmp_path_factory: pytest.TempPathFactory) -> GGUFReader:
    path = tmp_path_factory.mktemp("mix") / "m.gguf"
    quantize(pocket, path, to="Q4_K_M")
    return GGUFReader(path)


def mix_of(reader: GGUFReader, *, changed: dict[str, str] | None = None, file_type: int | None = 15) -> Mix | None:
    """The mix of the file with some tensors in other formats and another stated type."""
    changed = changed or {}
    tensors = (reader.read(name) for name in reader.names())
    tensors = tuple(replace(t, format=changed.get(t.name, t.format)) for t in tensors)
    metadata = {k: v for k, v in reader.metadata.items() if k != "general.file_type"}
    if file_type is not None:
        metadata["general.file_type"] = Value(file_type, "uint32")
    return find_mix("llama", metadata, tensors)


def test_a_file_that_says_the_truth(reader: GGUFReader) -> None:
    assert mix_of(reader) == Mix("Q4_K_M", "Q4_K_M", None, ())


@pytest.mark.parametrize(("file_type", "stated"), [(None, None), (14, "Q4_K_S"), (1024 + 15, "Q4_K_M"), (999999, None)])
def test_a_file_that_says_something_else_or_nothing(
    file_type: int | None, stated: str | None, reader: GGUFReader
) -> None:
    assert mix_of(reader, file_type=file_type) == Mix("Q4_K_M", stated, None, ())


def test_one_tensor_makes_a_custom_mix_and_is_named(reader: GGUFReader) -> None:
    mix = mix_of(reader, changed={"blk.1.attn_q.weight": "Q8_0"})

    assert mix is not None
    assert (mix.name, mix.stated, mix.nearest) == ("custom", "Q4_K_M", "Q4_K_M")
    assert [(d.tensor, d.format, d.expected) for d in mix.differences] == [("blk.1.attn_q.weight", "Q8_0", "Q4_K")]


def test_a_custom_mix_without_a_name_gets_the_nearest(reader: GGUFReader) -> None:
    mix = mix_of(reader, changed={"blk.1.attn_q.weight": "Q8_0"}, file_type=None)

    assert mix is not None
    assert (mix.stated, mix.nearest, len(mix.differences)) == (None, "Q4_K_M", 1)


def test_norms_do_not_matter(reader: GGUFReader) -> None:
    assert mix_of(reader, changed={"output_norm.weight": "F16"}) == Mix("Q4_K_M", "Q4_K_M", None, ())


@pytest.mark.parametrize("recipe", ["Q4_K_S", "Q4_0", "Q6_K", "Q8_0", "F16", "BF16"])
def test_each_recipe_is_recognized(recipe: str, pocket: Path, tmp_path: Path) -> None:
    quantize(pocket, tmp_path / "m.gguf", to=recipe)
    seen = inspect(tmp_path / "m.gguf")

    assert seen.mix is not None
    assert (seen.mix.name, seen.mix.stated) == (recipe, recipe)


def test_a_community_mix_goes_by_its_own_name_whatever_type_its_file_states(pocket: Path, tmp_path: Path) -> None:
    quantize(pocket, tmp_path / "m.gguf", to="Q4_K_L")
    seen = inspect(tmp_path / "m.gguf")

    assert seen.mix == Mix("Q4_K_L", "Q4_K_M", None, ())


def test_layers_and_kinds_add_up(pocket: Path, tmp_path: Path) -> None:
    for path, outside in ((pocket, 2), (write_gguf(pocket, tmp_path / "q8.gguf", kind="Q8_0"), 2)):
        seen = inspect(path)
        loose = [t for t in seen.tensors if not any(part.isdigit() for part in t.name.split("."))]

        assert len(loose) == outside
        assert [layer.layer for layer in seen.layers] == [0, 1, 2, 3]
        assert sum(layer.bytes for layer in seen.layers) + sum(t.bytes for t in loose) == seen.bytes
        assert sum(kind.parameters for kind in seen.kinds) == seen.parameters
        assert sum(kind.tensors for kind in seen.kinds) == len(seen.tensors)
        assert all(sum(kind.formats.values()) == kind.tensors for kind in seen.kinds)
    assert inspect(pocket).mix is None


def test_no_model_has_no_mix() -> None:
    assert find_mix("llama", {}, ()) is None
