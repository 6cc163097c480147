"""From a torch module to a program: `torch.export`, made functional, with everything but its steps taken off."""

from __future__ import annotations

import inspect
import operator
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from fewbits.errors import StaticError
from fewbits.static.inputs import Batch
from fewbits.static.program import Input, Program, Ref, Shape, Step
from fewbits.static.quiet import torch_is_quiet

OLDEST = (2, 6)
"""The first torch whose `run_decompositions({})` makes a graph functional and leaves linear and convolution whole."""


@dataclass(frozen=True)
class Exported:
    """A program and the tensors that it names."""

    program: Program
    constants: Mapping[str, torch.Tensor]
    paths: Mapping[str, str]
    """Constant -> its name in the module's state_dict."""


def export(module: torch.nn.Module, example: Batch, *, dynamic_batch: bool = True) -> Exported:
    """The steps of `module` in evaluation mode; raises StaticError where `torch.export` cannot tell them.

    With `dynamic_batch`, the first dimension of every input that has the first one's size may have any size.
    """
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < OLDEST:
        raise StaticError(f"static quantization needs torch 2.6 or newer; this is {torch.__version__}.")
    require_single(module)
    with as_evaluated(module), torch_is_quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's remarks on its own pytrees
        found = _exported(module, example.repeated() if dynamic_batch else example, dynamic_batch)
    return _taken_apart(found, module)


def require_single(module: torch.nn.Module) -> None:
    """Refuse weights in other floats than float32."""
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise StaticError(
                f"{name} of {type(module).__name__} is {tensor.dtype}, and static quantization computes what stays in "
                "float in float32; convert the module with .float() first."
            )


@contextmanager
def as_evaluated(module: torch.nn.Module) -> Iterator[None]:
    """The module in evaluation mode, and afterwards every part of it in the mode it was in."""
    training = [each for each in module.modules() if each.training]
    module.eval()
    try:
        yield
    finally:
        for each in training:
            each.training = True


def _exported(module: torch.nn.Module, example: Batch, dynamic: bool) -> Any:
    shapes = _dynamic_shapes(module, example) if dynamic else None
    try:
        with torch.no_grad():
            found = torch.export.export(module, example.args, dict(example.kwargs), dynamic_shapes=shapes)
            return found.run_decompositions({})
    except Exception as error:
        said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        advice = " If it wants one size of batch, pass dynamic_batch=False." if dynamic else ""
        raise StaticError(
            f"torch.export cannot export {type(module).__name__}, so it cannot be quantized statically: {said}{advice}"
        ) from error


def _dynamic_shapes(module: torch.nn.Module, example: Batch) -> Any:
    """The dimensions that may have any size, nested as `torch.export` wants them: inputs of *args in one tuple."""
    batch = torch.export.Dim("batch")
    sizes = [tensor.shape[0] for tensor in example.tensors() if tensor.dim()]

    def of(tensor: torch.Tensor) -> dict[int, Any]:
        return {0: batch} if tensor.dim() and tensor.shape[0] == sizes[0] else {}

    if example.kwargs:
        return {name: of(tensor) for name, tensor in example.kwargs.items()}
    shapes, words = [of(tensor) for tensor in example.args], inspect.signature(module.forward).parameters.values()
    first = next((i for i, word in enumerate(words) if word.kind is word.VAR_POSITIONAL), len(shapes))
    return (*shapes[:first], tuple(shapes[first:])) if first < len(shapes) else tuple(shapes)


def _taken_apart(found: Any, module: torch.nn.Module) -> Exported:
    constants, paths, inputs, steps = {}, {}, [], []
    specs = {spec.arg.name: spec for spec in found.graph_signature.input_specs}
    outputs: tuple[Any, ...] = ()
    stored = {**found.constants, **found.state_dict}
    for node in found.graph.nodes:
        if node.op == "placeholder":
            spec = specs[node.name]
            if spec.target is None:
                value = node.meta["val"]
                inputs.append(Input(node.name, _shape(value), value.dtype))
            else:
                constants[node.name], paths[node.name] = stored[spec.target].detach(), spec.target
        elif node.op == "output":
            outputs = _argument(node.args[0])
        else:
            steps.append(_step(node, module))
    _require_pure(found, module)
    structure = pytree.treespec_dumps(found.call_spec.out_spec)
    return Exported(Program(tuple(inputs), tuple(steps), outputs, structure), constants, paths)


def _require_pure(found: Any, module: torch.nn.Module) -> None:
    for spec in found.graph_signature.output_specs:
        if spec.kind.name != "USER_OUTPUT":
            raise StaticError(
                f"{type(module).__name__} changes {spec.target or 'an input'} when it runs, and what was measured once "
                "would not hold later; quantize a module that changes nothing."
            )


def _step(node: Any, module: torch.nn.Module) -> Step:
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        op = str(target)
    elif getattr(operator, name := getattr(target, "__name__", ""), None) is target:
        op = f"operator.{name}"
    else:
        raise StaticError(
            f"{type(module).__name__} has the step {target} after its export (a branch, a loop or a region), which "
            "static quantization does not run; rewrite it without or quantize the module around it in parts."
        )
    value = node.meta.get("val")
    tensor = isinstance(value, torch.Tensor)
    return Step(
        node.name,
        op,
        _argument(node.args),
        tuple((key, _argument(each)) for key, each in node.kwargs.items()),
        _shape(value) if tensor else None,
        _where(node),
        any(isinstance(each, torch.Tensor) and each.is_floating_point() for each in pytree.tree_leaves(value)),
    )


def _argument(given: Any) -> Any:
    if isinstance(given, torch.fx.Node):
        return Ref(given.name)
    if isinstance(given, list | tuple):
        return tuple(_argument(each) for each in given)
    return given


def _shape(value: Any) -> Shape:
    return tuple(size if isinstance(size, int) else None for size in value.shape)


def _where(node: Any) -> str:
    """The innermost module that a node comes from, by its path."""
    stack = node.meta.get("nn_module_stack") or {}
    innermost = list(stack.values())[-1][0] if stack else ""
    return str(innermost)
