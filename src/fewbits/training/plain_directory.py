"""A model directory of plain numbers that grows tensor by tensor: shards, their index, configuration, tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch

from fewbits.checkpoints.base import StoredTensor
from fewbits.checkpoints.directory_layout import side_files
from fewbits.checkpoints.safetensors import INDEX_NAME
from fewbits.errors import FewbitsError, TrainingError
from fewbits.evaluation.model_files import first_sentence, quiet_transformers
from fewbits.loading.pieces import Lazy, Piece
from fewbits.loading.sources import Source
from fewbits.loading.tokens import load_tokenizer

SHARD = 1 << 30
"""Bytes that are in memory at most before they are written."""
_STORED = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


class PlainDirectory:
    """What is written to the folder `path`, whose floats are of `dtype`."""

    def __init__(self, path: Path, dtype: torch.dtype) -> None:
        self.path = path
        self.dtype = dtype
        self._held: dict[str, torch.Tensor] = {}
        self._bytes = 0
        self._shards: list[list[str]] = []

    def copy(self, name: str, piece: Piece) -> None:
        """Add what is stored: as it lies there where its numbers are of the directory's type."""
        if isinstance(piece, StoredTensor) and piece.format == _STORED[self.dtype]:
            self.add(name, torch.from_numpy(np.array(piece.buffer)).view(self.dtype).reshape(piece.shape))
        else:
            self.add(name, Lazy(piece)[...])

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Add a tensor; floats are rounded to the directory's type, whole numbers stay."""
        own = tensor.to(self.dtype) if tensor.is_floating_point() else tensor
        self._held[name] = own.contiguous()
        self._bytes += own.nbytes
        if self._bytes >= SHARD:
            self._flush()

    def close(self, source: Source) -> None:
        """Write what is left, and all that belongs to `source` beside its weights."""
        self._flush()
        count = len(self._shards)
        where: dict[str, str] = {}
        for at, names in enumerate(self._shards):
            name = "model.safetensors" if count == 1 else f"model-{at + 1:05}-of-{count:05}.safetensors"
            self._shard(at).rename(self.path / name)
            where |= dict.fromkeys(names, name)
        if count > 1:
            index = json.dumps({"metadata": {}, "weight_map": where}, indent=1)
            (self.path / INDEX_NAME).write_text(index, encoding="utf-8")
        _describe(source, self.path, self.dtype)

    def _shard(self, number: int) -> Path:
        return self.path / f"part-{number}"

    def _flush(self) -> None:
        if not self._held:
            return
        from safetensors.torch import save_file

        try:
            save_file(self._held, self._shard(len(self._shards)), metadata={"format": "pt"})
        except OSError:
            raise
        except Exception as error:  # safetensors has an error of its own for a full disk
            raise TrainingError(f"{self.path}: weights cannot be written ({first_sentence(error)}).") from error
        self._shards.append(list(self._held))
        self._held, self._bytes = {}, 0


def _describe(source: Source, folder: Path, dtype: torch.dtype) -> None:
    with quiet_transformers():
        source.config.dtype = dtype
        source.config.save_pretrained(str(folder))
    if source.path.is_dir():
        for name, file in side_files(source.path).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / name)
        return
    try:
        with quiet_transformers():
            load_tokenizer(source.path).save_pretrained(str(folder))
    except FewbitsError as error:
        raise TrainingError(f"{source.path}: its tokenizer cannot be taken along ({error})") from error
