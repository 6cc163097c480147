"""What quantization cost: two models over the same windows of one text."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fewbits.errors import EvaluationError
from fewbits.evaluation.compare_encoders import (
    EncoderComparison,
    encoder_figures,
    encoder_protocol,
    pooling_of,
    require_one_kind,
    score_encoders,
)
from fewbits.evaluation.metrics import Estimate, Tally, estimate, score_window
from fewbits.evaluation.model_files import LoadedModel, ModelFile, Vocabulary, open_model
from fewbits.evaluation.text import Ids, evaluation_windows, read_text, scored_positions
from fewbits.evaluation.threads import threads_of
from fewbits.hub.locating import locate
from fewbits.models import add_architecture

if TYPE_CHECKING:
    import torch

Progress = Callable[[int, int], None]

PROTOCOL = (
    "windows of {context} tokens that do not overlap, {start}; the second half of each window is scored "
    "({scored} tokens), as llama.cpp's perplexity tool does; weights are decoded to float32 and {inputs}"
)


@dataclass(frozen=True)
class Comparison:
    """The cost of quantization on one text; KL divergences in nats per scored token, of original against quantized.

    Standard errors and 95% intervals are over windows (Student's t); the percentiles of KL are exact, over tokens.
    """

    original: str
    quantized: str
    text: str
    text_sha256: str
    context: int
    windows: int
    tokens: int
    """Scored tokens."""
    perplexity_original: float
    perplexity_quantized: float
    perplexity_ratio: Estimate
    kl_divergence_mean: float
    kl_divergence: Estimate
    kl_divergence_median: float
    kl_divergence_p99: float
    kl_divergence_p999: float
    kl_divergence_max: float
    top1_agreement: float
    top1: Estimate
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
    kl_per_window: tuple[float, ...] = ()
    """Mean per window, so that two files measured on one text can be compared window by window; not in the JSON."""

    def to_json(self) -> dict[str, Any]:
        """The comparison as plain data, one key per figure."""
        data = asdict(self)
        for name, key in (
            ("perplexity_ratio", "perplexity_ratio"),
            ("kl_divergence", "kl_divergence_mean"),
            ("top1", "top1_agreement"),
        ):
            del data[name]
            data |= getattr(self, name).to_json(key)
        data["notes"] = list(self.notes)
        del data["kl_per_window"]
        return data


def compare(
    original: str | Path,
    quantized: str | Path,
    *,
    text: str | Path,
    context: int = 512,
    threads: int | None = None,
    max_tokens: int | None = None,
    architecture: str | Path | None = None,
    progress: Progress | None = None,
) -> Comparison | EncoderComparison:
    """Measure perplexity, KL divergence and top-1 agreement of `quantized` against `original` on a text file.

    Of encoders, which predict nothing, the angles between the states of tokens and between embeddings of windows.

    Both are Hugging Face directories, hub ids of such, or GGUF files, and read the same token ids (the original's
    tokenizer): windows of `context` tokens that do not overlap, each with the tokenizer's start token (if it adds one)
    at its head, of which only the second half is scored, as llama.cpp's perplexity tool does. A GGUF file is evaluated
    through its decoded weights in transformers, in float32: the cost is that of the weights alone, where llama.cpp also
    rounds activations to 8 bits (which shows only beside Q8_0). A directory whose matrices round their inputs is
    evaluated so, with the codes and scales of the kernels. `max_tokens` bounds the tokens read; `progress(done, total)`
    is called after each window. `architecture` is a TOML file as `quantize` takes it. Raises EvaluationError when a
    model or the text cannot be evaluated.
    """
    import torch

    if architecture is not None:
        add_architecture(Path(architecture))
    source = read_text(text)
    places = [locate(str(path)).path for path in (original, quantized)]
    files = open_model(places[0]), open_model(places[1])
    require_one_kind(files)
    vocabulary = files[0].vocabulary()
    notes, context = _fit_context(context, files)
    ids = vocabulary.encode(source.content)
    closing = getattr(vocabulary, "closing_token", None)
    windows = evaluation_windows(
        ids, context, vocabulary.start_token, max_tokens=max_tokens, source=str(source.path), closing_token=closing
    )
    _require_same_tokens(vocabulary, files[1], windows)
    common: dict[str, Any] = {
        "original": str(original),
        "quantized": str(quantized),
        "text": str(source.path),
        "text_sha256": source.sha256,
        "context": context,
        "windows": len(windows),
        "dtype": "float32",
        "versions": _versions(),
        **_sizes(*places),
    }
    with torch.inference_mode(), threads_of(threads):
        if files[0].encoder:
            mode, unsaid = pooling_of(files)
            protocol = encoder_protocol(context, vocabulary.start_token, closing, mode)
            angles = encoder_figures(score_encoders(files[0].load(), files[1].load(), windows, mode, progress))
            return EncoderComparison(**common, **angles, protocol=protocol, notes=(*notes, *unsaid))
        models = files[0].load(), files[1].load()
        figures = _figures(_score(*models, windows, progress))
    return Comparison(**common, **figures, protocol=_protocol(context, vocabulary.start_token, models), notes=notes)


def _fit_context(asked: int, files: tuple[ModelFile, ModelFile]) -> tuple[tuple[str, ...], int]:
    """The context that both models can take, and a note when it is not the one asked for."""
    smallest = min(files, key=lambda f: f.context_limit)
    if asked <= smallest.context_limit:
        return (), asked
    limit = smallest.context_limit
    return (f"The context was shrunk from {asked} to {limit} tokens, the limit of {smallest.path}.",), limit


def _require_same_tokens(vocabulary: Vocabulary, quantized: ModelFile, windows: Ids) -> None:
    """Refuse a quantized model for which the ids of this text mean other tokens."""
    other = quantized.vocabulary()
    if other.size != vocabulary.size:
        raise EvaluationError(
            f"{quantized.path}: its vocabulary has {other.size} tokens and the original's {vocabulary.size}; only "
            "models with the same tokens can be compared."
        )
    for index in np.unique(windows).tolist():
        here, there = vocabulary.token(index), other.token(index)
        if _plain(here) != _plain(there):
            raise EvaluationError(
                f"{quantized.path}: token {index} is {there!r} there and {here!r} in the original; only models with "
                "the same tokens can be compared."
            )


def _plain(token: str | None) -> str | None:
    """SentencePiece's mark for a space as the space that other files store."""
    return token if token is None else token.replace("\u2581", " ")


def _score(original: LoadedModel, quantized: LoadedModel, windows: Ids, progress: Progress | None) -> Tally:
    import torch

    tally = Tally()
    scored = scored_positions(windows.shape[1])
    for number, window in enumerate(windows, start=1):
        ids = torch.from_numpy(window)
        p = _logits(original, "original", ids, scored, number, len(windows))
        q = _logits(quantized, "quantized", ids, scored, number, len(windows))
        tally.add(score_window(p, q, ids[scored.start + 1 : scored.stop + 1].to(p.device)))
        if progress is not None:
            progress(number, len(windows))
    return tally


def _logits(model: LoadedModel, role: str, ids: torch.Tensor, scored: range, number: int, total: int) -> torch.Tensor:
    """The scored rows of one window's logits; raises EvaluationError when they are not numbers."""
    rows = model.logits(ids, scored.start)[: len(scored)]
    if not bool(rows.isfinite().all()):
        raise EvaluationError(
            f"{model.path}: the {role} model answers NaN or infinity in window {number} of {total}; its weights are "
            "damaged or overflow in float32, so no comparison can be made."
        )
    return rows


def _figures(tally: Tally) -> dict[str, Any]:
    perplexity_original, perplexity_quantized = tally.perplexities()
    median, p99, p999, largest = tally.kl_percentile(50, 99, 99.9, 100)
    kl, top1 = estimate(tally.kl_means), estimate(tally.agreement)
    return {
        "tokens": tally.tokens,
        "perplexity_original": perplexity_original,
        "perplexity_quantized": perplexity_quantized,
        "perplexity_ratio": tally.perplexity_ratio(),
        "kl_divergence_mean": kl.value,
        "kl_divergence": kl,
        "kl_per_window": tuple(tally.kl_means),
        "kl_divergence_median": median,
        "kl_divergence_p99": p99,
        "kl_divergence_p999": p999,
        "kl_divergence_max": largest,
        "top1_agreement": top1.value,
        "top1": top1,
    }


def _sizes(original: str | Path, quantized: str | Path) -> dict[str, Any]:
    from fewbits.inspection import inspect

    before, after = inspect(original), inspect(quantized)
    return {
        "bytes_original": before.file_bytes,
        "bytes_quantized": after.file_bytes,
        "bits_per_weight": after.bits_per_weight,
    }


def _protocol(context: int, start_token: int | None, models: Iterable[LoadedModel]) -> str:
    counts = {name: count for model in models for name, count in model.rounded.items()}
    kinds = " and ".join(f"{name} of {count} matrices" for name, count in counts.items())
    inputs = f"activations rounded as the file says ({kinds})" if kinds else "activations not rounded"
    start = "no start token" if start_token is None else f"start token {start_token} at the head of each"
    return PROTOCOL.format(context=context, start=start, scored=len(scored_positions(context)), inputs=inputs)


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    import fewbits

    others = {name: version(name) for name in ("torch", "transformers", "tokenizers", "gguf")}
    return {"python": platform.python_version(), "fewbits": fewbits.__version__, **others}
