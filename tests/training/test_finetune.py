"""`fewbits finetune`: an adapter on a packed base, killed and resumed, refused, and what is told."""

from __future__ import annotations

import json
import os
import pydoc_data.topics
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fewbits
from fewbits.cli.main import main
from fewbits.errors import FewbitsError, TrainingError
from fewbits.training import Reading, Settings
from fewbits.training.fitting.workspace import workspace
from fewbits.training.lora.adding import quiet_peft

PROGRAM = [sys.executable, "-m", "fewbits"]
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
FEW = Settings(steps=4, learning_rate=3e-3, save_every=2)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some pages of the manual, one per line."""
    path = tmp_path_factory.mktemp("data") / "pages.jsonl"
    topics = [pydoc_data.topics.topics[name] for name in ("with", "while", "yield", "assert", "del", "global")]
    path.write_text("\n".join(json.dumps({"text": topic}) for topic in topics), encoding="utf-8")
    return path


def read(text: Path) -> Reading:
    return Reading(text, length=64, hold_out=0.3)


@pytest.fixture(scope="module")
def whole(pocket: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The adapter of a run that nothing disturbed, and its record."""
    output = tmp_path_factory.mktemp("whole") / "adapter"
    return output, fewbits.finetune(pocket, output, data=read(text), base="nf4", settings=FEW)


