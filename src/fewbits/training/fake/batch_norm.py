"""Batch normalization whose statistics stay from some step on: those of the network that will run."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from fewbits.errors import TrainingError


class _FreezeAfter:
    """Takes a batch normalization out of training before its forward, once it has seen enough batches."""

    def __init__(self, last: int) -> None:
        self.last = last

    def __call__(self, module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        if module.training and int(module.get_buffer("num_batches_tracked")) >= self.last:
            module.eval()


def freeze_batch_norm(network: torch.nn.Module, *, after: int = 0) -> int:
    """Let batch normalizations of `network` take the statistics they have after `after` more batches; how many.

    Scales and shifts are trained on (Jacob et al. 2018, arXiv:1712.05877, section 3.2.1; Krishnamoorthi 2018,
    arXiv:1806.08342, section 3.2.2). Raises TrainingError where one keeps no statistics.

    >>> net = torch.nn.Sequential(torch.nn.BatchNorm1d(3))
    >>> freeze_batch_norm(net), float(net.train()(torch.ones(2, 3)).detach().sum().round())
    (1, 6.0)
    """
    found = [(name, module) for name, module in network.named_modules() if isinstance(module, _BatchNorm)]
    for name, module in found:
        if module.num_batches_tracked is None:
            raise TrainingError(f"{name} keeps no statistics (track_running_stats=False), so they cannot be frozen.")
        module.register_forward_pre_hook(_FreezeAfter(int(module.num_batches_tracked) + after))
    return len(found)
