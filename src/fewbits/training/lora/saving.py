"""Adapters to disk and back: peft's files, and beside them what base they belong to."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fewbits.checkpoints.partial_file import PartialDirectory, partial_path, sync_folder
from fewbits.errors import TrainingError
from fewbits.evaluation.model_files import first_sentence
from fewbits.layers.modules import Packed
from fewbits.layers.places import as_matrix, weights_of
from fewbits.training.lora.adding import custom_layers, peft_of, quiet_peft, take_floats
from fewbits.training.lora.base import base_of, require_same
from fewbits.training.lora.reading import Adapter

if TYPE_CHECKING:
    from peft import PeftModel


def save_adapter(model: Any, folder: str | Path) -> Path:
    """Write the adapter of `model` to `folder`, which appears complete: peft's files, and the base's fingerprint.

    `peft.PeftModel.from_pretrained(fewbits.load(BASE), folder)` reads it. Raises TrainingError where the folder exists,
    where the model has no adapter, or where it cannot be written.
    """
    output = Path(folder)
    if output.exists():
        raise TrainingError(f"{output} exists already; choose another folder, or remove it.")
    if not output.parent.is_dir():
        raise TrainingError(f"{output.parent} is no folder; make it first, or choose another.")
    growing = PartialDirectory(partial_path(output), output)
    try:
        write_adapter(model, growing.path)
        growing.path.rename(output)
        growing.close()
        sync_folder(output.parent)
    finally:
        growing.discard()
    return output


def write_adapter(model: Any, folder: Path) -> None:
    """Put the files of `model`'s adapter into `folder`, which is there; each is on the disk when this returns.

    Raises TrainingError where the model has no adapter, or where a file cannot be written.
    """
    if not hasattr(model, "peft_config"):
        raise TrainingError(f"{type(model).__name__} has no adapter; add one with fewbits.training.add_lora.")
    base = getattr(model, "fewbits_base", None) or base_of(model.get_base_model())
    try:
        model.save_pretrained(str(folder), save_embedding_layers=False)
        base.write(folder)
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                with file.open("rb+") as stream:
                    os.fsync(stream.fileno())
    except OSError:
        raise
    except Exception as error:  # safetensors has errors of its own for a full disk
        raise TrainingError(f"{folder}: the adapter cannot be written ({first_sentence(error)}).") from error
    sync_folder(folder)


def load_adapter(model: torch.nn.Module, folder: str | Path, *, trainable: bool = False) -> PeftModel:
    """`model`, a base as `fewbits.load` gives it, with the adapter in `folder`; `trainable` goes on with its training.

    Not trainable, packed modules multiply as they did before, for one token as for many. Raises TrainingError where the
    adapter belongs to another base or its folder is damaged.
    """
    path = Path(folder)
    adapter, base = Adapter.open(path), base_of(model)
    for note in require_same(path, adapter.base, base):
        warnings.warn(note, stacklevel=2)
    adapter.require_fitting(_shapes(model))
    peft = peft_of()
    config = custom_layers(peft.LoraConfig.from_pretrained(str(path)))
    config.inference_mode = not trainable
    with quiet_peft():
        loaded: PeftModel = peft.PeftModel.from_pretrained(model, str(path), config=config, is_trainable=trainable)
    vars(loaded)["fewbits_base"] = base
    if trainable:
        take_floats(model)
    return loaded


def _shapes(model: torch.nn.Module) -> dict[str, tuple[int, int]]:
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, Packed):
            found[name] = module.matrix.shape
        elif weights_of(module) == ("weight",):
            rows, cols = as_matrix(module).shape
            found[name] = (rows, cols)
    return found
