"""How unlike the calibration text is to what the model will see: by tokens, and by what reaches its matrices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from fewbits.errors import CalibrationError

Ids = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]

FAR = 1.5
"""Texts are unlike where their divergence is so many times that of the same windows dealt at random.

With two tokenizers, draws from one collection of documents stayed below that, and other kinds of text above.
"""

FAR_COSINE = 0.99
"""Inputs are unlike where the cosine of mean squares is lower at half of the sites.

In a small model, draws from one collection stayed above that, and other kinds of text below.
"""

WINDOW = 256
"""Tokens that are dealt together: words of one page belong together, and single tokens would look alike too soon."""

DEALS = 16


@dataclass(frozen=True)
class Seen:
    """A text as a model sees it: ids of any shape, and by site the mean squares (cols,) of inputs, if measured."""

    ids: npt.ArrayLike
    squares: Mapping[str, npt.ArrayLike] = field(default_factory=dict)


@dataclass(frozen=True)
class TokenUnlikeness:
    """How far apart the frequencies of tokens are."""

    tokens: int
    """Of the target."""
    unseen: float
    """Share of the target's tokens whose id never occurs in the calibration text."""
    kl_bits: float
    """Kullback-Leibler divergence of the target from the calibration text, each id counted half a time more."""
    js_bits: float
    """Jensen-Shannon divergence: 0 where frequencies are the same, 1 where no token is in both."""
    js_bits_by_chance: float
    """The same of all their windows dealt at random into two texts of these sizes: what few tokens alone make of it."""

    @property
    def far(self) -> bool:
        """Whether the divergence is more than chance explains."""
        return self.js_bits > FAR * self.js_bits_by_chance


@dataclass(frozen=True)
class SiteUnlikeness:
    """How far apart the inputs of one matrix are."""

    cosine: float
    """Of the mean squares per column: 1 where the same columns matter, in the same proportions."""
    ratio: float
    """Mean square of the target's inputs over that of the calibration text's; infinite where the latter is 0."""

    def to_json(self) -> dict[str, float | None]:
        """As plain data; what is infinite is None."""
        return {"cosine": round(self.cosine, 6), "ratio": round(self.ratio, 6) if isfinite(self.ratio) else None}


@dataclass(frozen=True)
class Unlikeness:
    """How unlike the calibration text is to a target, and to each group of it."""

    tokens: TokenUnlikeness
    sites: Mapping[str, SiteUnlikeness]
    groups: Mapping[str, Unlikeness]

    @property
    def far(self) -> bool:
        """Whether tokens or inputs are unlike, of all or of a group."""
        inputs = bool(self.sites) and median(site.cosine for site in self.sites.values()) < FAR_COSINE
        return self.tokens.far or inputs or any(group.far for group in self.groups.values())

    def sentences(self) -> tuple[str, ...]:
        """What a person should know: the verdict with its figures, and each group that is unlike."""
        t = self.tokens
        figures = (
            f"{t.unseen:.1%} of {t.tokens:,} tokens never occur in the calibration text, and frequencies differ by "
            f"{t.js_bits:.3f} bits, {t.js_bits_by_chance:.3f} by chance"
        )
        if self.sites:
            worst = min(self.sites, key=lambda name: self.sites[name].cosine)
            figures += f"; inputs are least alike at {worst}, with a cosine of {self.sites[worst].cosine:.3f}"
        alone = Unlikeness(self.tokens, self.sites, {})
        verdict = (
            "The calibration text is unlike the target, so calibrate on text of the target's kind"
            if alone.far
            else "The calibration text is like the target"
        )
        unlike = [(name, group) for name, group in self.groups.items() if group.far]
        return (f"{verdict}: {figures}.", *(_of_group(name, group) for name, group in unlike))

    def to_json(self) -> dict[str, Any]:
        """As plain data, for the card."""
        return {
            "far": self.far,
            "tokens": {**vars(self.tokens), "far": self.tokens.far},
            "sites": {name: site.to_json() for name, site in self.sites.items()},
            "groups": {name: group.to_json() for name, group in self.groups.items()},
        }


def _of_group(name: str, group: Unlikeness) -> str:
    return (
        f"The calibration text is unlike group {name}: {group.tokens.unseen:.1%} of its {group.tokens.tokens:,} tokens "
        f"never occur, and frequencies differ by {group.tokens.js_bits:.3f} bits, "
        f"{group.tokens.js_bits_by_chance:.3f} by chance."
    )


def unlikeness(
    calibration: Seen, target: Seen, size: int, *, groups: Mapping[str, Seen] | None = None, seed: int = 0
) -> Unlikeness:
    """How unlike `target`, and each of its `groups`, is to the `calibration` text; a vocabulary has `size` tokens.

    Chance is dealt from `seed`. Raises CalibrationError where a text has no tokens, ids that the vocabulary lacks, or
    sites of another width.

    >>> text = np.arange(4096) % 64
    >>> report = unlikeness(Seen(text), Seen(text[:1024] + 32), 128)
    >>> report.far, report.tokens.unseen, round(report.tokens.js_bits, 2)
    (True, 0.5, 0.5)
    """
    return Unlikeness(
        _of_tokens(calibration, target, size, seed),
        _of_sites(calibration, target),
        {name: unlikeness(calibration, group, size, seed=seed) for name, group in (groups or {}).items()},
    )


