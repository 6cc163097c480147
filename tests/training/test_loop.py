"""The loop: what it computes beside plain torch, what it saves, and that it goes on to the same numbers."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from fewbits.errors import TrainingError
from fewbits.training import Settings, fit
from fewbits.training.fitting.losses import IGNORED, next_tokens, summed
from fewbits.training.fitting.order import Shuffled
from references.training_runs import Tiny, batches_of, plain_losses, squares

SETTINGS = Settings(steps=12, learning_rate=0.05, warmup=0.25, clip=0.5, accumulate=2, save_every=3)


def trained(folder: Path | None, **options: Any) -> tuple[Tiny, Any]:
    model = Tiny(dropout=options.pop("dropout", 0.2))
    given: dict[str, Any] = {"settings": SETTINGS, "loss": squares, **options}
    return model, fit(model, batches_of(), folder=folder, **given)


class BreakError(Exception):
    """What breaks a run off."""


def breaking_after(step: int, error: type[BaseException] = BreakError) -> Any:
    def progress(done: Any, history: Any) -> None:
        if done.number == step:
            raise error

    return progress


def test_losses_are_those_of_a_loop_written_otherwise(tmp_path: Path) -> None:
    model, history = trained(tmp_path, dropout=0.0)

    losses, weights = plain_losses(SETTINGS)

    assert history.losses == pytest.approx(losses, rel=1e-5)
    assert history.losses[-1] < 0.5 * history.losses[0]
    assert torch.allclose(model.first.weight, weights, atol=1e-6)
    assert history.steps == history.total == 12


@pytest.mark.parametrize(
    ("error", "step"), [*((KeyboardInterrupt, n) for n in (1, 4, 6, 11)), *((BreakError, n) for n in (4, 6, 11))]
)
def test_a_run_that_was_broken_off_gives_the_same_bits(step: int, error: type[BaseException], tmp_path: Path) -> None:
    model, whole = trained(tmp_path / "whole")
    with pytest.raises(error):
        trained(tmp_path / "broken", progress=breaking_after(step, error))

    again, history = trained(tmp_path / "broken", resume=True)

    assert history.losses == whole.losses
    assert history.resumed == [step if error is KeyboardInterrupt else step // 3 * 3]
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_an_interrupt_in_the_middle_of_gradients_keeps_the_step_before(tmp_path: Path) -> None:
    _, whole = trained(tmp_path / "whole")
    calls = 0

    def loss(model: Any, batch: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 12:  # the second batch of step 6
            raise KeyboardInterrupt
        return squares(model, batch)

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "broken", loss=loss)
    _, history = trained(tmp_path / "broken", resume=True)

    assert history.resumed == [5]
    assert history.losses == whole.losses


def test_stopping_at_a_step_and_going_on(tmp_path: Path) -> None:
    _, whole = trained(tmp_path / "whole")

    _, part = trained(tmp_path / "part", stop_at=5)
    assert part.losses == whole.losses[:5]
    _, rest = trained(tmp_path / "part", resume=True)

    assert rest.losses == whole.losses


CHILD = """
import sys, torch
from pathlib import Path
sys.path.insert(0, {tests!r})
from fewbits.training import Settings, fit
from references.training_runs import Tiny, batches_of, squares
torch.set_num_threads(1)
def tell(step, history):
    print(step.number, flush=True)
    if {slow} and step.number == 7:
        import time; time.sleep(60)
settings = Settings(steps=12, learning_rate=0.05, accumulate=2, save_every=1)
history = fit(Tiny(dropout=0.2), batches_of(), settings=settings, folder=Path({folder!r}), loss=squares,
              progress=tell, resume={resume})
