"""Is a written ONNX graph its source with rounded values? Every node is met by the value that it makes.

The written graph is parsed by the onnx package, in one piece. A value that went through QuantizeLinear and
DequantizeLinear stands for itself, if both have the scale and zero point that its stated range calls for; a constant
that DequantizeLinear decodes has to be the source's within half a step. The equations are written here once more, a
normalization that went into a filter included. A node, a constant or a rounding too many is as wrong as one missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fewbits.checkpoints.onnx.file import OnnxFile
from fewbits.digest import OutputDigest, sha256_of_parts
from fewbits.errors import VerificationError
from fewbits.verification.onnx_dynamic import dynamic_meaning, lookup_meaning, lstm_meaning
from fewbits.verification.onnx_meanings import Read, Written
from fewbits.verification.onnx_numbers import View, graphs_of, inner_of, open_graph, view_of
from fewbits.workers import Workers

Doubles = npt.NDArray[np.float64]
_SLACK = 1e-5
"""Of the largest number of a constant: float32 rounds what is folded, and scales, once each."""


@dataclass(frozen=True)
class Stated:
    """What the record says of the written graph."""

    ranges: Mapping[str, tuple[float, float]]
    """Rounded value -> lowest and highest number that its codes stand for."""
    products: Mapping[str, bool]
    """Output of a product of whole numbers -> whether it multiplies by a constant."""
    folded: frozenset[str]
    """Outputs of normalizations that went into the filter before them."""
    stored: frozenset[str] = frozenset()
    """Constants that are codes, and are decoded where they are used."""
    dynamic: bool = False
    """Whether scales of values are found at run time."""
    divided: Mapping[str, str] = field(default_factory=dict)
    """Value that is new -> the source's value of which it is made, column by column divided by factors."""


def verify_graph(
    written: tuple[Path, Path],
    source: OnnxFile,
    stated: Stated,
    workers: Workers,
    progress: Callable[[int, int], None],
) -> OutputDigest:
    """Check the graph and the tensors beside it in `written` and return their SHA-256; raises VerificationError."""
    path, data = written
    files = (path, data) if data.exists() else (path,)
    digest = workers.submit(lambda: sha256_of_parts(files, workers.cancelled))
    try:
        _Comparison(view_of(source), open_graph(path, data), path, stated).run(progress)
    except (KeyError, IndexError, ValueError) as error:
        raise VerificationError(f"{path} cannot be read as its operators say ({error}); it is not kept.") from None
    return digest.result()


