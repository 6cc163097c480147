"""Tensor names between Hugging Face checkpoints and GGUF files."""

from __future__ import annotations

from collections.abc import Callable

from fewbits.models import Architecture

_SUFFIXES = (".weight", ".bias")


def to_gguf(architecture: Architecture, layers: int) -> Callable[[str], str | None]:
    """A function from a Hugging Face tensor name to its GGUF name, by the gguf package's own map; None = no name."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    number = next((arch for arch, name in MODEL_ARCH_NAMES.items() if name == architecture.gguf), None)
    if number is None:
        return lambda name: None
    table = get_tensor_name_map(number, layers)

    def name_in_gguf(name: str) -> str | None:
        return table.get_name(name, try_suffixes=_SUFFIXES)

    return name_in_gguf
