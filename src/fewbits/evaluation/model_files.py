"""A model on disk as something that can be evaluated, whatever its container: sizes, tokens, and a network.

Opening one reads headers only, so that everything that can be refused is refused before a weight is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from fewbits.errors import EvaluationError

if TYPE_CHECKING:
    import torch

SAFE: Mapping[str, Any] = MappingProxyType({"local_files_only": True, "trust_remote_code": False})
"""How transformers opens a directory: nothing is downloaded and no code of the checkpoint runs."""


class Vocabulary(Protocol):
    """The tokens of a model."""

    @property
    def size(self) -> int:
        """Number of tokens that the model predicts."""

    @property
    def start_token(self) -> int | None:
        """The id that the tokenizer puts in front of a text; None where it adds none."""

    def encode(self, text: str) -> Sequence[int]:
        """Token ids of `text`, without a start or an end token."""

    def token(self, index: int) -> str | None:
        """The token of an id as it is stored; None where the id has none."""


@dataclass(frozen=True)
class LoadedModel:
    """A network in memory: float32 weights, ready for `logits`."""

    path: Path
    network: torch.nn.Module
    rounded: Mapping[str, int] = field(default_factory=dict)
    """Rounding of inputs -> how many matrices of the network get theirs so."""

    def logits(self, ids: torch.Tensor, first: int = 0) -> torch.Tensor:
        """Float32 logits (tokens - first, vocabulary) after each of `ids` (tokens,) from position `first` on."""
        options: dict[str, Any] = {"use_cache": False}
        # The head of a large vocabulary is half of a small model's work: it is spared where nothing is scored.
        if "logits_to_keep" in signature(self.network.forward).parameters:
            options["logits_to_keep"] = len(ids) - first
        out: torch.Tensor = self.network(input_ids=ids[None], **options).logits[0]
        return out[first - len(ids) :].float()

    def states(self, ids: torch.Tensor) -> torch.Tensor:
        """An encoder's float32 states (tokens, hidden) of `ids` (tokens,), behind its last layer."""
        out: torch.Tensor = self.network(input_ids=ids[None]).last_hidden_state[0]
        return out.float()


class ModelFile(Protocol):
    """A model on disk whose headers were read."""

    @property
    def path(self) -> Path:
        """Where the model lies."""

    @property
    def context_limit(self) -> int:
        """Most tokens that the model was made for."""

    @property
    def encoder(self) -> bool:
        """Whether the model answers with states and continues no text."""

    @property
    def pooling(self) -> str | None:
        """How an encoder's states become one embedding: "mean", "cls" or "last"; None where nothing says so."""

    def vocabulary(self) -> Vocabulary:
        """The model's tokens; raises EvaluationError when its tokenizer cannot be read."""

    def load(self) -> LoadedModel:
        """The network with every parameter filled from the file; raises EvaluationError naming what does not fit."""


def open_model(path: str | Path) -> ModelFile:
    """Open a Hugging Face directory or a GGUF file; raises EvaluationError or CheckpointError when it is neither."""
    path = Path(path)
    if not path.exists():
        raise EvaluationError(f"{path}: there is no such model.")
    if path.is_dir():
        from fewbits.checkpoints.dialects.reader import open_quantized
        from fewbits.evaluation.fields_model import FieldsModel
        from fewbits.evaluation.huggingface_model import HuggingFaceModel

        quantized = open_quantized(path) if (path / "config.json").is_file() else None
        return FieldsModel.open(path, quantized) if quantized else HuggingFaceModel.open(path)
    if path.suffix.lower() == ".onnx":
        raise EvaluationError(
            f"{path} is an ONNX graph, which says nothing of tokens or layers; compare the model directories that such "
            "graphs were exported from, or the outputs of ONNX Runtime."
        )
    from fewbits.evaluation.gguf_model import GGUFModel

    return GGUFModel.open(path)


_IMPORTED = ("torchao", "torch.utils._pytree")
"""Who speaks up while transformers imports torchao, which it does wherever that is installed."""


@contextmanager
def quiet_transformers() -> Iterator[Any]:
    """The transformers package with its warnings and progress bars off; both are put back afterwards."""
    import logging as standard

    import transformers
    from transformers.utils import logging as untyped

    logging: Any = untyped
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    others = {each: each.level for each in map(standard.getLogger, _IMPORTED)}
    for each in others:
        each.setLevel(standard.ERROR)
    try:
        yield transformers
    finally:
        for each, own in others.items():
            each.setLevel(own)
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def first_sentence(error: BaseException) -> str:
    """The first line of another package's error message, without its full stop."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")