class _Comparison:
    """Source and output, node by node."""

    def __init__(self, source: View, written: View, path: Path, stated: Stated) -> None:
        self.source, self.view, self.path, self.stated = source, written, path, stated
        self.written = Written.of(written, {name for n in source.model.graph.node for name in n.output})
        self.makers = {name: node for node in source.model.graph.node for name in node.output if name}
        self.held = {
            n.output[0]: a.t
            for n in source.model.graph.node
            if n.op_type == "Constant"
            for a in n.attribute
            if a.t.dims
        }
        self.used: set[int] = set()
        self.rounded: set[str] = set()
        self.products: dict[str, bool] = {}
        self.constants: set[str] = set()
        self.stored: set[str] = set()
        self.divided: dict[str, str] = {}

    def run(self, progress: Callable[[int, int], None]) -> None:
        """Compare all; raises VerificationError."""
        self._compare_models()
        nodes = list(self.source.model.graph.node)
        for number, node in enumerate(nodes):
            self._compare_node(node)
            progress(number + 1, len(nodes))
        self._require_stated()
        self._require_nothing_else()

    def _wrong(self, what: str) -> VerificationError:
        return VerificationError(f"{self.path} is not its source with rounded values: {what}; it is not kept.")

    # --- nodes ---

    def _compare_node(self, node: Any) -> None:
        name = next((each for each in node.output if each), "")
        made = self.written.maker_of(name)
        between = self._folds(node)
        if between is not None:
            self._require(made is None or name != between.input[0], f"{name} is still there")
            return
        if made is None:
            self._require(node.op_type == "Constant" and name not in self.view.constants, f"nothing makes {name}")
            return
        before = self.makers.get(node.input[0]) if name in self.stated.folded else None
        origin = node if before is None else before
        meaning = (
            dynamic_meaning(self.view, self.written.makers, made, origin)
            or lookup_meaning(self.view, self.written.makers, made, origin)
            or lstm_meaning(self.view, made, origin, self.written.read)
            or self.written.meaning(made)
        )
        self.used |= {id(each) for each in meaning.nodes}
        self._compare_operator(origin, meaning, name)
        given = list(before.input if before is not None else node.input)
        read = list(meaning.inputs)
        constants = self._folded_constants(before, node) if before is not None else self._multiplied(origin, read)
        if before is not None:
            given = [*given[:2], *(given[2:] or [""])]
        self._require(len(given) == len(read), f"the node that makes {name} has other inputs")
        raised = _raised(read)
        for place, (mine, theirs) in enumerate(zip(given, read, strict=True)):
            self._compare_input(name, place, mine, theirs, constants.get(place), raised if place == 1 else None)
        self._note_product(name, origin, meaning)

    def _folds(self, node: Any) -> Any | None:
        """The normalization that took this convolution in."""
        if node.op_type != "Conv":
            return None
        users = [n for n in self.source.model.graph.node if node.output[0] in n.input]
        return users[0] if len(users) == 1 and users[0].output[0] in self.stated.folded else None

    def _compare_operator(self, node: Any, meaning: Any, name: str) -> None:
        same = (node.op_type, node.domain) == (meaning.operator, meaning.domain)
        told = sorted(each.SerializeToString(deterministic=True) for each in _without_data(node).attribute)
        theirs = sorted(each.SerializeToString(deterministic=True) for each in _without_data(meaning.node).attribute)
        self._require(same and (told == theirs or meaning.own_attributes), f"the node that makes {name} is another one")
        for one, other in zip(_tensors(node), _tensors(meaning.node), strict=False):
            self._require(self._same_bytes(one, other), f"the node that makes {name} holds other numbers")

    def _compare_input(
        self, name: str, place: int, mine: str, theirs: Read, folded: Doubles | None, raised: Doubles | None
    ) -> None:
        """An input of the source's node, and what the written one reads there."""
        if theirs.numbers is not None:
            self._compare_numbers(name, mine, self._known(mine) if folded is None else folded, theirs, raised)
            return
        if theirs.exact is not None:
            wanted = self._known(mine) if folded is None else folded
            same = np.allclose(theirs.exact, wanted.reshape(-1), rtol=0, atol=_slack(wanted))
            self._require(same, f"what is added to {name} differs")
            self.constants |= theirs.tensors
            return
        if folded is not None:
            found = self._numbers(self.view.constants[theirs.name], self.view)
            self._require(np.allclose(found, folded, rtol=0, atol=_slack(folded)), f"the filter of {name} differs")
            self.constants.add(theirs.name)
            return
        self._require(theirs.name == mine, f"input {place} of {name} is {theirs.name} and was {mine}")
        if theirs.divided:
            self.divided[theirs.divided] = theirs.name
        if theirs.rounding is not None:
            self._compare_rounding(theirs.divided or mine, theirs.rounding)

    def _compare_rounding(self, name: str, rounding: Any) -> None:
        """The scale and the zero point of a value, from its stated range."""
        self.rounded.add(name)
        if rounding.dynamic:
            self._require(self.stated.dynamic, f"{name} is rounded at run time")
            return
        self._require(not self.stated.dynamic, f"{name} is rounded at a scale that is fixed")
        self._require(name in self.stated.ranges, f"{name} is rounded, which is nowhere stated")
        low, high = self.stated.ranges[name]
        step = np.float32((float(high) - float(low)) / 255)
        scale = float(step) if step > np.finfo(np.float32).tiny else 1.0
        zero = -float(low) / scale
        self._require(low <= 0 <= high, f"the range of {name} leaves out 0")
        self._require(
            float(rounding.scale) == scale and abs(rounding.zero - zero) <= (_HALF if scale != 1.0 else 255),
            f"{name} has scale {rounding.scale} and zero point {rounding.zero}, its range wants {scale} and {zero:.2f}",
        )

    def _compare_numbers(self, name: str, mine: str, exact: Doubles, theirs: Read, raised: Doubles | None) -> None:
        """Decoded numbers, which are within half a step of the source's; `raised` has 0 for outputs of coarse steps."""
        assert theirs.numbers is not None
        found = theirs.numbers()
        exact = exact.reshape(-1) if found.ndim == 1 else exact  # a bias may be a row
        self._require(found.shape == exact.shape, f"{mine} has another shape")
        worst = np.abs(found - exact) - theirs.half_steps(found.shape)
        clipped = np.abs(exact) > np.abs(found)  # the search for a scale may cut off the largest numbers
        self._require(
            float(np.where(clipped & theirs.at_end(), 0.0, worst).max(initial=0.0)) <= _slack(exact),
            f"{mine}, an input of {name}, is further than half a step from the source's",
        )
        if raised is not None:
            beside = raised.reshape(theirs.held_shape) if raised.size > 1 else raised
            found, exact = found * beside, exact * beside
        size = float(np.square(exact).sum())
        self._require(
            float(np.square(found - exact).sum()) <= _LARGEST_ERROR * size + 1e-30, f"{mine} is another matrix"
        )
        self.constants |= theirs.tensors

    def _note_product(self, name: str, node: Any, meaning: Any) -> None:
        rounded = [each for each in meaning.inputs if each.rounding is not None]
        coded = [each for each in meaning.inputs if each.numbers is not None]
        if not rounded or node.op_type not in _PRODUCTS:
            self.stored |= {mine for mine, each in zip(node.input, meaning.inputs, strict=False) if each.numbers}
        elif not coded and name not in self.stated.products and {each.name for each in rounded} <= self.written.routed:
            return  # it stayed in floats, and sees what its makers give
        elif coded or len(rounded) > 1:
            self.products[name] = bool(coded)

    # --- constants ---

    def _source_numbers(self, name: str) -> Doubles | None:
        tensor = self.source.constants.get(name, self.held.get(name))
        return None if tensor is None else self._numbers(tensor, self.source).astype(np.float64)

    def _numbers(self, tensor: Any, view: View) -> npt.NDArray[Any]:
        from onnx import helper

        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
        return np.ascontiguousarray(view.bytes_of(tensor)).view(dtype).reshape(tuple(tensor.dims))

    def _folded_constants(self, conv: Any, node: Any) -> dict[int, Doubles]:
        """Filter and bias of a convolution with the normalization behind it."""
        gain, shift, mean, variance = (self._known(each) for each in node.input[1:5])
        epsilon = next((each.f for each in node.attribute if each.name == "epsilon"), 1e-5)
        by = gain / np.sqrt(variance + epsilon)
        weight = self._known(conv.input[1])
        start = self._known(conv.input[2]) if len(conv.input) > 2 and conv.input[2] else np.zeros_like(mean)
        return {1: np.einsum("o...,o->o...", weight, by), 2: by * start - by * mean + shift}

    def _multiplied(self, node: Any, read: list[Read]) -> dict[int, Doubles]:
        """The matrix of a product whose other factor is divided: its columns times what that is divided by."""
        if not any(each.by is not None for each in read):
            return {}
        by, matrix = read[0].by, self._known(node.input[1])
        self._require(by is not None and node.op_type in ("MatMul", "Gemm"), f"{node.output[0]} reads divided values")
        assert by is not None
        turned = any(each.name == "transB" and each.i for each in node.attribute)
        self._require(len(by) == matrix.shape[int(turned)], f"what {node.output[0]} reads has other columns")
        self._require(bool(np.isfinite(by).all() and (by > 0).all()), f"{node.output[0]} reads columns that are lost")
        return {1: matrix * (by if turned else by[:, None])}

    def _known(self, name: str) -> Doubles:
        found = self._source_numbers(name)
        if found is None:
            raise self._wrong(f"{name} is no constant")
        return found

    def _same_bytes(self, one: Any, other: Any) -> bool:
        if one.data_type == 8:
            return list(one.string_data) == list(other.string_data)
        if not other.HasField("raw_data") and other.data_location == 0:
            return bool(one == other)
        return np.array_equal(self.source.bytes_of(one), self.view.bytes_of(other))

    # --- the whole ---

    def _compare_models(self) -> None:
        ours, theirs = (type(view.model)() for view in (self.source, self.view))
        for copy, view in ((ours, self.source), (theirs, self.view)):
            copy.CopyFrom(view.model)
            copy.ClearField("graph")
            copy.ClearField("ir_version")
            del copy.opset_import[:]
        mine, other = self.source.model, self.view.model
        stated = {each.domain or "ai.onnx": each.version for each in mine.opset_import}
        written = {each.domain or "ai.onnx": each.version for each in other.opset_import}
        more = {domain for domain in written if domain not in stated}
        same = all(written.get(domain) == version for domain, version in stated.items())
        self._require(ours == theirs and same and more <= {"com.microsoft"}, "versions, metadata or functions differ")
        self._require(mine.ir_version == other.ir_version, "it states another version")
        self._require(list(mine.graph.output) == list(other.graph.output), "its outputs differ")
        self._require(
            [v for v in mine.graph.input if v.name not in self.source.constants]
            == [v for v in other.graph.input if v.name not in self.view.constants],
            "its inputs differ",
        )

    def _require_stated(self) -> None:
        """What was stated is what was met."""
        self._require(self.products == dict(self.stated.products), "its products of whole numbers are others")
        self._require(self.stored == self.stated.stored, "the constants that it stores as codes are others")
        self._require(self.divided == dict(self.stated.divided), "the values that it divides are others")
        values = self.rounded if self.stated.dynamic else self.rounded | self.written.routed
        self._require(self.stated.dynamic or values == set(self.stated.ranges), "the values that it rounds are others")
        for name, rounding in self.written.routed_roundings():
            self._compare_rounding(name, rounding)

    def _require_nothing_else(self) -> None:
        helpers = {id(each) for each in self.written.helpers()}
        odd = next((n for n in self.view.model.graph.node if id(n) not in self.used | helpers), None)
        self._require(odd is None, f"the node that makes {odd.output[0] if odd is not None else ''} is nowhere in it")
        mine, theirs = self.source.constants, self.view.constants
        asked = {name for graph in graphs_of(self.view.model.graph) for node in graph.node for name in node.input}
        for name, tensor in theirs.items():
            if name in mine:
                same = _shape(mine[name]) == _shape(tensor) and self._same_bytes(mine[name], tensor)
                self._require(same, f"the constant {name} differs")
            else:
                self._require(name in self.constants | self.written.parameters, f"the constant {name} is too much")
                self._require(name in asked, f"no node asks for the constant {name}")

    def _require(self, right: bool, what: str) -> None:
        if not right:
            raise self._wrong(what)