print(*(loss.hex() for loss in history.losses))
"""


def child(folder: Path, *, slow: bool, resume: bool) -> list[str]:
    code = CHILD.format(tests=str(Path(__file__).parent.parent), folder=str(folder), slow=slow, resume=resume)
    return [sys.executable, "-c", code]


def test_a_killed_run_gives_the_same_losses_bit_by_bit(tmp_path: Path) -> None:
    whole = subprocess.run(
        child(tmp_path / "whole", slow=False, resume=False), capture_output=True, check=True, text=True
    )

    process = subprocess.Popen(child(tmp_path / "killed", slow=True, resume=False), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == "7":
            break
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    resumed = subprocess.run(
        child(tmp_path / "killed", slow=False, resume=True), capture_output=True, check=True, text=True
    )

    assert resumed.stdout.split("\n")[0] == "8"
    assert resumed.stdout.strip().split("\n")[-1] == whole.stdout.strip().split("\n")[-1]


def test_a_kill_at_any_moment_leaves_a_state_to_go_on_from(tmp_path: Path) -> None:
    """Killed while it saves all the time: what is there can be read, or nothing is."""
    for delay in (0.0, 0.003, 0.01, 0.02):
        folder = tmp_path / f"{delay}"
        process = subprocess.Popen(child(folder, slow=False, resume=False), stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        process.kill()
        process.wait()
        process.stdout.close()

        settings = Settings(steps=12, learning_rate=0.05, accumulate=2, save_every=1)
        model = Tiny(dropout=0.2)
        history = fit(model, batches_of(), settings=settings, folder=folder, loss=squares, resume=True)

        assert history.steps == 12


def test_settings_and_data_of_another_training_are_refused(tmp_path: Path) -> None:
    trained(tmp_path, stop_at=3, asked={"data": {"sha256": "a" * 64}})

    with pytest.raises(TrainingError, match=r"settings\.learning_rate was 0\.05 and is 0\.1"):
        trained(
            tmp_path, settings=Settings(steps=12, learning_rate=0.1, warmup=0.25, clip=0.5, accumulate=2), resume=True
        )
    with pytest.raises(TrainingError, match=r"data\.sha256 was aaaaaaaaaaaa\.\.\. and is not given"):
        trained(tmp_path, resume=True)
    with pytest.raises(TrainingError, match="state of a training after step 3"):
        trained(tmp_path)
    with pytest.raises(TrainingError, match="no state of a training to resume"):
        trained(tmp_path / "other", resume=True)


def test_saving_more_often_is_no_other_training(tmp_path: Path) -> None:
    trained(tmp_path, stop_at=3)

    _, history = trained(
        tmp_path,
        settings=Settings(steps=12, learning_rate=0.05, warmup=0.25, clip=0.5, accumulate=2, save_every=None),
        resume=True,
    )

    assert history.steps == 12


def test_other_threads_are_said(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    trained(tmp_path, stop_at=3)
    torch.set_num_threads(before + 1)
    try:
        _, history = trained(tmp_path, resume=True)
    finally:
        torch.set_num_threads(before)

    assert "threads" in history.notes[0]


def test_a_state_of_another_model_is_refused(tmp_path: Path) -> None:
    trained(tmp_path, stop_at=3)

    with pytest.raises(TrainingError, match=r"another model \(first\.bias differs"):
        fit(Tiny(bias=False), batches_of(), settings=SETTINGS, folder=tmp_path, loss=squares, resume=True)


@pytest.mark.parametrize("damage", ["truncated", "changed", "missing", "statement", "no json"])
def test_a_damaged_state_is_refused(damage: str, tmp_path: Path) -> None:
    trained(tmp_path, stop_at=3)
    state = next(tmp_path.glob("state-*.pt"))
    data = state.read_bytes()
    if damage == "truncated":
        state.write_bytes(data[:-100])
    elif damage == "changed":
        state.write_bytes(data[:500] + bytes([data[500] ^ 1]) + data[501:])
    elif damage == "missing":
        state.unlink()
    else:
        (tmp_path / "training.json").write_text("{}" if damage == "statement" else "{", encoding="utf-8")

    with pytest.raises(TrainingError, match=r"damaged|missing"):
        trained(tmp_path, resume=True)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_at_the_last_good_state(value: float, tmp_path: Path) -> None:
    calls = 0

    def loss(model: Any, batch: Any) -> Any:
        nonlocal calls
        calls += 1
        found, count = squares(model, batch)
        return (found * value if calls == 9 else found), count

    with pytest.raises(
        TrainingError, match=rf"the loss is .* at step 5 of 12; the last good state, of step 4, .*{tmp_path.name}"
    ):
        trained(tmp_path, loss=loss)
    _, history = trained(tmp_path, resume=True, stop_at=4)

    assert history.steps == 4


def test_gradients_that_are_no_numbers_change_nothing(tmp_path: Path) -> None:
    class Bad(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            return grad * math.nan

    model = Tiny()
    before = model.first.weight.detach().clone()

    def loss(model: Any, batch: Any) -> Any:
        found, count = squares(model, batch)
        return Bad.apply(found), count

    with pytest.raises(TrainingError, match="the gradients' norm is NaN at step 1"):
        fit(model, batches_of(), settings=SETTINGS, folder=tmp_path, loss=loss)

    assert torch.equal(model.first.weight, before)


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit"])
def test_an_optimizer_of_eight_bits_goes_on_too(optimizer: str, tmp_path: Path) -> None:
    if optimizer == "adamw_8bit":
        pytest.importorskip("bitsandbytes")
    settings = Settings(steps=8, learning_rate=0.01, optimizer=optimizer, save_every=None)

    def run(folder: Path, **options: Any) -> Any:
        return fit(Tiny(width=128), batches_of(), settings=settings, folder=folder, loss=squares, **options)

    whole = run(tmp_path / "whole")
    run(tmp_path / "part", stop_at=4)

    assert run(tmp_path / "part", resume=True).losses == whole.losses


def test_paged_moments_need_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="adamw_8bit"):
        trained(tmp_path, settings=Settings(steps=1, optimizer="paged_adamw_8bit"))


def test_a_disk_without_room_keeps_the_state_before(tmp_path: Path) -> None:
    import resource

    _, whole = trained(tmp_path / "whole")
    trained(tmp_path / "part", stop_at=3)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as failed:
            trained(tmp_path / "part", resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "state-00000006.pt" in failed.value.filename
    assert sorted(entry.name for entry in (tmp_path / "part").iterdir()) == ["state-00000003.pt", "training.json"]

    _, history = trained(tmp_path / "part", resume=True)

    assert history.losses == whole.losses


def test_modes_and_random_numbers_are_put_back(tmp_path: Path) -> None:
    model = Tiny()
    model.eval()
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)

    fit(model, batches_of(), settings=SETTINGS, folder=tmp_path, loss=squares)

    assert torch.equal(torch.rand(3), wanted)
    assert not model.training


def test_accumulated_batches_of_unlike_sizes_make_one_mean(tmp_path: Path) -> None:
    x = torch.arange(12.0).reshape(6, 2)
    whole, parts = Tiny(inputs=2), Tiny(inputs=2)
    settings = {"steps": 1, "learning_rate": 0.01, "clip": None}

    one = fit(whole, [x], settings=Settings(**settings), folder=None, loss=squares)
    two = fit(parts, Row([x[:1], x[1:]]), settings=Settings(accumulate=2, **settings), folder=None, loss=squares)

    assert one.losses == pytest.approx(two.losses)
    assert one.norms == pytest.approx(two.norms)


class Row:
    """Batches in the order that they have."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def at(self, position: int) -> Any:
        return self.batches[position % len(self.batches)]


