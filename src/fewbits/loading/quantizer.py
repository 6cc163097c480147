"""transformers' way to load matrices that are not plain numbers, for ours: packed as they are read, or as they lie."""

from __future__ import annotations

import copy
import logging
import re
from pathlib import Path
from typing import Any

import torch
from transformers.quantizers.auto import (
    AUTO_QUANTIZATION_CONFIG_MAPPING,
    AUTO_QUANTIZER_MAPPING,
    register_quantization_config,
    register_quantizer,
)
from transformers.quantizers.base import HfQuantizer

from fewbits.checkpoints import dialects
from fewbits.checkpoints.dialects import OWN
from fewbits.checkpoints.directory_layout import METHOD
from fewbits.errors import LoadingError
from fewbits.loading.config import Config
from fewbits.loading.loaded import loaded, quantized
from fewbits.loading.packing import Packing, PackOperation
from fewbits.loading.pieces import is_quantized
from fewbits.loading.placing import untie
from fewbits.loading.planned import plan
from fewbits.loading.saving import saved
from fewbits.loading.sources import open_weights_of
from fewbits.loading.stored import Stored

_LOG = logging.getLogger("fewbits")


def register() -> None:
    """Make transformers know `Config` and directories in our dialect; doing so twice changes nothing."""
    if METHOD not in AUTO_QUANTIZER_MAPPING:
        register_quantizer(METHOD)(Quantizer)
    if METHOD not in AUTO_QUANTIZATION_CONFIG_MAPPING:
        register_quantization_config(METHOD)(Config)


def configuration_of(stored: Stored, to: str | Config | None) -> Config:
    """What `from_pretrained` takes to load what was opened: as it is, or quantized `to` something as it is read."""
    register()
    if to is None:
        return Config.for_stored(stored)
    return Config(to, inputs=stored.inputs) if isinstance(to, str) else to


class Quantizer(HfQuantizer):
    """Packs matrices while `from_pretrained` loads a model."""

    quantization_config: Config

    def __init__(self, quantization_config: Config, **more: Any) -> None:
        """Of a copy, to which is written what was decided; the user's may load another model."""
        super().__init__(copy.copy(quantization_config), **more)
        self._dtype = torch.float32
        self._packing: Packing | None = None
        self._stored: Stored | None = None

    def _process_model_before_weight_loading(self, model: Any, *, checkpoint_files: Any = None, **_: Any) -> Any:
        self._dtype = model.dtype
        self._stored = self.quantization_config.stored
        if self._stored is not None:
            self._stored.make_room(model, self._dtype)
        elif self.pre_quantized:
            self._stored = _stored_in(Path(checkpoint_files[0]).parent, model, self.quantization_config.inputs)
        else:
            self._packing = Packing(plan(model, self.quantization_config), self.quantization_config.inputs)
            untie(model, self._packing.plan.tensors)
        return model

    def param_needs_quantization(self, model: Any, param_name: str, **_: Any) -> bool:
        """Whether the parameter is a weight of the plan."""
        return self._packing is not None and param_name in self._packing.plan.tensors

    def get_quantize_ops(self) -> PackOperation:
        """What is done to such a weight."""
        assert self._packing is not None, "asked for weights of a plan alone"
        return PackOperation(self._packing)

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
        if self._stored is not None:
            self._stored.fill(model, self._dtype)
            model.fewbits = loaded(self._stored)
        elif self._packing is not None:
            if self._packing.failure is not None:
                raise self._packing.failure
            name = Path(model.name_or_path or type(model).__name__)
            model.fewbits = quantized(name, self._packing)
            self.quantization_config.dialect = self._packing.plan.dialect
        for note in model.fewbits.notes:
            _LOG.warning(note)
        self._stored = self._packing = self.quantization_config.stored = None  # which know mapped files
        return model

    def get_state_dict_and_metadata(self, model: Any) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        """The tensors of the dialect in which the model is saved; config.json will say which, and the log does.

        Raises CheckpointError where the dialect that was asked for cannot hold a matrix.
        """
        config = self.quantization_config
        found = saved(model, config.dialect, config.recipe)
        config.stated = found.configuration
        if not found.configuration:
            vars(model.config).pop("quantization_config", None)
            return found.tensors, found.metadata
        model.config.quantization_config = config
        _LOG.info("The model is saved in the dialect %s, read by %s.", found.dialect, _readers(found.dialect))
        return found.tensors, found.metadata

    def is_serializable(self) -> bool:
        """Every format lies in some dialect."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Adapters are, beside codes that stay: whoever trains nothing else is told so by transformers itself."""
        return True


def _readers(dialect: str) -> str:
    return METHOD if dialect == OWN else dialects.get(dialect).readers


def _stored_in(folder: Path, model: Any, inputs: str) -> Stored:
    """What lies in a directory in our dialect; transformers reads the plain tensors of it by itself."""
    stored = Stored(open_weights_of(folder, model.config, type(model)), inputs)
    known = set(model._keys_to_ignore_on_load_unexpected or ())
    fields = {rf"{re.escape(name)}\." for name, piece in stored.left.items() if is_quantized(piece)}
    stored.make_room(model, model.dtype)
    plain = {rf"{re.escape(name)}$" for name in set(stored.source.pieces) - set(stored.left)}
    model._keys_to_ignore_on_load_unexpected = known | fields | plain
    _require_all_packed(stored)
    return stored


def _require_all_packed(stored: Stored) -> None:
    """Raise LoadingError where a matrix has no module of its own, and so nobody who decodes it."""
    left = [name for name, piece in stored.left.items() if is_quantized(piece)]
    if left:
        raise LoadingError(
            f"{stored.source.path}: {left[0]} has no module of its own in {stored.source.network.__name__}, as experts "
            f"in stacks have none; load the directory with fewbits.load({str(stored.source.path)!r})."
        )
