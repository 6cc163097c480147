"""llama.cpp and GGUF files that are not one plain file: parts, other alignments, projectors."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import pytest

import fewbits
from fewbits.checkpoints.gguf import GGUFReader
from fewbits.checkpoints.gguf_parts import open_gguf
from peers.ggml import chosen_types
from references.gguf_files import write_gguf, write_parts, write_projector

llama_cpp = pytest.importorskip("llama_cpp")

IDS = [1, 17, 230, 44, 900, 1500, 3, 77]


def scores(path: Path) -> npt.NDArray[np.float32]:
    """llama.cpp's logits (tokens, vocabulary) of a few tokens."""
    model = llama_cpp.Llama(str(path), n_ctx=64, n_threads=1, verbose=False, logits_all=True)
    model.eval(IDS)
    found = np.array(model.scores[: len(IDS)])
    model.close()
    return found


def test_parts_are_loaded_as_one_file(pocket: Path, tmp_path: Path) -> None:
    fewbits.quantize(pocket, tmp_path / "one.gguf")
    fewbits.quantize(pocket, tmp_path / "m.gguf", split_size="1M")
    first, *others = sorted(tmp_path.glob("m-*.gguf"))
    assert len(others) == 2
    expected = scores(tmp_path / "one.gguf")
    assert np.array_equal(scores(first), expected)
    # It does look at the others: one that is away, or in another's place, is no model.
    kept = others[0].rename(tmp_path / "away")
    with pytest.raises(ValueError, match="Failed to load"):
        scores(first)
    kept.rename(others[0])
    assert np.array_equal(scores(first), expected)


def test_parts_of_both_makers_are_the_same_model(pocket: Path, tmp_path: Path) -> None:
    """The package's parts, loaded by llama.cpp, and quantized by us, whichever is named."""
    parts = write_parts(pocket, tmp_path / "p.gguf", tensors=9)
    whole = write_gguf(pocket, tmp_path / "w.gguf")
    assert np.array_equal(scores(parts[0]), scores(whole))
    fewbits.quantize(parts[-1], tmp_path / "a.gguf")
    fewbits.quantize(whole, tmp_path / "b.gguf")
    assert np.array_equal(scores(tmp_path / "a.gguf"), scores(tmp_path / "b.gguf"))


def test_another_alignment_is_loaded(pocket: Path, tmp_path: Path) -> None:
    source = write_gguf(pocket, tmp_path / "s.gguf", metadata={"general.alignment": 256})
    tensors = [tensor.name for tensor in gguf.GGUFReader(source).tensors]
    assert open_gguf(source).names() == tensors
    fewbits.quantize(source, tmp_path / "a.gguf")
    fewbits.quantize(write_gguf(pocket, tmp_path / "t.gguf"), tmp_path / "b.gguf")
    assert GGUFReader(tmp_path / "a.gguf").alignment == 256
    assert np.array_equal(scores(tmp_path / "a.gguf"), scores(tmp_path / "b.gguf"))


@pytest.mark.parametrize("recipe", ["F16", "Q8_0", "Q4_0", "Q4_K_M", "Q5_K_M", "Q6_K"])
def test_projectors_get_the_types_of_llama_quantize(recipe: str, tmp_path: Path) -> None:
    """But for Q2_K, where llama-quantize asks how many heads share a key and gives up."""
    source = write_projector(tmp_path / "mmproj.gguf")
    fewbits.quantize(source, tmp_path / "ours.gguf", to=recipe)
    ours = {name: open_gguf(tmp_path / "ours.gguf").read(name).format for name in open_gguf(source).names()}
    assert ours == chosen_types(source, recipe, tmp_path / "theirs.gguf")
