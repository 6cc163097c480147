"""Loaded models among others: transformers reads what `save_pretrained` wrote, and lm-evaluation-harness runs them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

pytest.importorskip("bitsandbytes")
pytest.importorskip("compressed_tensors")
pytest.importorskip("lm_eval")

import bitsandbytes

import fewbits
from fewbits.layers.modules import Packed

TEXT = "The with statement is used to wrap the execution of a block with methods defined by a context manager."


def logits_of(network: Any, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = network(torch.tensor([ids])).logits[0].double()
    return found


def read(folder: Path, config: Any = None) -> Any:
    options = {} if config is None else {"quantization_config": config}
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options).eval()


@pytest.mark.parametrize("recipe", ["int4", "fp8"])
def test_transformers_computes_the_same_from_what_was_saved(recipe: str, pocket: Path, tmp_path: Path) -> None:
    ours = read(pocket, fewbits.Config(recipe, inputs="exact"))
    ours.save_pretrained(tmp_path / "saved")
    ids = fewbits.load_tokenizer(pocket)(TEXT)["input_ids"]

    wanted = logits_of(ours, ids)
    assert float((logits_of(read(tmp_path / "saved"), ids) - wanted).norm() / wanted.norm()) < 1e-5


def test_bitsandbytes_has_the_same_numbers(pocket: Path, tmp_path: Path) -> None:
    ours = read(pocket, fewbits.Config("nf4", double_quant=True))
    ours.save_pretrained(tmp_path / "saved")
    theirs = dict(read(tmp_path / "saved").named_modules())

    packed = {name: module for name, module in ours.named_modules() if isinstance(module, Packed)}
    assert len(packed) == 28
    for name, module in packed.items():
        weight = theirs[name].weight
        weight.quant_state.dtype = torch.float32  # it rounds to what its file states
        assert torch.equal(bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state), module.weight)


def test_the_harness_takes_a_loaded_model_as_it_is(pocket: Path, tmp_path: Path) -> None:
    """Its log-likelihood of a continuation is that of the logits, and what is packed and tied stays so."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    fewbits.quantize(pocket, tmp_path / "model.gguf", to="Q4_K_M")
    network, tokenizer = fewbits.load(tmp_path / "model.gguf"), fewbits.load_tokenizer(tmp_path / "model.gguf")
    harness = HFLM(pretrained=network, tokenizer=tokenizer, batch_size=1)
    before = "The with statement is used to wrap"
    after = TEXT.removeprefix(before)
    asked = Instance("loglikelihood", {}, (before, after), 0)
    found, greedy = harness.loglikelihood([asked], disable_tqdm=True)[0]

    ids, start = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (TEXT, before))
    scores = logits_of(network, ids).log_softmax(-1)
    wanted = sum(float(scores[n - 1, ids[n]]) for n in range(len(start), len(ids)))
    assert math.isclose(found, wanted, rel_tol=1e-4)
    assert not greedy
    assert network.lm_head.matrix is network.model.embed_tokens.matrix