def _of_tokens(calibration: Seen, target: Seen, size: int, seed: int) -> TokenUnlikeness:
    seen, wanted = (_ids(text, size) for text in (calibration, target))
    q, p = (np.bincount(ids, minlength=size) for ids in (seen, wanted))
    smooth_p, smooth_q = ((counts + 0.5) / (counts.sum() + 0.5 * size) for counts in (p, q))
    return TokenUnlikeness(
        tokens=wanted.size,
        unseen=float(p[q == 0].sum() / wanted.size),
        kl_bits=float(smooth_p @ np.log2(smooth_p / smooth_q)),
        js_bits=_divergence(p, q),
        js_bits_by_chance=_by_chance(seen, wanted, size, seed),
    )


def _ids(text: Seen, size: int) -> Ids:
    ids = np.asarray(text.ids, dtype=np.int64).ravel()
    if not ids.size:
        raise CalibrationError("a text without tokens cannot be compared; give one of at least some pages.")
    if ids.min() < 0 or ids.max() >= size:
        raise CalibrationError(f"a token id is outside of the vocabulary of {size}; the text belongs to another model.")
    return ids


def _entropy(frequencies: Doubles) -> float:
    held = frequencies[frequencies > 0]
    return float(-(held @ np.log2(held)))


def _divergence(p: npt.NDArray[Any], q: npt.NDArray[Any]) -> float:
    """The Jensen-Shannon divergence in bits of two counts of tokens (Lin 1991, equation 4.1, with even weights)."""
    p, q = p / p.sum(), q / q.sum()
    return min(1.0, max(0.0, _entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2))


def _by_chance(seen: Ids, wanted: Ids, size: int, seed: int) -> float:
    """The mean divergence of all windows dealt at random into two texts of about these sizes."""
    width = min(WINDOW, seen.size, wanted.size)
    first, second = (ids[: ids.size // width * width].reshape(-1, width) for ids in (seen, wanted))
    windows, cut, found = np.concatenate([first, second]), len(first), []
    chance = np.random.default_rng(seed)
    for _ in range(DEALS):
        dealt = windows[chance.permutation(len(windows))]
        found.append(_divergence(*(np.bincount(part.ravel(), minlength=size) for part in (dealt[:cut], dealt[cut:]))))
    return float(np.mean(found))


def _of_sites(calibration: Seen, target: Seen) -> dict[str, SiteUnlikeness]:
    """Sites that were measured on both texts."""
    found = {}
    for name in calibration.squares:
        if name in target.squares:
            q, p = (np.asarray(text.squares[name], dtype=np.float64).ravel() for text in (calibration, target))
            if p.shape != q.shape:
                raise CalibrationError(f"{name} has {p.size} columns in one text and {q.size} in the other; a bug.")
            size = float(np.sqrt((p @ p) * (q @ q)))
            cosine = float(p @ q) / size if size > 0 else float(not p.any() and not q.any())
            found[name] = SiteUnlikeness(cosine, float(p.mean() / q.mean()) if q.any() else float("inf"))
    return found


WANTED = 4096
"""Tokens that should reach a matrix, so that its statistics are not those of a few sentences."""


def tokens_report(reached: Mapping[str, Iterable[int]], *, wanted: int = WANTED) -> tuple[str, ...]:
    """A sentence for each matrix, or stack of experts, that too few tokens reached.

    `reached` has the numbers of tokens by site, one for a matrix and one per expert for a stack.

    >>> tokens_report({"blk.0.ffn_up_exps": [9000, 612, 4096], "blk.0.attn_q": [13708]})
    ('blk.0.ffn_up_exps: 612 tokens reached expert 1; 4,096 wanted.',)
    """
    return tuple(
        sentence for name, counts in reached.items() for sentence in _few(name, [int(n) for n in counts], wanted)
    )


def _few(name: str, counts: list[int], wanted: int) -> list[str]:
    few = [expert for expert, tokens in enumerate(counts) if tokens < wanted]
    if not few:
        return []
    worst = min(few, key=lambda expert: counts[expert])
    tokens = "no token" if counts[worst] == 0 else "1 token" if counts[worst] == 1 else f"{counts[worst]:,} tokens"
    where = "it" if len(counts) == 1 else f"expert {worst}"
    rest = f", and {len(few) - 1} more of {len(counts)} experts had fewer" if len(few) > 1 else ""
    return [f"{name}: {tokens} reached {where}; {wanted:,} wanted{rest}."]
