"""Pictures of a tensor in several formats, drawn by matplotlib, which comes with the extra `plots`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewbits.errors import FewbitsError
from fewbits.reporting import figures, strips

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fewbits.explanation.tensor import TensorExplained, TensorInFormat

ACROSS = 3
"""Panels beside each other."""
_BARS = 180
_ORIGINAL, _STORED, _LEVELS, _INK = "#c3cfdd", "#cf4f2a", "#22313f", "#22313f"
_DIM = "#5b6b7a"
_HEAD, _PANEL, _GAP, _FOOT = 1.2, 2.3, 0.9, 0.45
"""Inches: above the panels, of a line of panels, between panels and bars, below the bars."""
_NOTE: dict[str, Any] = {"fontsize": 8, "color": _STORED}
_TALLEST = 2.0
"""A peak higher than so many times the original's is cut, and its height written beside it."""


def require_drawable(path: Path, *, force: bool = False) -> None:
    """Refuse, before any work, a picture that could not be drawn or written; raises FewbitsError."""
    if find_spec("matplotlib") is None:
        raise FewbitsError(
            "a picture is drawn with matplotlib, which is not installed; install it with "
            "pip install 'fewbits[plots]', or leave the picture out."
        )
    if path.suffix.lower() != ".png":
        raise FewbitsError(f"{path} does not end in .png, and that is the only kind of picture drawn here.")
    if path.is_dir() or not path.parent.is_dir():
        raise FewbitsError(f"{path} cannot be written: it is a directory, or its directory does not exist.")
    if path.exists() and not force:
        raise FewbitsError(f"{path} exists already; choose another name, or replace it with --force.")


def draw_tensor(explained: TensorExplained, path: Path) -> None:
    """Write the picture of `explained` to `path`, which appears complete or not at all."""
    part = path.with_name(f".{path.name}.part")
    try:
        _figure(explained).savefig(part, format="png", facecolor="white")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _figure(e: TensorExplained) -> Figure:
    from matplotlib.figure import Figure

    lines = -(-len(e.formats) // ACROSS)
    panels, bars = _PANEL * lines, 0.34 * len(e.formats)
    height = _HEAD + panels + _GAP + bars + _FOOT  # inches, from the top
    figure = Figure(figsize=(12, height), dpi=150)
    above = {"left": 0.04, "right": 0.97, "top": 1 - _HEAD / height, "bottom": 1 - (_HEAD + panels) / height}
    grid: Any = figure.add_gridspec(lines, ACROSS, hspace=0.5, wspace=0.1, **above)
    figure.text(0.04, 1 - 0.38 / height, e.tensor, fontsize=15, weight="bold", color=_INK, va="center")
    figure.text(0.04, 1 - 0.70 / height, _subtitle(e), fontsize=9.5, color=_DIM, va="center")
    for n, each in enumerate(e.formats):
        _panel(figure.add_subplot(grid[n // ACROSS, n % ACROSS]), e, each, first=n == 0)
    longest = max(len(_label(each)) for each in e.formats)
    below = {"left": 0.03 + 0.0066 * longest, "right": 0.97, "top": (_FOOT + bars) / height, "bottom": _FOOT / height}
    rest: Any = figure.add_gridspec(1, 1, **below)
    _errors(figure.add_subplot(rest[0, 0]), e.formats)
    return figure


def _subtitle(e: TensorExplained) -> str:
    shape = " × ".join(map(str, e.shape))
    beyond = f" · {figures.percent(e.beyond / e.numbers_seen)} lie beyond the axes" if e.beyond else ""
    text = f"{Path(e.file).name} · {shape}, stored as {e.stored_as} · root mean square {e.rms:.4g}{beyond}"
    return f"{text} · {e.sampled}" if e.sampled else text


def _panel(axes: Axes, e: TensorExplained, each: TensorInFormat, *, first: bool) -> None:
    """The original filled, what comes back as a line, the levels of one group as marks on the axis."""
    before, after = _coarse(e.histogram), _coarse(each.histogram)
    edges = [e.low + (e.high - e.low) * n / len(before) for n in range(len(before) + 1)]
    axes.stairs(before, edges, fill=True, color=_ORIGINAL, label="original")
    axes.stairs(after, edges, color=_STORED, linewidth=0.9, label="stored")
    tallest = max(before)
    top = min(max(*before, *after), _TALLEST * tallest) * 1.08
    axes.set_ylim(-0.06 * top if each.levels else 0, top)
    if max(after) > top:
        axes.text(0.99, 0.9, f"peak {max(after) / tallest:.1f}×", transform=axes.transAxes, ha="right", **_NOTE)
    inside = [level for level in each.levels if e.low <= level <= e.high]
    axes.vlines(inside, -0.05 * top, -0.01 * top, color=_LEVELS, linewidth=1.0, label="levels of one group")
    title = f"{each.format}   {each.bits_per_weight:.5g} bits   error {figures.error(each.relative_rms)}"
    axes.set_title(title, fontsize=10, color=_INK, loc="left")
    _plain(axes)
    axes.set_xlim(e.low, e.high)
    axes.set_yticks([])
    if first:
        axes.legend(fontsize=7.5, frameon=False, loc="upper left", handlelength=1.2, borderaxespad=0.2)


def _errors(axes: Axes, formats: Sequence[TensorInFormat]) -> None:
    """One bar per format, from the first at the top."""
    shares = [100 * each.relative_rms for each in formats]
    worst = max(shares) or 1.0
    colours = [strips.heat(share, 0, worst) for share in shares]
    places = range(len(formats))
    axes.barh(places, shares, color=colours, height=0.68)
    for place, each, share in zip(places, formats, shares, strict=True):
        text = (
            f" {figures.error(each.relative_rms)}   {figures.size(each.bytes)}, largest error {each.largest_error:.3g}"
        )
        axes.text(share, place, text, va="center", fontsize=8.5, color=_INK)
    axes.set_yticks(places, [_label(each) for each in formats], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.38 * worst)
    axes.set_title("Relative RMS error in percent", fontsize=10, color=_INK, loc="left")
    _plain(axes)


def _label(each: TensorInFormat) -> str:
    return f"{each.format}  ({each.bits_per_weight:.5g} bits)"


def _coarse(histogram: Sequence[int]) -> list[int]:
    each = len(histogram) // _BARS
    return [sum(histogram[n * each : (n + 1) * each]) for n in range(_BARS)]


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#9aa7b3")
    axes.tick_params(labelsize=8, colors=_DIM, length=2.5)
