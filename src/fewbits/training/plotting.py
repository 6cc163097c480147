"""Losses for eyes: a picture by matplotlib (extra `plots`), and logs for TensorBoard (extra `train`)."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewbits.errors import TrainingError
from fewbits.training.fitting.history import History, Step, smooth

if TYPE_CHECKING:
    from fewbits.reporting.training_record import TrainingRecord

PICTURES = (".png", ".svg")
_EACH, _MEAN, _INK, _DIM, _HELD = "#b9c6d4", "#cf4f2a", "#22313f", "#5b6b7a", "#2f6f4f"


def require_drawable(path: Path | None, *, force: bool) -> None:
    """Refuse, before any work, a picture that could not be drawn or written; raises TrainingError."""
    if path is None:
        return
    if find_spec("matplotlib") is None:
        raise TrainingError(
            "a picture is drawn with matplotlib, which is not installed; install it with pip install 'fewbits[plots]', "
            "or leave out --plot."
        )
    if path.suffix.lower() not in PICTURES:
        raise TrainingError(f"{path} ends in neither {' nor '.join(PICTURES)}; name the picture so.")
    if path.is_dir() or not path.parent.is_dir():
        raise TrainingError(f"{path} cannot be written: it is a directory, or its directory does not exist.")
    if path.exists() and not force:
        raise TrainingError(f"{path} exists already; choose another name, or replace it with --force.")


def require_logs(folder: Path | None) -> None:
    """Refuse, before any work, logs that could not be written; raises TrainingError."""
    if folder is None:
        return
    if find_spec("tensorboard") is None:
        raise TrainingError(
            "logs are written with tensorboard, which is not installed; install it with pip install 'fewbits[train]', "
            "or leave out --tensorboard."
        )
    if folder.exists() and not folder.is_dir():
        raise TrainingError(f"{folder} is a file, and logs need a folder; choose another name for --tensorboard.")


def draw_losses(record: TrainingRecord, path: Path) -> None:
    """Write the picture of a training to `path`, which appears complete or not at all."""
    part = path.with_name(f".{path.name}.part")
    try:
        _figure(record).savefig(part, format=path.suffix[1:].lower(), facecolor="white")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _figure(record: TrainingRecord) -> Any:
    from matplotlib.figure import Figure

    history = record.history
    figure = Figure(figsize=(9, 4.6), dpi=150)
    axes: Any = figure.add_subplot()
    steps = range(1, history.steps + 1)
    axes.plot(steps, history.losses, color=_EACH, linewidth=0.9, label="each step")
    axes.plot(steps, smooth(history.losses), color=_MEAN, linewidth=1.6, label="running mean")
    _held(axes, record)
    rates = axes.twinx()
    rates.plot(steps, history.rates, color=_DIM, linewidth=0.8, linestyle=":", label="learning rate")
    rates.set_ylim(bottom=0)
    rates.set_ylabel("learning rate", fontsize=8, color=_DIM)
    axes.set_xlabel("step", fontsize=9)
    preview = record.preview
    axes.set_ylabel(f"{preview.measure}, nats per token", fontsize=9)
    axes.set_title(f"{preview.verb} {Path(preview.source).name}", loc="left", fontsize=11, color=_INK)
    axes.legend(fontsize=8, frameon=False, loc="upper right")
    for each in (axes, rates):
        each.spines[["top"]].set_visible(False)
        each.tick_params(labelsize=8, colors=_DIM, length=2.5)
    figure.tight_layout()
    return figure


def _held(axes: Any, record: TrainingRecord) -> None:
    """What the loss is on what was held out, at either end."""
    if record.loss_before is None or record.loss_after is None:
        return
    places = [0, record.history.steps]
    losses = [record.loss_before, record.loss_after]
    axes.plot(places, losses, color=_HELD, linestyle="", marker="o", markersize=4, label="held out")


class Logs:
    """Writes each step to a folder for TensorBoard; a context manager. Without a folder it does nothing.

    What a run before wrote of steps after `done`, from which this one goes on, no longer counts.
    """

    def __init__(self, folder: Path | None, done: int) -> None:
        self._writer: Any = None
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder), purge_step=done + 1 if done else None)

    def __enter__(self) -> Logs:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def __call__(self, step: Step, history: History) -> None:
        """Write what a step came to."""
        if self._writer is None:
            return
        scalars = {
            "loss": step.loss,
            "learning_rate": step.rate,
            "gradient_norm": step.norm,
            "tokens_per_second": step.tokens / step.seconds,
        }
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step.number)
