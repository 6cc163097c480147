"""`save_pretrained` of a network with packed matrices: written beside, read by independent code, renamed when complete.

transformers writes file by file into the directory that it is given, and what a killed run leaves there looks whole.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import torch

from fewbits.checkpoints.base import StoredTensor
from fewbits.checkpoints.dialects import OWN
from fewbits.checkpoints.fields import PLAIN, FieldsReader
from fewbits.checkpoints.partial_file import partial_path
from fewbits.checkpoints.safetensors import SafetensorsReader, ShardedReader, open_directory
from fewbits.errors import CheckpointError, VerificationError
from fewbits.loading.saving import packed_weights
from fewbits.verification.dialects import Directory
from fewbits.verification.matrices import Expectation, Inputs, check_reading, check_stored
from fewbits.workers import Workers, usable_threads

_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin")
_OLD = ".old"


def give_complete_saving(network: Any) -> None:
    """Let `network.save_pretrained` write whole directories, or nothing."""
    network.__dict__["save_pretrained"] = MethodType(save_pretrained, network)


def save_pretrained(self: Any, save_directory: str | Path, **options: Any) -> None:
    """What transformers' `save_pretrained` does, in a directory that gets its name when it is complete and was read.

    Other files of a directory that is replaced are kept, its old weights are not. Raises VerificationError where
    independent code reads another matrix than the network has, and then keeps nothing.
    """
    whole = type(self).save_pretrained
    if options.get("push_to_hub") or not options.get("is_main_process", True):
        whole(self, save_directory, **options)
        return
    target = Path(save_directory).expanduser().resolve()
    if target.exists() and not target.is_dir():
        raise CheckpointError(f"{target} is a file, and a model is saved as a directory; give another name.")
    partial = partial_path(target)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        whole(self, partial, **options)
        verify_saved(self, partial)
        _publish(partial, target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def verify_saved(network: Any, folder: Path) -> None:
    """Read every quantized matrix in `folder` by code of its own; VerificationError where it is not the network's."""
    weights, _ = open_directory(folder)
    assert isinstance(weights, SafetensorsReader | ShardedReader), "transformers writes no pickles"
    stated = getattr(network.config, "quantization_config", None)
    own = stated is None or stated.to_dict().get("quant_method") == OWN
    fields, directory = None, Directory.of(folder, weights)
    with Workers(usable_threads(None)) as workers:
        for name, want in _expected(network):
            if own:
                fields = fields or FieldsReader(weights)  # which a directory of plain numbers has no fields for
                check_stored(fields.read(name), want, workers, _silent, 0)
                continue
            reading = directory.read(name)
            if reading is None:
                raise VerificationError(f"{name} lies in {folder} as plain numbers, and the network has it packed.")
            check_reading(name, reading, want, workers, _silent, 0)


def _expected(network: Any) -> Iterator[tuple[str, Expectation]]:
    """Each matrix by its name, with the numbers that the network computes with."""
    for name, module, stated in packed_weights(network):
        if module.matrix.format in PLAIN:
            continue
        numbers = module.matrix.numbers().cpu().contiguous()
        raw = numbers.view(torch.uint8).numpy().reshape(-1).view(np.uint8)
        source = StoredTensor(name, "F32", (int(numbers.shape[0]), int(numbers.shape[1])), raw)
        inputs = Inputs(stated.activation, stated.outliers)
        yield name, Expectation(source, None, stated.format, 0.0, inputs=inputs)


def _silent(_: int) -> None:
    pass


def _publish(partial: Path, target: Path) -> None:
    """Everything on the disk, then the name; what `target` had beside its weights moves along."""
    for each in sorted(target.rglob("*")) if target.is_dir() else ():
        there = partial / each.relative_to(target)
        if each.is_file() and not there.exists() and not each.name.endswith(_WEIGHTS):
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(each, there)
    for each in partial.rglob("*"):
        if each.is_file():
            with each.open("rb") as file:
                os.fsync(file.fileno())
    old = target.with_name(f".{target.name}{_OLD}")
    shutil.rmtree(old, ignore_errors=True)
    if target.is_dir():
        target.rename(old)
    partial.rename(target)
    shutil.rmtree(old, ignore_errors=True)