def weights(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


def test_an_adapter_on_a_packed_base_learns(whole: tuple[Path, Any]) -> None:
    output, record = whole

    assert record.loss_after < record.loss_before
    assert record.history.steps == record.preview.steps == 4
    assert record.preview.formats["nf4_g64"] >= 28
    assert record.preview.trained < 0.1 * record.preview.parameters
    assert record.preview.parameters == 4_196_608
    assert {"adapter_config.json", "adapter_model.safetensors", "fewbits_training.json"} <= {
        entry.name for entry in output.iterdir()
    }
    assert json.loads((output / "fewbits_training.json").read_text(encoding="utf-8")) == json.loads(
        json.dumps(record.to_json())
    )
    assert sorted(entry.name for entry in output.parent.iterdir()) == ["adapter"]


def test_peft_reads_the_adapter(pocket: Path, whole: tuple[Path, Any]) -> None:
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(pocket)
    ids = torch.arange(5, 25)[None]
    before = base(ids).logits
    with quiet_peft():
        adapted = peft.PeftModel.from_pretrained(base, str(whole[0]))

    assert not torch.allclose(adapted(ids).logits, before, atol=1e-3)


def test_what_was_broken_off_gives_the_same_adapter(
    pocket: Path, text: Path, whole: tuple[Path, Any], tmp_path: Path
) -> None:
    def stop(step: Any, history: Any) -> None:
        if step.number == 3:
            raise KeyboardInterrupt

    output = tmp_path / "adapter"
    with pytest.raises(KeyboardInterrupt):
        fewbits.finetune(pocket, output, data=read(text), base="nf4", settings=FEW, on_step=stop)
    assert [entry.name for entry in tmp_path.iterdir()] == [".adapter.training"]

    for asked, words in [
        ({"settings": Settings(steps=4, learning_rate=1e-3)}, r"settings\.learning_rate was 0\.003 and is 0\.001"),
        ({"data": Reading(text, length=32, hold_out=0.3)}, r"data\.length was 64 and is 32"),
        ({"base": "Q8_0"}, r"method\.base was nf4 and is Q8_0"),
        ({"lora": 8}, r"method\.rank was 16 and is 8"),
    ]:
        given = {"data": read(text), "base": "nf4", "settings": FEW, **asked}
        with pytest.raises(TrainingError, match=words):
            fewbits.finetune(pocket, output, resume=True, **given)
    with pytest.raises(TrainingError, match=r"after step 3; go on with --resume, or begin anew with --force"):
        fewbits.finetune(pocket, output, data=read(text), base="nf4", settings=FEW)

    record: Any = fewbits.finetune(pocket, output, data=read(text), base="nf4", settings=FEW, resume=True)

    assert record.history.losses == whole[1].history.losses
    assert (record.loss_before, record.loss_after) == (whole[1].loss_before, whole[1].loss_after)
    assert weights(output) == weights(whole[0])
    assert [entry.name for entry in tmp_path.iterdir()] == ["adapter"]


def command(pocket: Path, text: Path, output: Path, *more: str) -> list[str]:
    given = [
        "finetune",
        str(pocket),
        "--data",
        str(text),
        "-o",
        str(output),
        "--base",
        "nf4",
        "--sequence-length",
        "64",
    ]
    return [*PROGRAM, *given, "--steps", "60", "--save-every", "1", "--hold-out", "0", *more]


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_command_goes_on_to_the_same_losses(
    by: signal.Signals, pocket: Path, text: Path, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        command(pocket, text, tmp_path / "a"), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )
    statement = tmp_path / ".a.training" / "training.json"
    assert process.stderr is not None
    for line in process.stderr:
        if "step 1 of 60" in line:
            break
    process.send_signal(by)
    said = process.communicate(timeout=120)[1]
    done = len(json.loads(statement.read_text(encoding="utf-8"))["history"]["losses"])
    assert 1 <= done < 60
    assert not (tmp_path / "a").exists()
    assert "Traceback" not in said
    if by == signal.SIGINT:
        assert process.returncode == 130
        assert f"the state after step {done} of 60 is kept in" in said
        assert "the same command with --resume goes on from there" in said
        assert said.count("\n") == 1

    ends = ["--stop-at", str(done + 2), "--json"]
    resumed = subprocess.run(
        command(pocket, text, tmp_path / "a", "--resume", *ends), env=ENVIRONMENT, capture_output=True, check=True
    )
    straight = subprocess.run(
        command(pocket, text, tmp_path / "b", *ends), env=ENVIRONMENT, capture_output=True, check=True
    )

    first, second = (json.loads(each.stdout) for each in (resumed, straight))
    assert first["history"]["resumed"] == [done]
    assert first["history"]["losses"] == second["history"]["losses"]
    assert len(first["history"]["losses"]) == done + 2
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert first["complete"] is False
    assert (tmp_path / ".a.training").is_dir()


def test_a_dry_run_writes_nothing(pocket: Path, text: Path, tmp_path: Path) -> None:
    preview: Any = fewbits.finetune(pocket, tmp_path / "a", data=read(text), base="Q4_K", settings=FEW, dry_run=True)

    assert list(tmp_path.iterdir()) == []
    assert preview.measured.seconds > 0
    assert preview.seconds_estimated == 4 * preview.measured.seconds
    assert preview.trained > 0
    assert preview.memory_estimated > preview.memory["weights"] > 2e6


def test_pictures_and_logs(pocket: Path, text: Path, tmp_path: Path) -> None:
    record: Any = fewbits.finetune(
        pocket,
        tmp_path / "a",
        data=read(text),
        settings=Settings(steps=2),
        plot=tmp_path / "loss.svg",
        logs=tmp_path / "logs",
    )

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    seen = [(event.step, event.value) for event in events.Scalars("loss")]
    assert seen == [(n, pytest.approx(loss)) for n, loss in enumerate(record.history.losses, start=1)]
    assert (tmp_path / "loss.svg").read_text(encoding="utf-8").startswith("<?xml")
    assert record.files["plot"] == str(tmp_path / "loss.svg")
    with pytest.raises(FewbitsError, match=r"loss\.svg exists already"):
        fewbits.finetune(pocket, tmp_path / "b", data=text, plot=tmp_path / "loss.svg")
    with pytest.raises(FewbitsError, match=r"neither \.png nor \.svg"):
        fewbits.finetune(pocket, tmp_path / "b", data=text, plot=tmp_path / "loss.gif")


def test_conversations_of_a_gguf_file(pocket: Path, tmp_path: Path) -> None:
    fewbits.quantize(pocket, tmp_path / "p.gguf", to="Q4_K_M")
    rows = [
        {"messages": [{"role": "user", "content": f"{n}+1?"}, {"role": "assistant", "content": f"{n + 1}."}]}
        for n in range(12)
    ]
    (tmp_path / "chat.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")

    record: Any = fewbits.finetune(
        tmp_path / "p.gguf",
        tmp_path / "a",
        data=Reading(tmp_path / "chat.jsonl", template="plain"),
        settings=Settings(steps=6, learning_rate=1e-2),
    )

    assert record.preview.formats["Q4_K"] > 0
    assert record.preview.data["kind"] == "messages"
    assert record.loss_after < record.loss_before


def test_two_runs_at_once_are_refused(tmp_path: Path) -> None:
    with workspace(tmp_path / "a", resume=False, force=False):
        with (
            pytest.raises(TrainingError, match="another run of fewbits"),
            workspace(tmp_path / "a", resume=False, force=False),
        ):
            pass
        assert (tmp_path / ".a.training").is_dir()
    assert list(tmp_path.iterdir()) == []


# ---- what a stranger does


def refused(*arguments: object, limit: Callable[[], None] | None = None) -> str:
    done = subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=ENVIRONMENT,
        preexec_fn=limit,
    )
    assert "Traceback" not in done.stderr
    assert "a bug in fewbits" not in done.stderr
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["MODEL", "--data", "none.jsonl"], ["none.jsonl", "no such file"]),
        (["no/such", "--data", "TEXT"], ["no/such"]),
        (["MODEL", "--data", "TEXT", "--field", "body"], ["line 1", "'body'", "'text'"]),
        (["MODEL", "--data", "TEXT", "--resume"], ["no training to resume"]),
        (["MODEL", "--data", "TEXT", "--sequence-length", "1000"], ["1000", "512"]),
        (["MODEL", "--data", "TEXT", "--no-packing", "--sequence-length", "64"], ["line 1", "--cut"]),
        (["MODEL", "--data", "TEXT", "--base", "nf5"], ["'nf5'"]),
        (["MODEL", "--data", "TEXT", "--learning-rate", "0"], ["learning_rate"]),
        (["MODEL", "--data", "TEXT", "--targets", "q_prj"], ["'q_prj'", "q_proj"]),
        (["MODEL", "--data", "TEXT", "--lora", "9999"], ["rank"]),
        (["MODEL", "--data", "TEXT", "--optimizer", "paged_adamw_8bit"], ["adamw_8bit"]),
        (["TRUNCATED", "--data", "TEXT"], ["model.safetensors"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refusals(
    arguments: list[str],
    words: list[str],
    pocket: Path,
    text: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "output"
    folder.mkdir()
    damaged = Path(shutil.copytree(pocket, tmp_path / "damaged"))
    data = (damaged / "model.safetensors").read_bytes()
    (damaged / "model.safetensors").write_bytes(data[:-1000])
    given = {"MODEL": pocket, "TEXT": text, "TRUNCATED": damaged}

    code = main(["finetune", *(str(given.get(a, a)) for a in arguments), "-o", str(folder / "a"), "-q", "--steps", "2"])

    said = capsys.readouterr().err
    assert code == 2
    assert said.startswith("fewbits: ")
    assert "a bug in fewbits" not in said
    assert said.count("\n") == 1
    for word in words:
        assert word in said
    assert list(folder.iterdir()) == []


def test_an_output_that_is_somebodys(pocket: Path, text: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")

    with pytest.raises(TrainingError, match="exists already"):
        fewbits.finetune(pocket, tmp_path, data=text)
    with pytest.raises(TrainingError, match="no adapter that fewbits wrote"):
        fewbits.finetune(pocket, tmp_path, data=text, force=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_full_disk_keeps_the_state_before(pocket: Path, text: Path, tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    given = ("finetune", pocket, "--data", text, "-o", tmp_path / "a", "--sequence-length", "64", "--steps", "3")
    said = refused(*given, "--save-every", "1", "-q", limit=limit)

    assert "state-00000001.pt" in said
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_no_number(pocket: Path, text: Path, tmp_path: Path) -> None:
    given = ["finetune", pocket, "--data", text, "-o", tmp_path / "a", "--sequence-length", "64", "--steps", "30"]

    said = refused(*given, "--learning-rate", "1e30", "--warmup", "0", "-q", "--clip", "1e9")

    assert "at step" in said
    assert "last good state" in said
    assert (tmp_path / ".a.training" / "training.json").exists()


def test_a_table_or_one_object(pocket: Path, text: Path, tmp_path: Path) -> None:
    given = [*PROGRAM, "finetune", str(pocket), "--data", str(text), "--sequence-length", "64", "--steps", "2"]
    tables = subprocess.run(
        [*given, "-o", str(tmp_path / "a")], capture_output=True, check=True, text=True, env=ENVIRONMENT
    )
    as_json = subprocess.run(
        [*given, "-o", str(tmp_path / "b"), "--json"], capture_output=True, check=True, text=True, env=ENVIRONMENT
    )

    record = json.loads(as_json.stdout)
    assert f"{record['loss_before']:.5f} -> {record['loss_after']:.5f} nats per token" in tables.stdout
    assert "Preview: finetune" in tables.stdout
    assert "--learning-rate 0.0002" in tables.stdout
    assert "fewbits: step 1 of 2, loss " in tables.stderr
    assert "tokens/s" in tables.stderr
