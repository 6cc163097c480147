"""A cache of attention's keys and values for transformers, in any format: long contexts in a part of the memory.

Each token's keys and values are rounded when they come and stay as they are, so that it does not matter how a text was
cut into pieces. Attention itself is the model's own: all of a layer is decoded for each call. What is saved is memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers.cache_utils import Cache, DynamicLayer

from fewbits import formats, kernels
from fewbits.errors import FormatError
from fewbits.formats import Fields, Format, is_row_format
from fewbits.kernels.fields import encode_fields, has_fields_codec
from fewbits.kernels.stored import stored_numbers
from fewbits.qtensor import QTensor

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class States:
    """Keys or values (sequences, heads, tokens, width) as fields of a format, each with those three axes in front."""

    format: Format
    width: int
    fields: Fields

    @staticmethod
    def of(format: Format, numbers: torch.Tensor) -> States:
        """Numbers (sequences, heads, tokens, width), rounded: each token of each head is a row of a matrix."""
        *front, width = numbers.shape
        rows = _encoded(format, numbers.detach().float().cpu().reshape(-1, width).contiguous())
        return States(format, width, {name: field.reshape(*front, *field.shape[1:]) for name, field in rows.items()})

    @property
    def tokens(self) -> int:
        """How many there are."""
        return int(next(iter(self.fields.values())).shape[2])

    @property
    def bytes(self) -> int:
        """What is held."""
        return sum(field.nbytes for field in self.fields.values())

    def numbers(self) -> torch.Tensor:
        """The numbers (sequences, heads, tokens, width) float32 that are stored."""
        front = next(iter(self.fields.values())).shape[:3]
        rows = {name: np.ascontiguousarray(field.reshape(-1, *field.shape[3:])) for name, field in self.fields.items()}
        return stored_numbers(self.format, rows, (int(np.prod(front)), self.width)).reshape(*front, self.width)

    def then(self, more: States) -> States:
        """These, and `more` tokens behind them."""
        joined = {name: np.concatenate([field, more.fields[name]], axis=2) for name, field in self.fields.items()}
        return States(self.format, self.width, joined)

    def mapped(self, change: Callable[[Array], Array]) -> States:
        """What `change` makes of every field."""
        return States(self.format, self.width, {name: change(field) for name, field in self.fields.items()})


def _encoded(format: Format, rows: torch.Tensor) -> Fields:
    """Fields of `rows` (rows, cols) float32 on the CPU, each with a line per row."""
    data = rows.view(torch.uint8).numpy()
    if is_row_format(format) and format.name in kernels.formats():
        kernels.give_points(format.name)
        return {"data": kernels.encode_rows(format.name, data, "F32", formats.row_bytes(format, rows.shape[1])).stored}
    if has_fields_codec(format):
        return encode_fields(format, data, "F32").fields
    params = format.fit(rows)
    return QTensor(format, format.encode(rows, params), params).fields()


def require_rows(format: Format, width: int) -> None:
    """Raise FormatError unless rows of `width` columns have lines of their own in `format`.

    >>> require_rows(formats.get("Q4_K"), 64)
    Traceback (most recent call last):
    fewbits.errors.FormatError: Q4_K: a cache of heads of 64 columns needs a format whose groups divide them; take ...
    """
    counts = []
    cure = "take Q8_0, or another whose groups divide the heads"
    for rows in (2, 3):
        try:
            shapes = format.shapes(rows, width)
        except FormatError:
            raise FormatError(
                f"{format.name}: a cache of heads of {width} columns needs a format whose groups divide them; {cure}."
            ) from None
        counts.append([shape[0] for _, shape in shapes.values()])
    if counts != [[rows] * len(counts[0]) for rows in (2, 3)]:
        raise FormatError(f"{format.name}: tokens would share parameters, and a cache gets them one by one; {cure}.")


class QuantizedStates(DynamicLayer):  # type: ignore[no-untyped-call]
    """The cache of one layer: keys in one format and values in another, or the same."""

    def __init__(self, keys: Format, values: Format) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._formats = keys, values
        self._stored: tuple[States, States] | None = None

    @property
    def bytes(self) -> int:
        """What is held of keys and values."""
        return sum(states.bytes for states in self._stored or ())

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Round what tokens bring (sequences, heads, tokens, width); returns all keys and values, in their type."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        new = tuple(States.of(form, x) for form, x in zip(self._formats, (key_states, value_states), strict=True))
        if self._stored is not None:
            new = tuple(before.then(more) for before, more in zip(self._stored, new, strict=True))
        self._stored = new[0], new[1]
        keys, values = (states.numbers().to(key_states) for states in self._stored)
        return keys, values

    def get_seq_length(self) -> int:
        """Tokens that are held."""
        return self._stored[0].tokens if self._stored else 0

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self._stored = None

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens; their number is negative, as transformers has it."""
        if tokens_to_remove < 0:
            self._change(lambda field: field[:, :, :tokens_to_remove])

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Sequences become copies of those that a beam search goes on with."""
        self._change(lambda field: field[beam_idx.cpu().numpy()])

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Only these sequences stay."""
        self._change(lambda field: field[indices.cpu().numpy()])

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each sequence as often."""
        self._change(lambda field: field.repeat(repeats, axis=0))

    def offload(self) -> None:
        """Nothing lies on a device."""

    def prefetch(self) -> None:
        """Nothing lies on a device."""

    def _change(self, change: Callable[[Array], Array]) -> None:
        if self._stored is not None:
            self._stored = self._stored[0].mapped(change), self._stored[1].mapped(change)


class QuantizedCache(Cache):
    """Keys and values of a model whose layers look at the whole context, in formats of the registry.

    `model.generate(..., cache=QuantizedCache(model.config))`, or `past_key_values=` in older transformers. Raises
    FormatError where a format cannot hold single tokens of heads of that width, or where layers look through a window.
    """

    def __init__(self, config: Any, keys: str = "Q8_0", values: str | None = None) -> None:
        text = config.get_text_config(decoder=True)
        windows = set(getattr(text, "layer_types", None) or ()) - {"full_attention"}
        if windows:
            raise FormatError(
                f"{text.model_type}: layers of the kind {', '.join(sorted(windows))} keep a window of tokens, and this "
                "cache keeps all; generate with the model's own cache."
            )
        width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        chosen = formats.get(keys), formats.get(keys if values is None else values)
        for form in chosen:
            require_rows(form, width)
        super().__init__(layers=[QuantizedStates(*chosen) for _ in range(text.num_hidden_layers)])

    @property
    def bytes(self) -> int:
        """What all layers hold."""
        return sum(layer.bytes for layer in self.layers if isinstance(layer, QuantizedStates))
