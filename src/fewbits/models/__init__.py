"""Architecture facts as data: one TOML file per architecture, and the small loader that reads them.

Adding an architecture is one more TOML file; see `llama.toml` for the fields.
"""

from __future__ import annotations

from fewbits.models.architecture import Architecture
from fewbits.models.facts import (
    EXPERT,
    GroupFact,
    ImpliedFact,
    LocalRope,
    MetadataFact,
    SettledFact,
    SparseFact,
    StreamFact,
    TensorFact,
    parts_of,
)
from fewbits.models.known import add_architecture, architectures, for_config, for_gguf, is_encoder
from fewbits.models.views import View

__all__ = [
    "EXPERT",
    "Architecture",
    "GroupFact",
    "ImpliedFact",
    "LocalRope",
    "MetadataFact",
    "SettledFact",
    "SparseFact",
    "StreamFact",
    "TensorFact",
    "View",
    "add_architecture",
    "architectures",
    "for_config",
    "for_gguf",
    "is_encoder",
    "parts_of",
]
