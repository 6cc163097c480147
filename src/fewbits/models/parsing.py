"""Read an architecture's facts from TOML, and say which line is wrong where one is."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from reprlib import repr as shown
from types import MappingProxyType
from typing import Any

from fewbits.errors import CheckpointError
from fewbits.models.architecture import Architecture
from fewbits.models.facts import (
    EXPERT,
    GroupFact,
    ImpliedFact,
    LocalRope,
    MetadataFact,
    NeededFact,
    SettledFact,
    SparseFact,
    StreamFact,
    TensorFact,
)
from fewbits.models.network import GATES, NORMS, QUERY_NORMS, SCORES, NetworkFact, PowerFact
from fewbits.models.views import widths_on
from fewbits.models.widths import WIDTHS
from fewbits.tomlfile import parse_toml

MOST_BYTES = 1 << 18

ORDERS = ("", "rope", "qkv")
LAYER_KINDS = ("", "dense", "sparse")
GROUP_KINDS = ("norm", "rows", "heads")
METADATA_TYPES = ("uint32", "float32", "bool", "string")

_NEEDED = ("name", "gguf", "classes", "metadata", "tensors", "stream")
_TABLE = re.compile(r"\s*\[\[?\s*([^\]]+?)\s*\]\]?")


@dataclass(frozen=True)
class _Text:
    """A TOML text, where it is from, and what it says."""

    text: str
    where: str

    def wrong(self, message: str, *path: str) -> CheckpointError:
        """The error about what stands under `path`: (key,), (table, key) or (table,)."""
        return CheckpointError(f"{self.where}, line {self._line(path)}: {message}.")

    def _line(self, path: tuple[str, ...]) -> int:
        """The line of the last key of `path`; of its table, or the first one, where it has none."""
        table, found = "", 1
        for number, line in enumerate(self.text.splitlines(), 1):
            if header := _TABLE.match(line):
                table = header[1]
                found = number if path and table == path[0] else found
                continue
            key = line.partition("=")[0].strip().strip("\"'")
            if key and (*([table] if table else []), key) == path:
                return number
        return found

    def table(self, raw: Mapping[str, Any], name: str) -> Mapping[str, Any]:
        """The table `name`, empty where there is none."""
        found = raw.get(name, {})
        if not isinstance(found, dict):
            raise self.wrong(f"{name} has to be a table", name)
        return found

    def strings(self, found: Any, *path: str) -> tuple[str, ...]:
        """A list of texts."""
        if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
            raise self.wrong(f"{path[-1]} has to be a list of texts, and is {shown(found)}", *path)
        return tuple(found)

    def string(self, found: Any, *path: str) -> str:
        """A text that is not empty."""
        if not isinstance(found, str) or not found:
            raise self.wrong(f"{path[-1]} has to be a text, and is {shown(found)}", *path)
        return found

    def tables(self, raw: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
        """The list of tables `name`, empty where there is none."""
        found = raw.get(name, [])
        if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
            raise self.wrong(f"{name} has to be a list of tables ([[{name}]])", name)
        return found

    def word(self, raw: Mapping[str, Any], name: str) -> str:
        """A text, empty where there is none."""
        return self.string(raw[name], name) if raw.get(name, "") != "" else ""

    def template(self, name: str, *path: str) -> str:
        """A tensor's name, in which braces stand around "layer" and "expert" alone."""
        if set("{}") & set(name.replace("{layer}", "").replace(EXPERT, "")):
            raise self.wrong(f"{shown(name)} has braces around something else than layer or expert", *path)
        return name

    def templates(self, found: Any, *path: str) -> tuple[str, ...]:
        """A list of such names."""
        return tuple(self.template(each, *path) for each in self.strings(found, *path))

    def known(self, found: Collection[Any], allowed: Collection[str], *path: str) -> None:
        """Raise for what is not among `allowed`."""
        for each in found:
            if each not in allowed:
                names = ", ".join(name for name in allowed if name)
                raise self.wrong(f"{path[-1]} says {shown(each)}, which is not known; known: {names}", *path)