def test_nothing_to_train_is_said() -> None:
    frozen = Tiny().requires_grad_(False)

    with pytest.raises(TrainingError, match="nothing of the model is trained"):
        fit(frozen, batches_of(), settings=SETTINGS, folder=None, loss=squares)
    with pytest.raises(TrainingError, match="no batch"):
        fit(Tiny(), [], settings=SETTINGS, folder=None, loss=squares)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("epochs", 0),
        ("learning_rate", 0),
        ("learning_rate", math.nan),
        ("warmup", 2),
        ("clip", -1.0),
        ("schedule", "sine"),
        ("optimizer", "adam"),
        ("precision", "float8"),
        ("accumulate", 0),
        ("save_every", 0),
    ],
)
def test_settings_that_cannot_be(name: str, value: Any) -> None:
    with pytest.raises(TrainingError, match=name):
        Settings(**{name: value})


def test_rates_rise_and_fall() -> None:
    settings = Settings(steps=100, learning_rate=1.0, warmup=0.1, floor=0.1)
    rates = [settings.rate(step) for step in range(100)]

    assert rates[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[55] == pytest.approx(0.55)
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)


def test_each_pass_sees_each_batch_once() -> None:
    row = Shuffled(list(range(7)), seed=3)
    passes = [[row.at(7 * turn + place) for place in range(7)] for turn in range(3)]

    assert all(sorted(each) == list(range(7)) for each in passes)
    assert passes[0] != passes[1] != passes[2]
    assert row.at(0) == passes[0][0]


def test_the_loss_of_tokens_is_that_of_each_after_those_before() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, ids = torch.randn(2, 5, 9, generator=generator), torch.randint(0, 9, (2, 5), generator=generator)
    labels = ids.clone()
    labels[0, :3] = IGNORED
    wanted = [
        -math.log(math.exp(logits[row, at - 1, ids[row, at]]) / sum(math.exp(v) for v in logits[row, at - 1]))
        for row in range(2)
        for at in range(1, 5)
        if row == 1 or at >= 3
    ]

    total, count = summed(logits, labels)

    assert count == len(wanted) == 6
    assert float(total) == pytest.approx(sum(wanted), rel=1e-5)


def test_checkpointing_changes_no_loss(pocket: Path) -> None:
    from fewbits.evaluation.model_files import open_model

    ids = torch.arange(1, 65).reshape(2, 32)
    data = [{"input_ids": ids, "labels": ids}]

    def run(*, checkpointing: bool) -> Any:
        network = open_model(pocket).load().network
        settings = Settings(steps=2, learning_rate=1e-3, checkpointing=checkpointing)
        return fit(network.requires_grad_(), data, settings=settings, folder=None, loss=next_tokens)

    assert run(checkpointing=True).losses == pytest.approx(run(checkpointing=False).losses, rel=1e-6)
    with pytest.raises(TrainingError, match="Tiny cannot compute its states twice"):
        trained(None, settings=Settings(steps=1, checkpointing=True))
