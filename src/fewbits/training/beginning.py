"""Training that begins with the codes and scales that a method chose, GPTQ for instance, and not with the nearest."""

from __future__ import annotations

from typing import Any

import torch

from fewbits import formats
from fewbits.errors import TrainingError
from fewbits.layers.modules import Packed
from fewbits.qtensor import ORDER, QTensor, of_format
from fewbits.training.fake.modules import Prepared, prepared_in


def begin_at(student: Any, quantized: Any) -> Any:
    """Let a prepared `student` compute what `quantized`, the same network with packed modules, computes; returns it.

    Weights that round to the stored codes already stay where they are, as nothing is known of them that is better;
    the others become what is stored. Learned scales begin at the stored ones. Whatever is not packed is copied, since
    methods change norms with what they scale (AWQ). Raises TrainingError where the two are not stored alike.

    >>> from fewbits import quantize
    >>> from fewbits.training import prepare
    >>> stored = torch.nn.Sequential(torch.nn.Linear(32, 4))
    >>> student = prepare(torch.nn.Sequential(torch.nn.Linear(32, 4)), "int4_row_sym")
    >>> record = quantize(stored, "int4_row_sym")
    >>> torch.equal(begin_at(student, stored)[0].rounded_weight(), stored[0].weight)
    True
    """
    found = dict(prepared_in(student))
    matches = {name: _matching(name, module, quantized) for name, module in found.items()}
    with torch.no_grad():
        for name, module in found.items():
            if not module.shared_fake:
                _begin(module, matches[name])
        _copy_rest(student, quantized)
    return student


def _matching(name: str, module: Prepared, quantized: Any) -> QTensor:
    try:
        other = quantized.get_submodule(name)
    except AttributeError:
        other = None
    fake, shape = module.fake, tuple(module.matrix_of(module.get_parameter("weight")).shape)
    if not isinstance(other, Packed) or other.matrix.format != fake.format or other.matrix.shape != shape:
        there = f"{other.matrix.format} {other.matrix.shape}" if isinstance(other, Packed) else "no packed matrix"
        raise TrainingError(f"{name} is prepared as {fake.format} {shape}, and the network to begin at has {there}.")
    fields = other.matrix.stored()
    if ORDER in fields or set(fields) != set(of_format(fields)):
        raise TrainingError(
            f"{name} has columns in an order of their own or in 16 bits, which are not trained; quantize it without "
            "act-order and without an outlier split."
        )
    return QTensor.from_fields(formats.get(fake.format), {key: field.copy() for key, field in fields.items()}, shape)


def _begin(module: Prepared, q: QTensor) -> None:
    weight = module.get_parameter("weight")
    own, stored = module.matrix_of(weight).float(), q.dequantize().to(weight.device)
    fake, training = module.fake, module.fake.training
    if fake.learned:
        fake.start(q.params.to(weight.device))
        own = torch.where(fake.eval()(own) == stored, own, stored)
        fake.train(training)
    else:
        own = stored
    module.take(own)


def _copy_rest(student: Any, quantized: Any) -> None:
    """Norms, biases, and whatever else is not packed."""
    held = {id(module.get_parameter("weight")) for _, module in prepared_in(student)}
    theirs = dict(quantized.named_parameters()) | dict(quantized.named_buffers())
    for name, parameter in student.named_parameters():
        if id(parameter) not in held and name in theirs and theirs[name].shape == parameter.shape:
            parameter.copy_(theirs[name])
