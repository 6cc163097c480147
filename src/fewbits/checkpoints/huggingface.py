"""See a Hugging Face model directory as the GGUF file it will become. No weight is touched: headers are enough."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from fewbits.checkpoints.base import (
    WEIGHT_TYPES,
    Conversion,
    Order,
    Placement,
    Reader,
    StackedTensor,
    StoredTensor,
    Value,
)
from fewbits.checkpoints.configuration import Configuration, float32, read_configuration
from fewbits.checkpoints.derived import PartTensor, ReshapedTensor, ShiftedTensor, TransposedTensor
from fewbits.checkpoints.names import to_gguf
from fewbits.checkpoints.older_names import open_weights
from fewbits.checkpoints.pooling import Pooling, read_pooling
from fewbits.checkpoints.quoting import quoted
from fewbits.checkpoints.rope import frequency_factors, interleaved, parted, scaling_metadata, scaling_notes
from fewbits.checkpoints.row_tensors import RowReader, RowTensor
from fewbits.checkpoints.tokenizer import TokenizerFacts, read_tokenizer
from fewbits.errors import CheckpointError
from fewbits.models import EXPERT, TensorFact, View


def convert_directory(
    path: Path, *, name: str | None = None, pickles: bool = False, quantized: RowReader | None = None
) -> Conversion:
    """The model in directory `path` as a GGUF file; `name` is its display name (None: the directory's).

    `pickles` allows PyTorch's own weights, of which the numbers alone are read. The tensors of a directory that is
    quantized already are those that `quantized` reads.

    Raises CheckpointError when the directory is incomplete, contradicts itself or holds what GGUF cannot state.
    """
    if not path.is_dir():
        raise CheckpointError(f"{path} is not a directory; point to a Hugging Face model directory.")
    config = read_configuration(path, quantized=quantized is not None)
    stored, shards = open_weights(path, pickles=pickles)
    reader = quantized or stored
    placements, notes = _place(config, reader)
    tokenizer = read_tokenizer(path, config)
    pooling = _pooling(config, tokenizer)
    metadata = {
        **_general(path, name),
        **_model_metadata(config),
        **scaling_metadata(config),
        **pooling.metadata(config.architecture.gguf),
        **tokenizer.metadata,
    }
    _check_text(path, metadata)
    return Conversion(
        architecture=config.architecture.gguf,
        metadata=metadata,
        placements=(*placements, *frequency_factors(config)),
        files=(config.path, *tokenizer.files, *pooling.files, *shards),
        notes=(
            *notes,
            *_window_notes(config),
            *scaling_notes(config),
            *(pooling.notes if config.architecture.encoder else ()),
            *tokenizer.notes,
        ),
        left_out=tuple(notes),
    )


def _general(path: Path, name: str | None) -> dict[str, Value]:
    return {"general.type": Value("model", "string"), "general.name": Value(name or path.resolve().name, "string")}


def _pooling(config: Configuration, tokenizer: TokenizerFacts) -> Pooling:
    """How an encoder's states become an embedding; nothing for a model that continues text."""
    if not config.architecture.encoder:
        return Pooling()
    if any(key.startswith("tokenizer.chat_template") for key in tokenizer.metadata):
        raise CheckpointError(
            f"{config.path.parent} has a chat template, and a {config.architecture.classes[0]} is an encoder, which "
            "answers no conversation; remove the template, or check that the model is the one that was meant."
        )
    return read_pooling(config.path.parent)


def _check_text(path: Path, metadata: dict[str, Value]) -> None:
    """JSON can spell half a character, which no UTF-8 file can hold; it is found here and not while writing."""
    for key, value in metadata.items():
        if value.type in ("string", "array:string"):
            try:
                "".join(value.value).encode("utf-8")
            except UnicodeEncodeError:
                raise CheckpointError(
                    f"{path} spells {key} with half a character (a lone surrogate), which no file can hold; correct it."
                ) from None


def _model_metadata(config: Configuration) -> dict[str, Value]:
    return {
        key: float32(config.values[fact.key]) if fact.type == "float32" else Value(config.values[fact.key], fact.type)
        for key, fact in config.architecture.metadata.items()
        if config.values.get(fact.key) is not None
    }


def _place(config: Configuration, reader: Reader) -> tuple[list[Placement], list[str]]:
    """Every tensor of the checkpoint placed or named in a note; refused by name when it is neither, or missing."""
    present = reader.names()
    if config.layers > len(present):
        raise CheckpointError(
            f"{config.path} claims {config.layers} layers but {reader.path} has only {len(present)} tensors; "
            "they belong to different models."
        )
    facts = config.architecture.stored(config.values, config.layers, present)
    gguf_name = _target_names(config, facts)
    by_source = {source: target for target, (source, _) in facts.items()}
    notes: list[str] = []
    found, listed = _stacks(config, reader, facts)
    beside: Counter[str] = Counter()
    for source in present:
        what = config.architecture.stands_beside(source, config.layers)
        beside[what or ""] += 1
        if source in listed or what:
            continue
        # Names that the package's map does not know are those of architectures that a user added.
        target = gguf_name(source) or by_source.get(source)
        target = f"{target}.weight" if target not in facts else target  # a parameter without an ending (sinks)
        if target in facts and facts[target][0] == source:
            found[target] = reader.read(source)
        else:
            notes.append(_left_out(config, reader, source))
    for target, (source, fact) in facts.items():
        if target not in found and not fact.aside:
            raise CheckpointError(
                f"{reader.path} has no tensor {quoted(source)}, which {config.path} calls for; "
                "the checkpoint is incomplete."
            )
    notes += [f"Left out: {what} ({n} tensors)." for what, n in beside.items() if what]
    placed = [_placement(config, target, found[target], fact) for target, (_, fact) in facts.items() if target in found]
    return placed, notes


def _target_names(config: Configuration, facts: Mapping[str, tuple[str, TensorFact]]) -> Callable[[str], str | None]:
    """Name in the checkpoint -> name in the target: by the gguf package's map, but for what no GGUF file has."""
    table = to_gguf(config.architecture, config.layers)
    parameters = config.architecture.parameters(config.values, config.layers)
    inner = {source: parameters[target][0] for target, (source, _) in facts.items()}
    aside = {source: target for target, (source, fact) in facts.items() if fact.aside}
    return lambda source: aside.get(source) or table(source) or table(inner.get(source, source))


def _stacks(
    config: Configuration, reader: Reader, facts: Mapping[str, tuple[str, TensorFact]]
) -> tuple[dict[str, StoredTensor], set[str]]:
    """Target -> the experts' matrices as one tensor, or what has others in it too; and the names of their sources."""
    found: dict[str, StoredTensor] = {}
    listed: set[str] = set()
    present = set(reader.names())
    for target, (source, fact) in facts.items():
        if fact.view and source in present:
            found[target] = reader.read(source)
            listed.add(source)
        names = [source.replace(EXPERT, str(n)) for n in range(config.experts)] if fact.stacked else []
        missing = [name for name in names if name not in present]
        if len(missing) in range(1, len(names)):
            raise CheckpointError(
                f"{reader.path} has no tensor {quoted(missing[0])}, and {config.path} calls for {config.experts} "
                "experts; the checkpoint is incomplete, or the configuration belongs to another model."
            )
        if names and not missing:
            parts = [reader.read(name) for name in names]
            _require_alike(parts, config)
            found[target] = StackedTensor.of(source, parts)
            listed |= set(names)
    return found, listed


def _require_alike(parts: list[StoredTensor], config: Configuration) -> None:
    """Raise CheckpointError where an expert's matrix is not stored as that of the first."""
    for part in parts:
        if (part.shape, part.format) != (parts[0].shape, parts[0].format):
            raise CheckpointError(
                f"tensor {quoted(part.name)} is {part.format} {list(part.shape)} and that of the first expert is "
                f"{parts[0].format} {list(parts[0].shape)}; {config.path.parent} does not hold one model."
            )


def _left_out(config: Configuration, reader: Reader, source: str) -> str:
    """The note about a tensor that is left out on purpose; raises CheckpointError when there is no reason to."""
    if config.architecture.skips(source):
        return f"{source} is left out: it follows from the configuration."
    for fact in config.architecture.tensors:
        if fact.source == source and fact.unless and config.values.get(fact.unless):
            return f"{source} is left out: the configuration ties it to the embedding ({fact.unless} = true)."
    raise CheckpointError(
        f"{reader.path} holds the tensor {quoted(source)}, which a {config.architecture.classes[0]} "
        "of this configuration does not have; correct the configuration or remove the tensor."
    )


def _placement(config: Configuration, target: str, tensor: StoredTensor, fact: TensorFact) -> Placement:
    widths = config.widths
    expected = tuple(widths[name] for name in fact.shape)
    view = _view(config, tensor, fact) if fact.view else None
    stated = view.stored if view else fact.in_checkpoint(expected)
    if tensor.shape != stated:
        raise CheckpointError(
            f"tensor {quoted(tensor.name)} has shape {list(tensor.shape)} where {config.path} calls for "
            f"{list(stated)}; the configuration belongs to another model."
        )
    whole = tensor.parts[0] if isinstance(tensor, StackedTensor) else tensor
    if tensor.format not in WEIGHT_TYPES and not isinstance(whole, RowTensor):
        raise CheckpointError(
            f"tensor {quoted(tensor.name)} is stored as {tensor.format}, and weights are read from "
            f"{', '.join(WEIGHT_TYPES)}; save the model in one of these."
        )
    unread = fact.unread(config.values)
    if unread:
        return Placement(target, tensor.behind(unread), whole=tensor)
    if view:
        return Placement(target, PartTensor.of(tensor, view))
    order = _order(config, fact, expected[0])
    tensor = TransposedTensor.of(tensor) if fact.transposed else tensor
    tensor = ReshapedTensor.of(tensor, expected) if fact.flat else tensor
    return Placement(target, ShiftedTensor.of(tensor, fact.add) if fact.add else tensor, order, aside=fact.aside)


def _view(config: Configuration, tensor: StoredTensor, fact: TensorFact) -> View:
    """How `tensor` is seen; codes of rows cannot be turned, and quantized stacks have rows as rows."""
    view = fact.seen(config.widths)
    if not isinstance(tensor, RowTensor):
        return view
    if view.turned and view.merged:
        raise CheckpointError(
            f"tensor {quoted(tensor.name)} is {tensor.format}, and a GGUF file has columns of it as rows, which codes "
            "of rows cannot become without a second rounding; quantize the original model to a GGUF file instead."
        )
    return view.upright


def _order(config: Configuration, fact: TensorFact, rows: int) -> Order | None:
    """Source row of each target row; None where none moves."""
    if not fact.order:
        return None
    heads = config.heads(fact.shape[0])
    orders = {"rope": lambda: interleaved(rows, heads), "qkv": lambda: parted(rows, heads, config.heads("key"))}
    return orders[fact.order]()


def _window_notes(config: Configuration) -> list[str]:
    """An attention window that the GGUF architecture cannot state changes results beyond it, so it is said."""
    window = config.values.get("sliding_window")
    context = config.values["max_position_embeddings"]
    if not isinstance(window, int) or window >= context or not config.values.get("use_sliding_window", True):
        return []
    if any(fact.key == "sliding_window" for fact in config.architecture.metadata.values()):
        return []
    gguf = config.architecture.gguf
    note = (
        f"The attention window of {window} tokens is left out: a GGUF file of architecture '{gguf}' cannot state it, "
        f"so beyond {window} tokens results differ from the source's."
    )
    return [note]
