"""What is fuzzed: each reader with inputs that it takes, small ones, and the ways in which these are spoiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from fuzz.containers import (
    gguf_seeds,
    imatrix_dat_seeds,
    imatrix_gguf_seeds,
    index_seeds,
    read_gguf,
    read_header,
    read_imatrix,
    read_index,
    read_safetensors,
    safetensors_seeds,
)
from fuzz.directories import directory_seeds, read_directory
from fuzz.graphs import graph_seeds, read_graph, spoiled_graph
from fuzz.mutations import BYTES, JSON, TOML, Mutation
from fuzz.texts import (
    architecture_seeds,
    calibration_seeds,
    card_seeds,
    config_seeds,
    pickle_seeds,
    pieces_seeds,
    read_architecture_file,
    read_calibration,
    read_card,
    read_config_json,
    read_pickle,
    read_recipe,
    recipe_seeds,
    settings_seeds,
    spoiled_pickle,
    tokenizer_file,
    tokenizer_seeds,
)
from fuzz.writing import read_schema_file, schema_seeds


@dataclass(frozen=True)
class Target:
    """One reader."""

    seeds: Callable[[], list[bytes]]
    """Inputs that it takes."""
    read: Callable[[Path], object]
    """Reads the file as completely as fewbits ever does; may raise nothing but FewbitsError."""
    mutations: Sequence[Mutation] = BYTES
    name: str = "input"
    """Of the file, whose ending some readers look at."""


TARGETS: Mapping[str, Target] = MappingProxyType(
    {
        "gguf": Target(gguf_seeds, read_gguf),
        "safetensors": Target(safetensors_seeds, read_safetensors, name="input.safetensors"),
        "safetensors-header": Target(
            lambda: [each[8 : 8 + int.from_bytes(each[:8], "little")] for each in safetensors_seeds()],
            read_header,
            JSON,
        ),
        "index": Target(index_seeds, read_index, JSON),
        "imatrix-gguf": Target(imatrix_gguf_seeds, read_imatrix),
        "imatrix-dat": Target(imatrix_dat_seeds, read_imatrix),
        "config": Target(config_seeds, read_config_json, JSON),
        "tokenizer": Target(tokenizer_seeds, tokenizer_file("tokenizer.json"), JSON),
        "tokenizer-config": Target(settings_seeds, tokenizer_file("tokenizer_config.json"), JSON),
        "sentencepiece": Target(pieces_seeds, tokenizer_file("tokenizer.model")),
        "recipe": Target(recipe_seeds, read_recipe, TOML, "mine.toml"),
        "architecture": Target(architecture_seeds, read_architecture_file, TOML, "mine.toml"),
        "calibration": Target(calibration_seeds, read_calibration, JSON, "rows.jsonl"),
        "card": Target(card_seeds, read_card, JSON),
        "directory": Target(directory_seeds, read_directory, JSON),
        "onnx": Target(graph_seeds, read_graph, (*BYTES, *[spoiled_graph] * 12), "input.onnx"),
        "schema": Target(schema_seeds, read_schema_file, JSON),
        "pickle": Target(pickle_seeds, read_pickle, (*BYTES, *[spoiled_pickle] * 6)),
    }
)
