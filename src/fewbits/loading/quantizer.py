"""transformers' way to load matrices that are not plain numbers, for ours: packed as they are read, or as they lie."""

from __future__ import annotations

from typing import Any

import torch
from transformers.quantizers.auto import (
    AUTO_QUANTIZATION_CONFIG_MAPPING,
    AUTO_QUANTIZER_MAPPING,
    register_quantization_config,
    register_quantizer,
)
from transformers.quantizers.base import HfQuantizer

from fewbits.checkpoints.directory_layout import METHOD
from fewbits.loading.config import Config
from fewbits.loading.stored import Stored


def register() -> None:
    """Make transformers know `Config` and directories in our dialect; doing so twice changes nothing."""
    if METHOD not in AUTO_QUANTIZER_MAPPING:
        register_quantizer(METHOD)(Quantizer)
    if METHOD not in AUTO_QUANTIZATION_CONFIG_MAPPING:
        register_quantization_config(METHOD)(Config)


def configuration_of(stored: Stored) -> Config:
    """What `from_pretrained` takes to load what was opened."""
    register()
    return Config.for_stored(stored)


class Quantizer(HfQuantizer):
    """Packs matrices while `from_pretrained` loads a model."""

    quantization_config: Config

    def _process_model_before_weight_loading(self, model: Any, **_: Any) -> Any:
        stored = self.quantization_config.stored
        self._dtype: torch.dtype = model.dtype
        if stored is not None:
            stored.make_room(model, self._dtype)
        return model

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
        if self.quantization_config.stored is not None:
            self.quantization_config.stored.fill(model, self._dtype)
        return model

    def is_serializable(self) -> bool:
        """Every format lies in some dialect."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Codes are not trained."""
        return False
