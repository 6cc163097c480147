"""Architecture facts as data: one TOML file per architecture, and the small loader that reads them.

Adding an architecture is one more TOML file; see `llama.toml` for the fields.
"""

from __future__ import annotations

from fewbits.models.architecture import (
    EXPERT,
    Architecture,
    GroupFact,
    ImpliedFact,
    LocalRope,
    MetadataFact,
    SettledFact,
    StreamFact,
    TensorFact,
    parts_of,
)
from fewbits.models.known import add_architecture, architectures, for_config, for_gguf, is_encoder

__all__ = [
    "EXPERT",
    "Architecture",
    "GroupFact",
    "ImpliedFact",
    "LocalRope",
    "MetadataFact",
    "SettledFact",
    "StreamFact",
    "TensorFact",
    "add_architecture",
    "architectures",
    "for_config",
    "for_gguf",
    "is_encoder",
    "parts_of",
]
