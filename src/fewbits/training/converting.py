"""A network that was trained with quantization becomes one of packed modules, number for number what it computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from fewbits.errors import TrainingError, VerificationError
from fewbits.layers.matrix import PackedMatrix
from fewbits.layers.places import pack
from fewbits.layers.products import EXACT, WIDE, require_known
from fewbits.training.fake.inputs import DynamicInputs, StaticInputs
from fewbits.training.fake.modules import Prepared, prepared_in, unprepare


def convert(module: torch.nn.Module, *, inputs: str = WIDE) -> torch.nn.Module:
    """Pack the weights of a prepared `module` where they stand, and return it: no number changes.

    The packed matrices are read back and compared with what the module computes with, bit for bit. Inputs that were
    rounded dynamically are so by the kernels; under static ranges, by `StaticRounding` before each layer; others
    are taken as `inputs` says (layers/products.py). A network of transformers can be saved afterwards
    (`save_pretrained`), and converted to GGUF where that has its formats. Raises TrainingError for a module that is
    not prepared or has numbers that are none, and leaves it as it was.

    >>> from fewbits.training import prepare
    >>> net = prepare(torch.nn.Sequential(torch.nn.Linear(64, 8)), "int4_row_sym").eval()
    >>> weight = net[0].rounded_weight().detach()
    >>> torch.equal(convert(net)[0].weight, weight)
    True
    """
    require_known(inputs)
    found = dict(prepared_in(module))
    if not found:
        raise TrainingError(f"{type(module).__name__} is not prepared; call fewbits.training.prepare first.")
    matrices = _matrices(found)
    roundings = {name: _rounding(each, inputs) for name, each in found.items()}
    _let_go_of_ties(module, found)
    for name, each in found.items():
        fake = each.fake
        unprepare(each)
        how, static = roundings[name]
        pack(each, "weight", matrices[id(fake)], how)
        if static is not None:
            each.add_module("rounding", static)
    _name_quantizer(module)
    return module.eval()


def _matrices(found: Mapping[str, Prepared]) -> dict[int, PackedMatrix]:
    """By the identity of what made them, as tied modules share one; each proved."""
    made: dict[int, PackedMatrix] = {}
    for name, module in found.items():
        if id(module.fake) in made:
            continue
        with torch.no_grad():
            w = module.matrix_of(module.get_parameter("weight")).detach()
        if not bool(torch.isfinite(w).all()):
            raise TrainingError(f"the weight of {name} holds NaN or infinite numbers; take an earlier checkpoint.")
        matrix = PackedMatrix(module.fake.format, (len(w), w.shape[1]), module.fake.stored(w))
        _prove(name, module, matrix, w)
        made[id(module.fake)] = matrix
    return made


def _prove(name: str, module: Prepared, matrix: PackedMatrix, w: torch.Tensor) -> None:
    """Raise VerificationError unless the matrix decodes to what the module computes with once it is not trained."""
    fake, training = module.fake, module.fake.training
    with torch.no_grad():
        computed = fake.eval()(w.float())
    fake.train(training)
    if not torch.equal(matrix.numbers().cpu(), computed.cpu()):
        raise VerificationError(f"the packed weight of {name} is not what it computed with; nothing was changed.")


def _rounding(module: Prepared, inputs: str) -> tuple[str, torch.nn.Module | None]:
    """How the packed module takes inputs, and what rounds them before."""
    rounding = module.fake_inputs
    if isinstance(rounding, StaticInputs):
        return EXACT, rounding.static()
    if isinstance(rounding, DynamicInputs):
        return rounding.name, None
    return inputs, None


def _let_go_of_ties(module: Any, found: Mapping[str, Prepared]) -> None:
    if hasattr(module, "all_tied_weights_keys"):
        from fewbits.loading.placing import untie

        untie(module, {f"{name}.weight" for name in found})


def _name_quantizer(module: Any) -> None:
    """Let `save_pretrained` of a network of transformers write packed modules."""
    if not hasattr(module, "save_pretrained"):
        return
    from fewbits.loading.config import Config
    from fewbits.loading.quantizer import Quantizer, register

    register()
    plan = module.__dict__["fewbits_plan"]
    module.hf_quantizer = Quantizer(Config(next(iter(plan.formats.values()))))
