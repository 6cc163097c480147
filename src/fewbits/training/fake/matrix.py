"""Fake quantization of a matrix in any format: forward the numbers that will be stored, backward straight through."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from fewbits import formats
from fewbits.errors import FormatError, TrainingError
from fewbits.formats import Fields, Format
from fewbits.formats.base import Params
from fewbits.qtensor import QTensor
from fewbits.training.fake.coding import coded
from fewbits.training.fake.steps import Lines, learnable, scaled_down
from fewbits.training.fake.straight import masked, recomputing

LEARN = ("auto", "steps", "none")
"""Scales learned where a format has some that can be, in every format or not at all, or fitted at every step."""


class FakeMatrix(torch.nn.Module):
    """What a matrix (rows, cols) becomes in a format, with gradients for the matrix, and for scales that are learned.

    Learned scales start where the format's own search ends for `w`, or where `start` says. Without learned ones
    they are found anew at every call, by the native codec where there is one. For the first `delay` calls in
    training numbers stay as they are. Raises TrainingError for a format that cannot be trained as `learn` says.

    >>> w = torch.nn.Parameter(torch.tensor([[0.31, -0.9, 0.1, 0.52]]))
    >>> fake = FakeMatrix("int4_row_sym", w)
    >>> fake(w).sum().backward()
    >>> w.grad, bool((fake(w) - w).abs().max() < 0.1)
    (tensor([[1., 1., 1., 1.]]), True)
    """

    def __init__(self, format_name: str, w: torch.Tensor, *, learn: str = "auto", delay: int = 0) -> None:
        super().__init__()
        self.format, self.delay = format_name, delay
        self.learned = _learns(formats.get(format_name), learn)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.names: tuple[str, ...] = ()
        if self.learned:
            self.start(_fitted(formats.get(format_name), w.detach().float()))

    def start(self, params: Params) -> None:
        """Let scales begin at `params`; raises TrainingError where they are not learned."""
        rule = learnable(formats.get(self.format))
        if not self.learned or rule is None:
            raise TrainingError(f"{self.format} finds its scales anew at every step and cannot start from others.")
        self.names = tuple(params.arrays)
        units = rule.units(params)
        for name, array in params.arrays.items():
            self.register_buffer(f"{name}_start", array.clone())
            if name in units:
                self.register_buffer(f"{name}_unit", units[name])
                self.register_parameter(f"{name}_move", torch.nn.Parameter(torch.zeros_like(array)))

    def moves(self) -> Iterable[torch.nn.Parameter]:
        """What is learned of the scales."""
        return self.parameters()

    def lines(self, count: int) -> Lines:
        """The grid as it stands, of a matrix of `count` numbers, with gradients."""
        rule, arrays = learnable(formats.get(self.format)), {}
        assert rule is not None, "who calls this has learned scales"
        for name in self.names:
            start, move = self.get_buffer(f"{name}_start"), getattr(self, f"{name}_move", None)
            if move is not None:
                share = scaled_down(move, count // max(1, move.numel()), 1)
                start = start + self.get_buffer(f"{name}_unit") * share
            arrays[name] = start
        return rule.lines(arrays)

    def forward(self, w: torch.Tensor) -> torch.Tensor:
        """The numbers (rows, cols) that `w` (rows, cols) is stored as."""
        if self.training and not recomputing():
            self.get_buffer("calls").add_(1)
        if self.training and int(self.get_buffer("calls")) <= self.delay:
            return w
        if self.learned:
            return self.lines(w.numel()).rounded(w)
        return _straight(formats.get(self.format), w)

    def stored(self, w: torch.Tensor) -> Fields:
        """What is stored of `w` (rows, cols), by name: what `forward` gives comes back of it, bit for bit."""
        format = formats.get(self.format)
        with torch.no_grad():
            if not self.learned:
                return coded(format, w).fields
            params = self.lines(w.numel()).params
            return QTensor(format, format.encode(w.detach().float(), params), params).fields()

    def extra_repr(self) -> str:
        """Format, and how scales come about."""
        return f"{self.format}, scales {'learned' if self.learned else 'fitted'}"


def _straight(format: Format, w: torch.Tensor) -> torch.Tensor:
    value = coded(format, w).value.to(w.device)
    return masked(w, value, near(value, w.detach(), format.span))


def near(value: torch.Tensor, w: torch.Tensor, span: int) -> torch.Tensor:
    """Which of `w` (rows, cols) were not clipped when they became `value` (rows, cols) in spans of `span` columns.

    Clipped is what lies beyond all numbers of its span by more than twice what they miss, root mean square.

    >>> w = torch.tensor([[0.1, -1.1, 1.1, 2.0]])
    >>> near(w.round().clamp(-1, 1), w, 0)
    tensor([[True, True, True, True]])
    >>> near(torch.cat([w.round().clamp(-1, 1)] * 4, 1), torch.cat([w, w * 0.9, w * 0.9, w * 0.9], 1), 0)[0, 3]
    tensor(False)
    """
    rows = len(w)
    x, stored = (part.reshape(rows, -1, span or w.shape[1]) for part in (w.float(), value))
    margin = 2 * (x - stored).square().mean(-1, keepdim=True).sqrt()
    low, high = stored.amin(-1, keepdim=True) - margin, stored.amax(-1, keepdim=True) + margin
    return ((x >= low) & (x <= high)).reshape(w.shape)


def _fitted(format: Format, w: torch.Tensor) -> Params:
    """The format's own parameters for `w`."""
    found = coded(format, w)
    return format.from_fields(found.fields, (len(w), w.shape[1]))[1].to(w.device)


def _learns(format: Format, learn: str) -> bool:
    if learn not in LEARN:
        raise TrainingError(f"scales are learned as {', '.join(LEARN)} says, not {learn!r}.")
    able = learnable(format) is not None
    if learn == "steps" and not able:
        raise TrainingError(
            f"{format.name} has no scales that gradients can reach, so learn='steps' cannot train it; "
            "take learn='auto', which fits them anew at every step."
        )
    return able and learn != "none"


def require_fits(format_name: str, cols: int) -> None:
    """Raise FormatError where rows of `cols` columns cannot be stored."""
    format = formats.get(format_name)
    if not formats.fits(format, cols):
        raise FormatError(f"{format_name} stores spans of {format.span} columns, and there are {cols}.")