def read_architecture(text: str, where: str) -> Architecture:
    """The architecture that TOML `text` describes; raises CheckpointError, naming `where` and the line of a fault."""
    try:
        raw = parse_toml(text, most_bytes=MOST_BYTES)
    except ValueError as error:
        raise CheckpointError(f"{where} is no TOML: {error}.") from None
    at = _Text(text, where)
    for key in _NEEDED:
        if key not in raw:
            raise at.wrong(f"there is no {key}, which every architecture needs")
    for key in raw:
        if key not in {each.name for each in fields(Architecture)}:
            raise at.wrong(f"{key} is no fact that is known", key)
    widths = _widths(at, raw)
    return Architecture(
        name=at.string(raw["name"], "name"),
        gguf=at.string(raw["gguf"], "gguf"),
        classes=at.strings(raw["classes"], "classes"),
        skip=at.strings(raw.get("skip", []), "skip"),
        rope_types=at.strings(raw.get("rope_types", []), "rope_types"),
        defaults=MappingProxyType(dict(at.table(raw, "defaults"))),
        require=MappingProxyType({key: _values(at, key, found) for key, found in at.table(raw, "require").items()}),
        equal=_equal(at, raw, widths),
        metadata=MappingProxyType({key: _metadata(at, key, found) for key, found in at.table(raw, "metadata").items()}),
        tensors=tuple(_tensor(at, name, found, widths) for name, found in at.table(raw, "tensors").items()),
        groups=tuple(_group(at, found) for found in at.tables(raw, "groups")),
        stream=_stream(at, raw),
        widths=MappingProxyType({name: tuple(parts) for name, parts in at.table(raw, "widths").items()}),
        implied=tuple(_implied(at, found, widths) for found in at.tables(raw, "implied")),
        stated=at.strings(raw.get("stated", []), "stated"),
        aliases=MappingProxyType({k: at.string(own, "aliases", k) for k, own in at.table(raw, "aliases").items()}),
        multiples=MappingProxyType({k: _count(at, k, times) for k, times in at.table(raw, "multiples").items()}),
        prefix=at.word(raw, "prefix"),
        absent=at.strings(raw.get("absent", []), "absent"),
        layer_types=at.strings(raw.get("layer_types", []), "layer_types"),
        local_rope=_local_rope(at, raw),
        settled=tuple(_settled(at, found) for found in raw.get("settled", [])),
        transformers=at.word(raw, "transformers"),
        encoder=_flag(at, raw, "encoder"),
        needed=tuple(_needed(at, found) for found in at.tables(raw, "needed")),
        prefixes=_words(at, raw, "prefixes"),
        sparse=_sparse(at, raw),
        sums=MappingProxyType({k: at.strings(own, "sums", k) for k, own in at.table(raw, "sums").items()}),
        repeats=MappingProxyType({k: _listed(at, own, "repeats", k) for k, own in at.table(raw, "repeats").items()}),
        silent_in=MappingProxyType(
            {k: _counts(at, own, "silent_in", k) for k, own in at.table(raw, "silent_in").items()}
        ),
        told_by=MappingProxyType(dict(at.table(raw, "told_by"))),
        nested=_words(at, raw, "nested"),
        beside=_words(at, raw, "beside"),
        scores_yarn=_flag(at, raw, "scores_yarn"),
        rounds_yarn=_flag(at, raw, "rounds_yarn"),
        engine=_network(at, raw),
    )


def _words(at: _Text, raw: Mapping[str, Any], name: str) -> Mapping[str, str]:
    """A table of texts."""
    return MappingProxyType({key: at.string(own, name, key) for key, own in at.table(raw, name).items()})


def _listed(at: _Text, found: Any, *path: str) -> tuple[Any, ...]:
    if not isinstance(found, list) or not found:
        raise at.wrong(f"{path[-1]} has to be a list, and is {shown(found)}", *path)
    return tuple(found)


def _counts(at: _Text, found: Any, *path: str) -> tuple[int, ...]:
    if not all(type(each) is int and each > 0 for each in _listed(at, found, *path)):
        raise at.wrong(f"{path[-1]} has to be a list of counts, and is {shown(found)}", *path)
    return tuple(found)


