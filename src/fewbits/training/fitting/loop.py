"""`fewbits.training.fit`: the loop, which can be broken off anywhere and goes on to the same losses, bit by bit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import torch

from fewbits.errors import TrainingError
from fewbits.memory import PeakMemory
from fewbits.training.fitting.history import History, Step
from fewbits.training.fitting.interrupts import uninterrupted
from fewbits.training.fitting.losses import Loss, next_tokens
from fewbits.training.fitting.optimizers import Groups, make_optimizer, set_rate
from fewbits.training.fitting.order import Batches, as_batches
from fewbits.training.fitting.settings import Settings
from fewbits.training.fitting.state import (
    load_trained,
    read_state,
    read_statement,
    require_same,
    trained_tensors,
    write_state,
)

Progress = Callable[[Step, History], None]
"""progress(the step that was done, everything so far)"""


def _silent(step: Step, history: History) -> None:
    """Report nothing."""


def fit(
    model: torch.nn.Module,
    batches: Batches | Sequence[Any],
    *,
    settings: Settings,
    folder: Path | None,
    progress: Progress = _silent,
    loss: Loss = next_tokens,
    groups: Groups | None = None,
    asked: Mapping[str, Any] | None = None,
    resume: bool = False,
    stop_at: int | None = None,
) -> History:
    """Train what of `model` has gradients on `batches`, and keep the state in `folder` (None: nowhere).

    `batches` is a sequence, which is shuffled anew at each pass, or has an order of its own (`order.Batches`). `loss`
    gives a sum and the number of things summed; `settings.accumulate` batches make a step, whose gradients are those of
    the mean over all of them. `groups` are AdamW's groups of parameters, "rate" a factor of the learning rate.
    `resume=True` goes on from the state in `folder`, to the losses of a run that nothing broke off; `asked` is what it
    must have in common with its beginning, beside the settings. `stop_at` ends after a step, whatever the schedule
    says. An interrupt saves the state. Raises TrainingError where nothing can be trained, or the loss is no number.

    >>> import tempfile
    >>> model, data = torch.nn.Linear(1, 1, bias=False), [torch.tensor([[x]]) for x in (1.0, 2.0)]
    >>> def loss(model, x): return (model(x) - 3 * x).square().sum(), len(x)
    >>> settings = Settings(steps=200, learning_rate=0.1)
    >>> history = fit(model, data, settings=settings, folder=Path(tempfile.mkdtemp()), loss=loss)
    >>> history.losses[-1] < 1e-2 < history.losses[0]
    True
    """
    if not len(batches):
        raise TrainingError("there is no batch to train on; give at least one.")
    row = as_batches(batches, settings.seed)
    facts = {"settings": settings.asked(), **(asked or {})}
    with torch.random.fork_rng(), _prepared(model, settings), PeakMemory() as memory:
        torch.manual_seed(settings.seed)
        run = _Run(model, row, settings, folder, loss, facts, make_optimizer(model, settings, groups))
        run.begin(resume)
        try:
            run.go(min(run.history.total, stop_at or run.history.total), progress, memory)
        except KeyboardInterrupt:
            run.save()
            raise
        run.save()
    return run.history


class _Run:
    """A training under way. Between two steps, and while gradients are found, weights and state belong together."""

    def __init__(
        self,
        model: torch.nn.Module,
        batches: Batches,
        settings: Settings,
        folder: Path | None,
        loss: Loss,
        asked: Mapping[str, Any],
        optimizer: Any,
    ) -> None:
        self.model, self.batches, self.settings, self.folder = model, batches, settings, folder
        self.loss, self.asked, self.optimizer = loss, asked, optimizer
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.history = History(settings.total(len(batches)))
        self.chance = _chance()
        self._saved_at, self._saved_step = time.monotonic(), -1

    def begin(self, resume: bool) -> None:
        """Take up what is in the folder, or make sure that there is nothing."""
        if self.folder is None:
            return
        statement = read_statement(self.folder)
        if not resume:
            if statement is not None:
                raise TrainingError(
                    f"{self.folder} has the state of a training after step {statement.step}; go on with resume, or "
                    "delete it."
                )
            return
        if statement is None:
            raise TrainingError(f"{self.folder} has no state of a training to resume; begin without resume.")
        require_same(self.asked, statement, self.folder)
        state = read_state(self.folder, statement)
        load_trained(self.model, state["model"], self.folder)
        self.optimizer.load_state_dict(state["optimizer"])
        _set_chance(state["chance"])
        self.chance, self.history = state["chance"], statement.history
        self.history.resumed.append(statement.step)
        self._saved_step = statement.step
        if statement.threads != torch.get_num_threads():
            self.history.notes.append(
                f"resumed after step {statement.step} with {torch.get_num_threads()} threads instead of "
                f"{statement.threads}: sums may differ in their last bits from those of a run that nothing broke off"
            )

    def go(self, last: int, progress: Progress, memory: PeakMemory) -> None:
        """Do all steps up to `last`."""
        while self.history.steps < last:
            step = self.step()
            self.history.peak_memory = max(self.history.peak_memory, memory.peak)
            if self._is_time_to_save():
                self.save()
            progress(step, self.history)

    def step(self) -> Step:
        """One step of the optimizer; nothing is changed before all of its gradients are known to be numbers."""
        number, began = self.history.steps, time.perf_counter()
        total, count = self._gradients(number)
        for parameter in self.trained:
            if parameter.grad is not None:
                parameter.grad.div_(max(count, 1))
        norm = float(torch.nn.utils.clip_grad_norm_(self.trained, self.settings.clip or math.inf))
        if not math.isfinite(norm):
            self._fail("the gradients' norm", norm)
        rate = self.settings.rate(number, self.history.total)
        with uninterrupted():
            set_rate(self.optimizer, rate)
            self.optimizer.step()
            seconds = time.perf_counter() - began
            done = Step(number + 1, self.history.total, total / max(count, 1), rate, norm, count, seconds)
            self.history.add(done)
            self.chance = _chance()
        return done

    def save(self) -> None:
        """Write the state of the last step, unless it is written."""
        if self.folder is None or self._saved_step == self.history.steps:
            return
        with uninterrupted():
            tensors = {
                "model": trained_tensors(self.model),
                "optimizer": self.optimizer.state_dict(),
                "chance": self.chance,
            }
            write_state(self.folder, self.asked, self.history, tensors)
            self._saved_at, self._saved_step = time.monotonic(), self.history.steps

    def _gradients(self, number: int) -> tuple[float, int]:
        """The sum of losses of step `number` and of how many; gradients of the sum are left in the parameters."""
        self.optimizer.zero_grad(set_to_none=True)
        total, count = 0.0, 0
        for each in range(self.settings.accumulate):
            batch = self.batches.at(number * self.settings.accumulate + each)
            with _computing(self.model, self.settings.precision):
                loss, things = self.loss(self.model, batch)
            value = float(loss.detach())
            if not math.isfinite(value):
                self._fail("the loss", value)
            loss.backward()  # type: ignore[no-untyped-call]
            total, count = total + value, count + things
        return total, count

    def _fail(self, what: str, value: float) -> None:
        """Say where numbers ceased to be such; weights are still those of the step before, and are kept."""
        number = self.history.steps
        if number:
            self.save()
        kept = "no step before it is kept"
        if number and self.folder is not None:
            kept = f"the last good state, of step {number}, is in {self.folder}"
        raise TrainingError(
            f"{what} is {'NaN' if math.isnan(value) else 'infinite'} at step {number + 1} of {self.history.total}; "
            f"{kept}; begin anew with a lower learning rate or a smaller clip, or look for what is odd in the data."
        )

    def _is_time_to_save(self) -> bool:
        every, minutes = self.settings.save_every, self.settings.save_minutes
        by_steps = every is not None and self.history.steps % every == 0
        return by_steps or (minutes is not None and time.monotonic() - self._saved_at >= 60 * minutes)


def _chance() -> dict[str, Any]:
    """Where torch's random numbers are."""
    found: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        found["cuda"] = torch.cuda.get_rng_state_all()
    return found


