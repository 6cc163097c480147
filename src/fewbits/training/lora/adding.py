"""LoRA on a packed base: `add_lora` puts peft's adapters beside the matrices of a network, which stay as they are."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import torch

from fewbits.errors import TrainingError
from fewbits.layers.modules import Conv1D, Linear, Packed, without_numbers
from fewbits.training.lora.base import base_of

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

ALL = "all-linear"


def add_lora(
    model: torch.nn.Module,
    *,
    rank: int = 16,
    alpha: float | None = None,
    dropout: float = 0.0,
    targets: str | Iterable[str] = ALL,
    seed: int = 0,
) -> PeftModel:
    """`model` with a trainable adapter of `rank` beside each matrix of `targets`, as `peft.get_peft_model` gives it.

    `model` is what `fewbits.load` gives, packed in any format, or plain torch; its weights are frozen and stay as they
    are. Adapters are float32 and count alpha / rank times (`alpha`: the rank). `targets` are names of modules, whole
    ones or their ends, with stars where wanted ("q_proj", "layers.*.mlp.*"); "all-linear" is every linear module but
    the output matrix. `seed` makes A, B begins as zeros, so that the network computes what it did. From now on packed
    modules decode tile by tile and multiply floats (`Packed.floats`), which is what many tokens want. Source: Hu et
    al. 2021, arXiv:2106.09685; on a quantized base: Dettmers et al. 2023, arXiv:2305.14314. Raises TrainingError where
    a rank, a share or a target does not fit.

    >>> import fewbits
    >>> network = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> record = fewbits.quantize(network, "nf4_g64", tensors={"2": "F32"})
    >>> adapted = add_lora(network, rank=2)
    >>> [name for name, p in adapted.named_parameters() if p.requires_grad][0]
    'base_model.model.0.lora_A.default.weight'
    """
    chosen = matched(model, targets)
    _require_fitting(model, chosen, rank, dropout)
    config = _config(rank, alpha, dropout, chosen, turned=_turned(model, chosen))
    peft = peft_of()
    base = base_of(model)
    model.requires_grad_(False)
    take_floats(model)
    with torch.random.fork_rng(devices=[]), quiet_peft(), without_numbers():
        torch.manual_seed(seed)
        adapted: PeftModel = peft.get_peft_model(model, config)
    vars(adapted)["fewbits_base"] = base
    return adapted


def take_floats(model: torch.nn.Module) -> None:
    """Let packed modules multiply floats from now on, and let go of what they held for other products."""
    for module in model.modules():
        if isinstance(module, Packed):
            module.floats = True
            module.matrix.forget()


def custom_layers(config: LoraConfig) -> LoraConfig:
    """`config` such that peft adapts packed modules with our layer."""
    from fewbits.training.lora.layers import CUSTOM

    config._register_custom_module(CUSTOM)
    return config


def matched(model: torch.nn.Module, targets: str | Iterable[str]) -> list[str]:
    """Names of the modules that `targets` mean; raises TrainingError where one of them means none.

    >>> network = torch.nn.ModuleDict({"up": torch.nn.Linear(4, 8), "down": torch.nn.Linear(8, 4)})
    >>> matched(network, "all-linear"), matched(network, ["u*"])
    (['up', 'down'], ['up'])
    >>> matched(network, ["q_proj"])
    Traceback (most recent call last):
    fewbits.errors.TrainingError: no linear module is called 'q_proj'; there are down, up.
    """
    linears = [name for name, module in model.named_modules() if _is_linear(module)]
    asked = [targets] if isinstance(targets, str) else list(targets)
    if asked == [ALL]:
        head = _output_of(model)
        linears = [name for name in linears if model.get_submodule(name) is not head]
        if not linears:
            raise TrainingError(f"{type(model).__name__} has no linear module that could be adapted.")
        return linears
    hits = {pattern: [name for name in linears if _is_meant(name, pattern)] for pattern in asked}
    missing = [pattern for pattern in asked if not hits[pattern]]
    if missing or not asked:
        ends = sorted({name.rpartition(".")[2] for name in linears})
        what = f"no linear module is called {missing[0]!r}" if missing else "no target was named"
        raise TrainingError(f"{what}; there are {', '.join(ends) or 'none'}.")
    return [name for name in linears if any(name in found for found in hits.values())]


def _is_meant(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}")


def _is_linear(module: torch.nn.Module) -> bool:
    """Whether peft can adapt it, or our layer."""
    if isinstance(module, Linear | Conv1D | torch.nn.Linear):
        return True
    return type(module).__name__ == "Conv1D" and type(module).__module__.startswith("transformers.")


def _output_of(model: torch.nn.Module) -> Any:
    """The matrix that makes logits of states, where the network says which."""
    output = getattr(model, "get_output_embeddings", None)
    return output() if output is not None else None


def _require_fitting(model: torch.nn.Module, chosen: list[str], rank: int, dropout: float) -> None:
    sides = {name: min(_sides(model.get_submodule(name))) for name in chosen}
    smallest = min(sides, key=lambda name: sides[name])
    if type(rank) is not int or not 1 <= rank <= sides[smallest]:
        raise TrainingError(
            f"the rank of an adapter is 1 to {sides[smallest]}, the smaller side of {smallest}, and not {rank!r}."
        )
    if not 0.0 <= dropout < 1.0:
        raise TrainingError(f"the dropout of an adapter is a share from 0 to below 1, and not {dropout!r}.")
    if any(type(module).__module__.startswith("peft.") for module in model.modules()):
        raise TrainingError("the model has an adapter already; load the base again, or train that one.")


def _sides(module: Any) -> tuple[int, int]:
    if isinstance(module, Packed):
        return module.matrix.shape
    rows, cols = module.weight.shape
    return rows, cols


def _turned(model: torch.nn.Module, chosen: list[str]) -> bool:
    """Whether matrices lie with their columns as rows, as in transformers' Conv1D."""
    return all(not isinstance(model.get_submodule(name), torch.nn.Linear) for name in chosen)


def _config(rank: int, alpha: float | None, dropout: float, chosen: list[str], *, turned: bool) -> LoraConfig:
    scale = rank if alpha is None else alpha
    whole = int(scale) if scale == int(scale) else scale  # peft writes it as it is
    config: LoraConfig = peft_of().LoraConfig(
        r=rank, lora_alpha=whole, lora_dropout=dropout, target_modules=chosen, fan_in_fan_out=turned
    )
    return custom_layers(config)


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Without what transformers warns peft of, which asks for an attribute by its older name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        yield


def peft_of() -> Any:
    """peft; raises TrainingError where it is not installed."""
    try:
        import peft
    except ImportError as error:
        raise TrainingError("adapters need peft, which is not installed: pip install 'fewbits[train]'.") from error
    return peft
