"""Where matrices lie in modules: which weights a module has, how they are rows and columns, and how they give way."""

from __future__ import annotations

import torch

from fewbits.layers.matrix import PackedMatrix
from fewbits.layers.modules import Conv1D, Conv1d, Conv2d, Linear, kind_of, pack_module
from fewbits.layers.products import WIDE
from fewbits.layers.recurrent import RECURRENT, Recurrent, pack_recurrent


def weights_of(module: torch.nn.Module) -> tuple[str, ...]:
    """Names of the parameters of `module` that can be packed.

    >>> weights_of(torch.nn.Linear(3, 2)), weights_of(torch.nn.GRU(3, 2)), weights_of(torch.nn.LayerNorm(3))
    (('weight',), ('weight_ih_l0', 'weight_hh_l0'), ())
    """
    if type(module) in RECURRENT:
        return tuple(name for name in module._parameters if name.startswith("weight_"))
    return ("weight",) if kind_of(module) else ()


def multiplies(module: torch.nn.Module) -> bool:
    """Whether what `module` is or becomes multiplies with its matrices as they are stored, and may round inputs."""
    return type(module) in RECURRENT or isinstance(module, Recurrent) or kind_of(module) in (Linear, Conv1D)


def is_convolution(module: torch.nn.Module) -> bool:
    """Whether `module` is or becomes a convolution of ours, which decodes its weight."""
    return kind_of(module) in (Conv1d, Conv2d)


def as_matrix(module: torch.nn.Module, parameter: str = "weight") -> torch.Tensor:
    """The weight of `module` (rows, cols): rows are outputs, or what is looked up."""
    weight = module.get_parameter(parameter).detach()
    return weight.T if kind_of(module) is Conv1D else weight.reshape(len(weight), -1)


def pack(module: torch.nn.Module, parameter: str, matrix: PackedMatrix, inputs: str = WIDE) -> None:
    """Put `matrix` in the place of the weight `parameter` of `module`, which becomes one of ours where it stands.

    `inputs` says how what it multiplies is taken (products.py).
    """
    if type(module) in RECURRENT or isinstance(module, Recurrent):
        pack_recurrent(module, parameter, matrix, inputs)
    else:
        pack_module(module, matrix, inputs)