def _sparse(at: _Text, raw: Mapping[str, Any]) -> SparseFact | None:
    if "sparse" not in raw:
        return None
    found = at.table(raw, "sparse")
    at.known(found, [each.name for each in fields(SparseFact)], "sparse")
    fact = SparseFact(**{key: at.string(own, "sparse", key) for key, own in found.items()})
    for key in filter(None, (fact.first, fact.step)):
        if type(raw.get("defaults", {}).get(key)) is not int or raw["defaults"][key] < (key == fact.step):
            raise at.wrong(f"sparse counts layers by {key}, to which [defaults] gives no number of its own", "sparse")
    return fact


def _flag(at: _Text, raw: Mapping[str, Any], name: str) -> bool:
    found = raw.get(name, False)
    if not isinstance(found, bool):
        raise at.wrong(f"{name} has to be true or false, and is {shown(found)}", name)
    return found


def _widths(at: _Text, raw: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of all widths."""
    own = at.table(raw, "widths")
    for name, parts in own.items():
        at.known(at.strings(parts, "widths", name), WIDTHS, "widths", name)
    return (*WIDTHS, *own)


def _values(at: _Text, key: str, found: Any) -> tuple[Any, ...]:
    if not isinstance(found, list) or not found:
        raise at.wrong(f"{key} has to be a list of the values that can be converted", "require", key)
    return tuple(found)


def _count(at: _Text, key: str, found: Any) -> int:
    if type(found) is not int or found < 1:
        raise at.wrong(f"{key} has to be a count, and is {shown(found)}", "multiples", key)
    return found


def _equal(at: _Text, raw: Mapping[str, Any], widths: Collection[str]) -> tuple[tuple[str, str], ...]:
    pairs = raw.get("equal", [])
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise at.wrong("equal has to be a list of pairs of widths", "equal")
    for pair in pairs:
        at.known(pair, widths, "equal")
    return tuple((a, b) for a, b in pairs)


def _metadata(at: _Text, key: str, found: Any) -> MetadataFact:
    parts = at.strings(found, "metadata", key)
    if len(parts) not in (2, 3) or parts[2:] not in ((), ("optional",)):
        raise at.wrong(f'{key} has to be [configuration key, type] or [.., .., "optional"]', "metadata", key)
    at.known(parts[1:2], METADATA_TYPES, "metadata", key)
    return MetadataFact(parts[0], parts[1], optional=len(parts) > 2)


_TENSOR_KINDS: Mapping[str, type] = MappingProxyType(
    {
        "shape": list,
        "add": float,
        "transposed": bool,
        "flat": bool,
        "aside": bool,
        "sources": dict,
        "view": list,
        "take": int,
        "merged": bool,
    }
)
"""What the keys of a tensor are, where they are no texts."""


def _tensor(at: _Text, name: str, found: Any, widths: Collection[str]) -> TensorFact:
    path = ("tensors", name)
    if not isinstance(found, dict) or not {"source", "shape"} <= set(found):
        raise at.wrong(f"{name} has to be a table with source and shape", *path)
    at.known(found, [each.name for each in fields(TensorFact) if each.name != "gguf"], *path)
    for key, value in found.items():
        if not isinstance(value, _TENSOR_KINDS.get(key, str)):
            raise at.wrong(f"{name} has {key} = {shown(value)}, which is of another kind", *path)
    at.known(at.strings(found["shape"], *path), widths, *path)
    at.known([found.get("order", "")], ORDERS, *path)
    at.known([found.get("only", "")], LAYER_KINDS, *path)
    for side in at.strings(found.get("view", []), *path):
        parts = widths_on(side)
        at.known(parts, widths, *path)
        if len(parts) > 1 and not 0 <= found.get("take", 0) < len(parts):
            raise at.wrong(f"{name} takes part {found['take']} of a side of {len(parts)}", *path)
    others = [at.string(other, *path) for other in found.get("sources", {}).values()]
    for each in (name, found["source"], found.get("parameter", ""), *others):
        at.template(each, *path)
    if any(("{layer}" in name) != ("{layer}" in source) for source in (found["source"], *others)):
        raise at.wrong(f"{name} and its source have to name the layer both, or neither", *path)
    lists = {key: tuple(found.get(key, ())) for key in ("shape", "view")}
    return TensorFact(gguf=name, **{**found, **lists})


def _group(at: _Text, found: Mapping[str, Any]) -> GroupFact:
    missing = {"name", "kind", "producers", "consumers"} ^ set(found)
    if missing:
        raise at.wrong(f"a group has name, kind, producers and consumers; see {sorted(missing)[0]}", "groups")
    at.known([found["kind"]], GROUP_KINDS, "groups", "kind")
    producers, consumers = (at.templates(found[key], "groups", key) for key in ("producers", "consumers"))
    return GroupFact(at.string(found["name"], "groups", "name"), found["kind"], producers, consumers)


def _stream(at: _Text, raw: Mapping[str, Any]) -> StreamFact:
    stream = at.table(raw, "stream")
    embedding = at.string(stream.get("embedding"), "stream", "embedding")
    # Nothing of an encoder that is quantized reads its last states.
    head = "" if raw.get("encoder") else at.string(stream.get("head"), "stream", "head")
    return StreamFact(embedding, head, at.templates(stream.get("writers", []), "stream", "writers"))


def _implied(at: _Text, found: Mapping[str, Any], widths: Collection[str]) -> ImpliedFact:
    key, width = (at.string(found.get(name), "implied", name) for name in ("key", "width"))
    at.known([width], (*widths, "hidden / heads"), "implied", "width")
    layers = found.get("layers", [])
    if not isinstance(layers, list) or not all(type(each) is int for each in layers):
        raise at.wrong(f"layers has to be a list of counts, and is {shown(layers)}", "implied", "layers")
    return ImpliedFact(key, width, tuple(layers))


def _settled(at: _Text, found: Mapping[str, Any]) -> SettledFact:
    if not {"key", "value", "where"} == set(found) or not isinstance(found["where"], dict) or not found["where"]:
        raise at.wrong("what is settled has key, value, and where: a table of the values by which it is", "settled")
    return SettledFact(at.string(found["key"], "settled", "key"), found["value"], MappingProxyType(found["where"]))


def _needed(at: _Text, found: Mapping[str, Any]) -> NeededFact:
    if not {each.name for each in fields(NeededFact)} == set(found) or not isinstance(found["where"], dict):
        raise at.wrong(
            "what is needed has key, value, where (a table of the values by which it is), otherwise", "needed"
        )
    key = at.string(found["key"], "needed", "key")
    return NeededFact(key, found["value"], MappingProxyType(found["where"]), found["otherwise"])


def _local_rope(at: _Text, raw: Mapping[str, Any]) -> LocalRope | None:
    if "local_rope" not in raw:
        return None
    found = at.table(raw, "local_rope")
    kind, others, base = (at.string(found.get(key), "local_rope", key) for key in ("kind", "others", "base"))
    return LocalRope(kind, others, base)


_NETWORK_WORDS: Mapping[str, Collection[str]] = MappingProxyType(
    {"norm": NORMS, "gate": GATES, "query_norms": QUERY_NORMS, "expert_scores": SCORES}
)
_FACTORS = ("embedding", "scores", "added", "logits")


def _network(at: _Text, raw: Mapping[str, Any]) -> NetworkFact | None:
    if "engine" not in raw:
        return None
    found = at.table(raw, "engine")
    at.known(found, [each.name for each in fields(NetworkFact)], "engine")
    read = {key: _network_fact(at, key, own) for key, own in found.items()}
    for key in ("norm", "activation", "gate"):
        if key not in read:
            raise at.wrong(f"there is no {key}, which every network needs", "engine")
    return NetworkFact(**read)


def _network_fact(at: _Text, key: str, found: Any) -> Any:
    path = ("engine", key)
    if key == "before_attention":
        return at.strings(found, *path)
    if key in _FACTORS:
        stated = found if isinstance(found, dict) else {}
        if set(stated) != {"key", "power"} or type(stated["power"]) not in (int, float):
            raise at.wrong(f"{key} has to be {{ key, power }}, and is {shown(found)}", *path)
        return PowerFact(at.string(stated["key"], *path), float(stated["power"]))
    if key == "parallel" and isinstance(found, bool):
        return found
    word = at.string(found, *path)
    at.known([word], _NETWORK_WORDS.get(key, [word]), *path)
    return word
