"""The tensors of a GGUF file as parameters of transformers' network: decoded, or as the rows that are stored.

Rows that llama.cpp wants in another order are put back here, by code that shares nothing with the code that moved them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from fewbits.checkpoints.base import Reader, StoredTensor
from fewbits.checkpoints.fields import StoredMatrix
from fewbits.evaluation.decoding import decoded
from fewbits.evaluation.experts import matrices_of, put_together
from fewbits.evaluation.gguf_config import GGUFConfig
from fewbits.formats import Fields
from fewbits.models import EXPERT, TensorFact, View, parts_of
from fewbits.models.widths import widths_of

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class _Origin:
    """A tensor of the file, and which of `count` equal parts of its rows is meant."""

    tensor: str
    fact: TensorFact
    number: int
    count: int


@dataclass(frozen=True)
class GGUFTensors:
    """What fills the parameters of a network whose shapes were compared with the file's."""

    reader: Reader
    config: GGUFConfig

    @cached_property
    def _origins(self) -> Mapping[str, list[_Origin]]:
        """Parameter, stacks taken apart -> what of the file it is made of: one tensor, or those that share a stack."""
        found: dict[str, list[_Origin]] = {}
        for tensor, (target, fact) in self.config.facts.items():
            parts = parts_of(target)
            for number, part in enumerate(parts):
                found.setdefault(part, []).append(_Origin(tensor, fact, number, len(parts)))
        return found

    def view(self, fact: TensorFact) -> View | None:
        """How the network's parameter is seen, of which a tensor of `fact` is a part."""
        return fact.seen(widths_of(self.config.values, self.config.sums)) if fact.view else None

    def parameter(self, name: str) -> torch.Tensor:
        """The numbers of the network's parameter `name`, in float32 and in its own shape."""
        own = [name] if name in self._origins else list(matrices_of(name))
        return put_together({each: self._numbers(each) for each in own}, [name])[name]

    def _numbers(self, name: str) -> torch.Tensor:
        origins = self._origins[name]
        view = self.view(origins[0].fact)
        if view is None:
            return self._of_one(origins[0])
        import torch

        whole = torch.empty(view.stored)
        for each in origins:
            seen = self.view(each.fact)
            assert seen is not None, "what shares a stack is seen as one"
            seen.put(whole, decoded(self.reader.read(each.tensor)))
        return whole

    def _of_one(self, origin: _Origin) -> torch.Tensor:
        fact, weight = origin.fact, decoded(self.reader.read(origin.tensor))
        weight = weight - fact.add if fact.add else weight
        weight = weight.T.contiguous() if fact.transposed else weight.reshape(fact.in_checkpoint(weight.shape))
        back = _BACK.get(fact.order)
        weight = back(weight, self.config.values) if back else weight
        return weight.chunk(origin.count)[origin.number].clone() if origin.count > 1 else weight

    def formats_of(self, name: str) -> frozenset[str]:
        """What the tensors of the parameter `name` are stored in."""
        own = [name] if name in self._origins else list(matrices_of(name))
        return frozenset(self.reader.read(o.tensor).format for each in own for o in self._origins[each])

    def matrix(self, name: str) -> StoredMatrix | None:
        """The parameter `name` as rows of stored bytes, each in its place; None where it is no matrix of the file."""
        origins = self._origins.get(name, [])
        if len(origins) != 1 or origins[0].fact.view or origins[0].fact.add:
            return None
        stored, origin = self.reader.read(origins[0].tensor), origins[0]
        if len(stored.shape) != 2 or stored.rows % origin.count:
            return None
        shape = (stored.rows // origin.count, stored.cols)
        return StoredMatrix(
            name,
            stored.format,
            shape,
            transposed=origin.fact.transposed,
            bytes=stored.bytes // origin.count,
            load=partial(self._rows, stored, origin),
        )

    def experts(self, name: str) -> list[StoredMatrix]:
        """The matrices of the stack `name`, an expert's each, as rows of stored bytes; none where one is no such rows.

        Each has the name that it would have in a layer of its own.
        """
        found = []
        for own in matrices_of(name):
            origins = self._origins.get(own, [])
            if len(origins) != 1 or EXPERT not in own or origins[0] != _plain(origins[0]):
                return []
            stored = self.reader.read(origins[0].tensor)
            if len(stored.shape) != 3:
                return []
            found += [_one_expert(own, stored, number) for number in range(stored.shape[0])]
        return found

    def _rows(self, stored: StoredTensor, origin: _Origin) -> Fields:
        import torch

        size = stored.rows // origin.count
        first, last = origin.number * size, (origin.number + 1) * size
        back = _BACK.get(origin.fact.order)
        if back is None:
            return {"data": stored.slab(first, last)}
        order = back(torch.arange(stored.rows), self.config.values)[first:last].numpy()
        return {"data": np.ascontiguousarray(stored.slab(0, stored.rows)[order])}


def _plain(origin: _Origin) -> _Origin:
    """The same tensor, whole, its rows in their places and nothing done to its numbers."""
    fact = replace(origin.fact, view=(), add=0, transposed=False, order="")
    return replace(origin, fact=fact, number=0, count=1)


def _one_expert(own: str, stored: StoredTensor, number: int) -> StoredMatrix:
    count, rows, cols = stored.shape
    return StoredMatrix(
        own.replace(EXPERT, str(number)),
        stored.format,
        (rows, cols),
        bytes=stored.bytes // count,
        load=lambda: {"data": stored.slab(number * rows, (number + 1) * rows)},
    )


def _halves_apart(weight: torch.Tensor, values: Mapping[str, Any]) -> torch.Tensor:
    """Rows (heads * head_dim, ...) from llama.cpp's order, pairs side by side, to transformers', halves apart.

    Row 2 i + j of a head in the file is row j head_dim / 2 + i in transformers, for j in {0, 1}.
    """
    pairs = weight.reshape(-1, values["head_dim"] // 2, 2, *weight.shape[1:])
    return pairs.transpose(1, 2).reshape(weight.shape)


def _heads_together(weight: torch.Tensor, values: Mapping[str, Any]) -> torch.Tensor:
    """Rows (queries, keys, values) as transformers' GPT-NeoX and Falcon have them: each key behind its queries."""
    import torch

    heads, key_heads, rest = values["num_attention_heads"], values["num_key_value_heads"], weight.shape[1:]
    each = torch.split(weight.reshape(heads + 2 * key_heads, -1, *rest), [heads, key_heads, key_heads])
    return torch.cat([part.reshape(key_heads, -1, *part.shape[1:]) for part in each], 1).reshape(weight.shape)


_BACK = MappingProxyType({"rope": _halves_apart, "qkv": _heads_together})
