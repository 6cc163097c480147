"""What a GGUF source says and no recipe touches comes back: metadata of every type, alignment; projectors beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGUFValueType as Kind

from fewbits import compare, inspect, quantize
from fewbits.checkpoints.gguf import GGUFReader
from fewbits.errors import FewbitsError
from references.gguf_files import write_projector

VALUES: dict[str, tuple[Any, Kind, Kind | None]] = {
    **{f"own.{kind.name.lower()}": (7, kind, None) for kind in Kind if "INT" in kind.name},
    "own.float32": (0.1, Kind.FLOAT32, None),
    "own.float64": (0.1, Kind.FLOAT64, None),
    "own.bool": (False, Kind.BOOL, None),
    "own.string": ("Wörter\n", Kind.STRING, None),
    "own.empty": ("", Kind.STRING, None),
    **{f"own.many.{kind.name.lower()}": ([1, 2], Kind.ARRAY, kind) for kind in Kind if "INT" in kind.name},
    "own.many.bool": ([True, False], Kind.ARRAY, Kind.BOOL),
    "own.many.string": (["a", "", "Ä"], Kind.ARRAY, Kind.STRING),
    "tokenizer.chat_template": ("{{ x }}", Kind.STRING, None),
}


def write(path: Path, alignment: int | None) -> None:
    writer = gguf.GGUFWriter(path, "nobody-knows")
    if alignment:
        writer.add_custom_alignment(alignment)
    for key, (value, kind, element) in VALUES.items():
        writer.add_key_value(key, value, kind, element)
    rng = np.random.default_rng(3)
    for n in range(4):
        writer.add_tensor(f"blk.{n}.ffn_up.weight", rng.normal(size=(3, 256)).astype(np.float32))
        writer.add_tensor(f"blk.{n}.norm.bias", rng.normal(size=5).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("alignment", [None, 8, 16, 64, 256])
@pytest.mark.parametrize("split_size", [None, "2K"])
def test_metadata_and_alignment_are_kept(alignment: int | None, split_size: str | None, tmp_path: Path) -> None:
    write(tmp_path / "s.gguf", alignment)
    quantize(tmp_path / "s.gguf", tmp_path / "o.gguf", to="Q4_0", split_size=split_size)
    outputs = sorted(tmp_path.glob("o*.gguf"))
    assert len(outputs) > 1 if split_size else outputs == [tmp_path / "o.gguf"]
    before, after = gguf.GGUFReader(tmp_path / "s.gguf"), gguf.GGUFReader(outputs[0])
    for key, field in before.fields.items():
        if not key.startswith("GGUF."):
            assert after.fields[key].types == field.types
            assert after.fields[key].contents() == field.contents()
    for path in outputs:
        assert gguf.GGUFReader(path).alignment == (alignment or 32)
        assert GGUFReader(path).alignment == (alignment or 32)
    names = [tensor.name for path in outputs for tensor in gguf.GGUFReader(path).tensors]
    assert names == [tensor.name for tensor in before.tensors]


def test_empty_arrays_are_kept(tmp_path: Path) -> None:
    """The package writes none, so the source's header is put together here."""
    import struct

    text = lambda word: struct.pack("<Q", len(word)) + word.encode()
    keys = [text("general.architecture") + struct.pack("<I", 8) + text("x")]
    keys += [text(f"empty.{kind}") + struct.pack("<IIQ", 9, kind, 0) for kind in (*range(9), 10, 11, 12)]
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, len(keys)) + b"".join(keys)
    head += text("a.weight") + struct.pack("<IQQIQ", 2, 32, 2, 0, 0)
    (tmp_path / "s.gguf").write_bytes(head + bytes(-len(head) % 32) + bytes(256))
    quantize(tmp_path / "s.gguf", tmp_path / "o.gguf", to="Q8_0")
    before, after = GGUFReader(tmp_path / "s.gguf").metadata, GGUFReader(tmp_path / "o.gguf").metadata
    assert {key: after[key] for key in before} == dict(before)
    assert after["empty.8"].type == "array:string"


@pytest.mark.parametrize("older", [False, True])
def test_a_projector_is_inspected_and_quantized(older: bool, tmp_path: Path) -> None:
    path = write_projector(tmp_path / "mmproj-F16.gguf", stated=not older)
    seen = inspect(path)
    assert seen.architecture == "clip"
    assert seen.metadata["clip.projector_type"] == "mlp"
    assert [layer.layer for layer in seen.layers] == [0, 1, 2]
    record: Any = quantize(path, tmp_path / "q.gguf", to="Q8_0")
    assert any("multimodal projector" in note and "--mmproj" in note for note in record.preview.notes)
    kinds = {tensor.name: tensor.format for tensor in inspect(tmp_path / "q.gguf").tensors}
    assert kinds["v.blk.0.attn_q.weight"] == kinds["mm.0.weight"] == "Q8_0"
    assert (kinds["v.patch_embd.weight"], kinds["v.position_embd.weight"]) == ("F16", "F32")
    text = tmp_path / "t.txt"
    text.write_text("x" * 5000, encoding="utf-8")
    with pytest.raises(FewbitsError, match="clip") as caught:
        compare(path, path, text=text)
    assert "\n" not in str(caught.value)


def test_a_projector_beside_the_source_is_said(pocket: Path, tmp_path: Path) -> None:
    quantize(pocket, tmp_path / "m.gguf", to="F16")
    (tmp_path / "mmproj-damaged.gguf").write_bytes(b"GGUF")
    (tmp_path / "mmproj-no-projector.gguf").write_bytes((tmp_path / "m.gguf").read_bytes())
    plain: Any = quantize(tmp_path / "m.gguf", tmp_path / "a.gguf", to="Q8_0")
    assert not any("projector" in note for note in plain.preview.notes)
    write_projector(tmp_path / "M-MMPROJ-F16.gguf")
    write_projector(tmp_path / "x-mmproj.gguf")
    before = (tmp_path / "x-mmproj.gguf").read_bytes()
    record: Any = quantize(tmp_path / "m.gguf", tmp_path / "b.gguf", to="Q8_0")
    assert any("M-MMPROJ-F16.gguf and 1 more" in note for note in record.preview.notes)
    assert (tmp_path / "x-mmproj.gguf").read_bytes() == before


def test_a_projector_in_a_directory_goes_along_into_one(pocket: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(pocket, tmp_path / "model")
    projector = write_projector(tmp_path / "model" / "mmproj-model-f16.gguf")
    into_file: Any = quantize(tmp_path / "model", tmp_path / "o.gguf", to="Q8_0", dry_run=True)
    assert any("mmproj-model-f16.gguf" in note for note in into_file.notes)
    record: Any = quantize(tmp_path / "model", tmp_path / "out", to="Q8_0")
    assert any("mmproj-model-f16.gguf" in note and "copied" in note for note in record.preview.notes)
    assert (tmp_path / "out" / "mmproj-model-f16.gguf").read_bytes() == projector.read_bytes()
    assert str(projector) in record.source_sha256
