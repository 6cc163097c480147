"""Which files of a hub repository a conversion can need; of weights, one copy."""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatchcase

from fewbits.errors import HubError

_SMALL = ("*.json", "*.jinja")
"""Configuration and tokenizer, in folders too (a sentence encoder's steps)."""
_SINGLE = ("tokenizer.model", "vocab.txt", "merges.txt", "README.md")

_WEIGHTS = (
    ("model.safetensors.index.json", "model-*.safetensors"),
    ("model.safetensors", "model.safetensors"),
)
"""A file that has to be there -> the weights that come with it; the first that is there is taken."""

_PICKLED = (
    ("pytorch_model.bin.index.json", "pytorch_model-*.bin"),
    ("pytorch_model.bin", "pytorch_model.bin"),
)
"""The same for PyTorch's own files, which only those who allow them get."""


def wanted(repository: str, names: Collection[str], *, pickles: bool) -> list[str]:
    """The files to fetch, small ones first; raises HubError where the repository holds no weights that can be read.

    >>> wanted("a/b", ["config.json", "model.safetensors", "pytorch_model.bin", "onnx/model.onnx"], pickles=True)
    ['config.json', 'model.safetensors']
    """
    if "config.json" not in names:
        raise HubError(f"{repository} {_instead(names)}; give the repository of the original model.")
    kinds = (*_WEIGHTS, *_PICKLED) if pickles else _WEIGHTS
    pattern = next((weights for sign, weights in kinds if sign in names), None)
    if pattern is None:
        raise HubError(f"{repository} {_instead(names)}; {_remedy(names)}.")
    small = sorted(n for n in names if n in _SINGLE or any(fnmatchcase(n, each) for each in _SMALL))
    return [*small, *sorted(n for n in names if "/" not in n and fnmatchcase(n, pattern))]


def _instead(names: Collection[str]) -> str:
    """What the repository has instead of a model that can be read."""
    for ending, text in ((".gguf", "GGUF files"), (".bin", "pickles"), (".safetensors", "safetensors")):
        found = sorted(n for n in names if n.endswith(ending))
        if found:
            lack = "no config.json" if "config.json" not in names else "no model.safetensors"
            return f"has {lack}, but {text} ({found[0]})"
    return "holds no model (neither config.json with safetensors nor anything else of one)"


def _remedy(names: Collection[str]) -> str:
    if any(sign in names for sign, _ in _PICKLED):
        return (
            "a pickle can run code when opened and is refused; `fewbits quantize --allow-pickle` reads its numbers and "
            "nothing else"
        )
    return "give the repository of the original model, with safetensors"
