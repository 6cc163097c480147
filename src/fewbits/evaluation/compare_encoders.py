"""What quantization cost an encoder: states and embeddings of two models over the same windows of one text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fewbits.errors import EvaluationError
from fewbits.evaluation.embeddings import EmbeddingTally
from fewbits.evaluation.metrics import Estimate, estimate
from fewbits.evaluation.model_files import LoadedModel, ModelFile
from fewbits.evaluation.text import Ids

if TYPE_CHECKING:
    import torch

USUAL_POOLING = "mean"
"""Taken where a model does not say how it pools."""

PROTOCOL = (
    "windows of {context} tokens that do not overlap, token {start} at the head and {closing} at the end of each; a "
    "window's embedding is {pooling} of the states of all its tokens; weights are decoded to float32 and activations "
    "not rounded"
)

_POOLINGS = {"mean": "the mean", "cls": "the first", "last": "the last"}

_ESTIMATES = {
    "embedding_cosine": "embedding_cosine_mean",
    "token_cosine": "token_cosine_mean",
    "state_error": "state_error_mean",
    "nearest": "nearest_agreement",
}
"""Field -> key of its value in JSON."""


@dataclass(frozen=True)
class EncoderComparison:
    """The cost of quantization of an encoder on one text, of original against quantized.

    Standard errors and 95% intervals are over windows (Student's t); percentiles are exact.
    """

    original: str
    quantized: str
    text: str
    text_sha256: str
    context: int
    windows: int
    tokens: int
    """Tokens of all windows, each of which has a state."""
    pooling: str
    """How the states of a window become its embedding: "mean", "cls" or "last"."""
    embedding_cosine: Estimate
    embedding_cosine_p1: float
    """The cosine that 1% of the windows stay below."""
    embedding_cosine_min: float
    token_cosine: Estimate
    token_cosine_p1: float
    token_cosine_min: float
    state_error: Estimate
    """|q - p|^2 / |p|^2 of the states of a token, on average."""
    nearest: Estimate
    """Share of the windows whose nearest other one, by cosine of embeddings, is the same for both models."""
    bytes_original: int
    """Bytes of the weight files."""
    bytes_quantized: int
    bits_per_weight: float
    """Stored bits of the quantized model's tensors over its number of weights."""
    dtype: str
    """What both models were evaluated in."""
    protocol: str
    notes: tuple[str, ...]
    """What was done otherwise than asked, one sentence each."""
    versions: dict[str, str]
    errors_per_window: tuple[float, ...] = ()
    """Mean state error of each, so that two files can be compared window by window; not in the JSON."""

    def to_json(self) -> dict[str, Any]:
        """The comparison as plain data, one key per figure."""
        data = asdict(self)
        for name, key in _ESTIMATES.items():
            del data[name]
            data |= getattr(self, name).to_json(key)
        data["notes"] = list(self.notes)
        del data["errors_per_window"]
        return data


def require_one_kind(files: tuple[ModelFile, ModelFile]) -> None:
    """Raise EvaluationError where one model is an encoder and the other continues text."""
    if files[0].encoder != files[1].encoder:
        encoder, other = files if files[0].encoder else files[::-1]
        raise EvaluationError(
            f"{encoder.path} is an encoder and {other.path} continues text; only models of one kind can be compared."
        )


def pooling_of(files: tuple[ModelFile, ModelFile]) -> tuple[str, tuple[str, ...]]:
    """The pooling of both encoders and a note where neither says one; raises EvaluationError where they differ."""
    stated = [file.pooling for file in files]
    known = {mode for mode in stated if mode is not None}
    if len(known) > 1:
        raise EvaluationError(
            f"{files[0].path} makes embeddings by pooling '{stated[0]}' and {files[1].path} by '{stated[1]}'; these "
            "are not one model: correct the file whose word is wrong."
        )
    if known:
        return known.pop(), ()
    note = f"Neither model says how states become one embedding; their {USUAL_POOLING} was taken."
    return USUAL_POOLING, (note,)


def score_encoders(
    original: LoadedModel, quantized: LoadedModel, windows: Ids, mode: str, progress: Callable[[int, int], None] | None
) -> EmbeddingTally:
    """Both models over all windows (windows, length); raises EvaluationError where one answers no number."""
    import torch

    tally = EmbeddingTally(mode)
    for number, window in enumerate(windows, start=1):
        ids = torch.from_numpy(window)
        tally.add(*(_states(model, ids, number, len(windows)) for model in (original, quantized)))
        if progress is not None:
            progress(number, len(windows))
    return tally


def _states(model: LoadedModel, ids: torch.Tensor, number: int, total: int) -> torch.Tensor:
    states = model.states(ids)
    if not bool(states.isfinite().all()):
        raise EvaluationError(
            f"{model.path}: the model answers NaN or infinity in window {number} of {total}; its weights are damaged "
            "or overflow in float32, so no comparison can be made."
        )
    return states


def encoder_figures(tally: EmbeddingTally) -> dict[str, Any]:
    """What EncoderComparison says of the windows."""
    embeddings, tokens = tally.embedding_cosines(), tally.token_cosines()
    return {
        "tokens": tokens.size,
        "pooling": tally.mode,
        "embedding_cosine": estimate(embeddings.tolist()),
        "embedding_cosine_p1": float(np.percentile(embeddings, 1)),
        "embedding_cosine_min": float(embeddings.min()),
        "token_cosine": tally.per_window(tally.tokens),
        "token_cosine_p1": float(np.percentile(tokens, 1)),
        "token_cosine_min": float(tokens.min()),
        "state_error": tally.per_window(tally.errors),
        "errors_per_window": tuple(float(numbers.mean()) for numbers in tally.errors),
        "nearest": tally.same_nearest(),
    }


def encoder_protocol(context: int, start: int | None, closing: int | None, mode: str) -> str:
    """How it was measured, in a sentence."""
    return PROTOCOL.format(context=context, start=start, closing=closing, pooling=_POOLINGS[mode])
