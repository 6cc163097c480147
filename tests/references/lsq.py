"""Learned step sizes as their papers state them, in float64: a smooth stand-in whose gradients are theirs."""

from __future__ import annotations

import torch


def surrogate(
    w: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, bottom: int, top: int, inside: torch.Tensor
) -> torch.Tensor:
    """scale * (code - zero), where code = w / scale + zero + what rounding made of it, or an end where it was clipped.

    What rounding adds is a constant, so that this can be differentiated (Esser et al. 2020, arXiv:1902.08153,
    equations 1 to 3; Bhalgat et al. 2020, arXiv:2004.09576, equations 3 to 5).
    """
    place = w / scale + zero
    code = place.detach().round().clamp(bottom, top)
    rounding = code - place.detach()
    return scale * (torch.where(inside, place + rounding, code) - zero)
