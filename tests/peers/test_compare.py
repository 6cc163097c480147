"""What `compare` says of a file is what llama.cpp does with it: same tokens, same windows, same scored half."""

from __future__ import annotations

import math
import pydoc_data.topics
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import fewbits
from fewbits.evaluation.model_files import open_model
from fewbits.evaluation.text import cut_windows, scored_positions
from references.gguf_files import write_gguf

llama_cpp = pytest.importorskip("llama_cpp")

POCKET = Path(__file__).parents[2] / "examples" / "models" / "pocket-llama"
CONTEXT, TOKENS = 256, 4096

Floats = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "topics.txt"
    path.write_text("\n".join(pydoc_data.topics.topics.values()), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The embedded model as our own F16 and Q4_K_M files."""
    folder = tmp_path_factory.mktemp("ours")
    files = {recipe: folder / f"{recipe}.gguf" for recipe in ("F16", "Q4_K_M")}
    for recipe, file in files.items():
        fewbits.quantize(POCKET, file, to=recipe)
    return files


def _llama(path: Path) -> llama_cpp.Llama:
    return llama_cpp.Llama(str(path), n_ctx=CONTEXT, n_batch=CONTEXT, logits_all=True, n_threads=2, verbose=False)


def _windows(text: Path) -> npt.NDArray[np.int64]:
    ids = open_model(POCKET).vocabulary().encode(text.read_text(encoding="utf-8"))
    return cut_windows(ids[:TOKENS], CONTEXT, None)


def _log_probabilities(path: Path, windows: npt.NDArray[np.int64]) -> Floats:
    """llama.cpp's ln P (windows, scored, vocabulary) in float64."""
    model, scored = _llama(path), scored_positions(CONTEXT)
    rows = []
    for window in windows:
        model.reset()
        model.eval(window.tolist())
        logits = np.array(model.scores[scored.start : scored.stop], dtype=np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        rows.append(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))
    return np.stack(rows)


def _kl(p: Floats, q: Floats) -> float:
    return float((np.exp(p) * (p - q)).sum(axis=-1).mean())


def _perplexity(log_probabilities: Floats, windows: npt.NDArray[np.int64]) -> float:
    targets = windows[:, CONTEXT // 2 + 1 :, None]
    return math.exp(-float(np.take_along_axis(log_probabilities, targets, axis=2).mean()))


def test_the_cost_of_our_q4_k_m_is_what_llama_cpp_pays(text: Path, ours: dict[str, Path]) -> None:
    result = fewbits.compare(ours["F16"], ours["Q4_K_M"], text=text, context=CONTEXT, max_tokens=TOKENS)
    windows = _windows(text)
    p, q = (_log_probabilities(ours[recipe], windows) for recipe in ("F16", "Q4_K_M"))
    assert result.tokens == p.shape[0] * p.shape[1]
    assert result.kl_divergence_mean == pytest.approx(_kl(p, q), rel=0.1)
    assert result.perplexity_original == pytest.approx(_perplexity(p, windows), rel=2e-3)
    assert result.perplexity_quantized == pytest.approx(_perplexity(q, windows), rel=1e-2)
    assert result.top1_agreement == pytest.approx(float((p.argmax(-1) == q.argmax(-1)).mean()), abs=0.02)


def test_the_cost_of_another_writers_file(text: Path, tmp_path: Path) -> None:
    original = write_gguf(POCKET, tmp_path / "f16.gguf")
    quantized = write_gguf(POCKET, tmp_path / "q4_0.gguf", kind="Q4_0")
    result = fewbits.compare(original, quantized, text=text, context=CONTEXT, max_tokens=TOKENS)
    windows = _windows(text)
    expected = _kl(_log_probabilities(original, windows), _log_probabilities(quantized, windows))
    assert result.kl_divergence_mean == pytest.approx(expected, rel=0.05)
