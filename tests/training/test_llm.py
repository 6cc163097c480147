"""Language models learn to answer as before: layer by layer, as a whole, from a method's codes, and in Trainer."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import fewbits
from fewbits import training
from fewbits.errors import TrainingError
from fewbits.training.llm import Schedule, distil, layers_of, teach_layers

from .test_preparing import llama

DRAWN = torch.Generator().manual_seed(0)
WINDOWS = torch.randint(0, 100, (32, 12), generator=DRAWN)


def divergence(student: Any, teacher: Any) -> float:
    """Mean KL divergence over the windows."""
    with torch.no_grad():
        return float(training.distillation(student.eval()(WINDOWS).logits, teacher(WINDOWS).logits))


@pytest.mark.parametrize("recipe", ["int2_g32_sym_f16", "ternary_g32_f16", "int1_g32_sym_f16"])
def test_a_student_answers_more_like_its_teacher(recipe: str) -> None:
    teacher = llama().eval()
    student = training.prepare(copy.deepcopy(teacher), recipe)
    before = divergence(student, teacher)

    history = distil(student, teacher, WINDOWS, Schedule(steps=40, batch=8, rate=3e-3, steps_rate=1e-2))

    assert divergence(student, teacher) < 0.6 * before
    assert len(history.losses) == 40
    assert history.tokens == 40 * 8 * 12


def test_layers_learn_one_after_another() -> None:
    teacher = llama().eval()
    student = training.prepare(copy.deepcopy(teacher), "int2_g32_sym_f16")
    before, seen = divergence(student, teacher), []

    histories = teach_layers(
        student,
        teacher,
        WINDOWS,
        Schedule(steps=60, batch=8, rate=3e-3, steps_rate=1e-2),
        lambda place, places, history: seen.append((place, places, len(history.losses))),
    )

    assert seen == [(1, 2, 60), (2, 2, 60)]
    assert all(history.losses[-1] < 0.7 * history.losses[0] for history in histories)
    assert divergence(student, teacher) < 0.9 * before


def test_the_same_seed_teaches_the_same() -> None:
    teacher = llama().eval()
    losses = [
        distil(training.prepare(copy.deepcopy(teacher), "int2_g32_sym_f16"), teacher, WINDOWS, Schedule(steps=3)).losses
        for _ in range(2)
    ]

    assert losses[0] == losses[1]


def test_a_loss_that_is_no_number_stops_and_says_where() -> None:
    teacher = llama().eval()
    student = training.prepare(copy.deepcopy(teacher), "int4_g32_sym_f16")
    teacher.lm_head.weight.data[0, 0] = torch.nan
    weight = student.lm_head.weight.detach().clone()

    with pytest.raises(TrainingError, match=r"the loss is nan at step 1"):
        distil(student, teacher, WINDOWS, Schedule(steps=3))
    assert torch.equal(student.lm_head.weight, weight)


def test_what_has_no_layers_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"Linear has no list of layers"):
        layers_of(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("recipe", ["int2_g32_sym_f16", "Q4_0", "nf4_g64"])
def test_training_begins_where_a_method_ended(recipe: str) -> None:
    plain = llama().eval()
    quantized = copy.deepcopy(plain)
    fewbits.quantize(quantized, recipe, method="hqq" if recipe.startswith("int") else "nearest")
    quantized.model.norm.weight.data.mul_(1.5)
    student = training.prepare(copy.deepcopy(plain), recipe)

    training.begin_at(student, quantized)

    if recipe != "Q4_0":  # scales that are searched for anew may be others
        for ours, theirs in zip(student.model.layers, quantized.model.layers, strict=True):
            assert torch.equal(ours.mlp.up_proj.rounded_weight(), theirs.mlp.up_proj.weight)
    assert torch.equal(student.model.norm.weight, quantized.model.norm.weight)
    with pytest.raises(TrainingError, match=r"is prepared as .* has no packed matrix"):
        training.begin_at(student, plain)


def test_trainer_of_transformers_trains_a_prepared_network(tmp_path: Path) -> None:
    net = training.prepare(llama(), "int4_g32_sym_f16")
    before = net.lm_head.fake.scale_move.detach().clone()
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path / "run"),
        max_steps=3,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        save_steps=2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    data = [{"input_ids": ids, "labels": ids} for ids in WINDOWS]

    transformers.Trainer(model=net, args=arguments, train_dataset=data).train()

    assert not torch.equal(net.lm_head.fake.scale_move, before)
    assert (tmp_path / "run" / "checkpoint-2" / "model.safetensors").is_file()
    logits = net.eval()(WINDOWS).logits.detach()
    training.convert(net, inputs="exact").save_pretrained(tmp_path / "out")
    loaded = fewbits.load(tmp_path / "out", inputs="exact")
    torch.testing.assert_close(loaded(WINDOWS).logits, logits, rtol=1e-4, atol=1e-4)