def _set_chance(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def _computing(model: torch.nn.Module, precision: str) -> AbstractContextManager[Any]:
    kind = next(model.parameters()).device.type
    return torch.autocast(kind, torch.bfloat16, precision == "bfloat16", cache_enabled=False)


@contextmanager
def _prepared(model: torch.nn.Module, settings: Settings) -> Iterator[None]:
    """`model` as it is while it is trained; its modes are put back."""
    modes = {module: module.training for module in model.modules()}
    with ExitStack() as after:
        if settings.checkpointing:
            after.callback(_checkpointed(model))
        try:
            model.train()
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode


def _checkpointed(model: Any) -> Callable[[], None]:
    """Have `model` compute states twice instead of keeping them; what ends that."""
    names = next((n for n in ("activation", "gradient") if hasattr(model, f"{n}_checkpointing_enable")), None)
    if names is None:
        raise TrainingError(
            f"a {type(model).__name__} cannot compute its states twice (checkpointing): only models of transformers "
            "can; leave it out."
        )
    # transformers 5 has two names, of which it warns against the older one.
    begin, end = (getattr(model, f"{names}_checkpointing_{what}") for what in ("enable", "disable"))
    begin(**{f"{names}_checkpointing_kwargs": {"use_reentrant": False}})
    return cast("Callable[[], None]", end)
