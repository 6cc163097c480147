"""fewbits quantizes AI models and proves what it cost: `quantize`, `convert`, `compare` and `inspect`.

The verbs are imported on first use, so that `import fewbits` stays fast and loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fewbits.errors import FewbitsError

if TYPE_CHECKING:
    from fewbits import formats, static, training
    from fewbits.conversion.convert import convert
    from fewbits.engine.chat import chat
    from fewbits.engine.run import run
    from fewbits.evaluation.compare import compare
    from fewbits.explanation.explain import explain
    from fewbits.hub.push import push
    from fewbits.inspection import inspect
    from fewbits.loading.config import Config
    from fewbits.loading.load import load
    from fewbits.loading.tokens import load_tokenizer
    from fewbits.quantizing import quantize
    from fewbits.speed.bench import bench
    from fewbits.training.finetuning import finetune
    from fewbits.training.teaching import qat

    __version__: str

__all__ = [
    "Config",
    "FewbitsError",
    "__version__",
    "bench",
    "chat",
    "compare",
    "convert",
    "explain",
    "finetune",
    "formats",
    "inspect",
    "load",
    "load_tokenizer",
    "push",
    "qat",
    "quantize",
    "run",
    "static",
    "training",
]

_VERBS = {
    "Config": "fewbits.transformers",
    "bench": "fewbits.speed.bench",
    "chat": "fewbits.engine.chat",
    "compare": "fewbits.evaluation.compare",
    "convert": "fewbits.conversion.convert",
    "explain": "fewbits.explanation.explain",
    "finetune": "fewbits.training.finetuning",
    "inspect": "fewbits.inspection",
    "load": "fewbits.loading.load",
    "load_tokenizer": "fewbits.loading.tokens",
    "push": "fewbits.hub.push",
    "qat": "fewbits.training.teaching",
    "quantize": "fewbits.quantizing",
    "run": "fewbits.engine.run",
}


def __getattr__(name: str) -> Any:
    if name in _VERBS:
        value = getattr(import_module(_VERBS[name]), name)
    elif name in {"formats", "static", "training"}:
        value = import_module(f"fewbits.{name}")
    elif name == "__version__":
        value = _version()
    else:
        raise AttributeError(f"module 'fewbits' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("fewbits")
    except PackageNotFoundError:
        return "0+not-installed"