_PRODUCTS = ("Conv", "Gemm", "MatMul")
_HALF = 0.5001
"""How far a zero point may be from where 0 lies between codes; in the middle of two, either is nearest."""
_LARGE_BIAS = 2**29
_LARGEST_ERROR = 0.01
"""Squared relative error of a whole matrix of 8 bits, above which it is another one."""


def _raised(read: list[Read]) -> Doubles | None:
    """0 for every output whose scale its bias has raised, so that 32 bits hold that; 1 for others."""
    if len(read) < 3 or read[1].held is None or read[2].held is None:
        return None
    if read[2].held.codes.ndim != 1:
        return None
    large = np.abs(read[2].held.codes) >= _LARGE_BIAS
    kept = (~large).astype(np.float64)
    return kept if read[1].held.scale.size > 1 else kept.min(keepdims=True)


def _slack(exact: Doubles) -> float:
    return _SLACK * float(np.abs(exact).max(initial=0.0)) + 1e-30


def _shape(tensor: Any) -> tuple[int, tuple[int, ...]]:
    return int(tensor.data_type), tuple(tensor.dims)


def _tensors(node: Any) -> list[Any]:
    """Tensors in a node's attributes and in the graphs that it holds."""
    found = [each.t for each in node.attribute if each.HasField("t")]
    for inner in inner_of(node):
        found += [*inner.initializer, *(tensor for each in inner.node for tensor in _tensors(each))]
    return found


def _without_data(node: Any) -> Any:
    copy = type(node)()
    copy.CopyFrom(node)
    for tensor in _tensors(copy):
        for name in ("raw_data", "float_data", "double_data", "int32_data", "int64_data", "data_location"):
            tensor.ClearField(name)
        del tensor.external_data[:]
    return copy
