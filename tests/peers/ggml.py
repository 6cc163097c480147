"""ggml's own C code through the library inside llama-cpp-python: its quantizers, decoders and choice of types."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

_QUANTIZED = (
    "Q4_0",
    "Q4_1",
    "Q5_0",
    "Q5_1",
    "Q8_0",
    "Q2_K",
    "Q3_K",
    "Q4_K",
    "Q5_K",
    "Q6_K",
    "IQ4_NL",
    "IQ4_XS",
    "IQ1_S",
    "IQ1_M",
    "TQ1_0",
    "TQ2_0",
    "Q1_0",
    "Q2_0",
    "MXFP4",
    "NVFP4",
    "IQ2_XXS",
    "IQ2_XS",
    "IQ2_S",
    "IQ3_XXS",
    "IQ3_S",
)
_DECODERS = {
    "F16": "ggml_fp16_to_fp32_row",
    "BF16": "ggml_bf16_to_fp32_row",
    **{name: f"dequantize_row_{name.lower().replace('_k', '_K')}" for name in _QUANTIZED},
}
_REFUSED = ("IQ2_XXS", "IQ2_XS", "IQ1_S")
"""Types that ggml does not quantize without importance: there it gets an even one."""

FORMATS = tuple(_DECODERS)
"""The formats that ggml and fewbits both have, but for F32."""
UNKNOWN_TO_THE_PACKAGE = ("Q1_0", "Q2_0")
"""The types that gguf 0.19 cannot decode: the C code is the only peer."""

FILE_TYPES = {
    **{kind.name.split("_", 1)[1]: int(kind) for kind in gguf.LlamaFileType if kind.name != "GUESSED"},
    "Q2_0": 41,  # the gguf package does not know it yet
}
"""llama-quantize's names of its mixes and their numbers."""

LARGE_ENDS = {"Q2_K_L": "Q2_K", "Q3_K_XL": "Q3_K_L", "Q4_K_L": "Q4_K_M", "Q5_K_L": "Q5_K_M", "Q6_K_L": "Q6_K"}
"""The community's mixes: llama-quantize's with --output-tensor-type and --token-embedding-type Q8_0."""

MIXES = (*(name for name in FILE_TYPES if name != "NVFP4"), *LARGE_ENDS)
"""All mixes; NVFP4 is one that llama.cpp reads and llama-quantize does not make."""


@cache
def _library() -> ctypes.CDLL:
    import llama_cpp

    folder = Path(llama_cpp.__file__).parent / "lib"
    found = sorted(folder.glob("libggml-base.*"))
    library = ctypes.CDLL(str(found[0]))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_void_p,
    ]
    library.ggml_type_name.restype = ctypes.c_char_p
    library.ggml_blck_size.restype = ctypes.c_int64
    library.ggml_type_size.restype = ctypes.c_size_t
    for name in _DECODERS.values():
        getattr(library, name).argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
        getattr(library, name).restype = None
    return library


TYPE_COUNT = 43
"""ggml.h's GGML_TYPE_COUNT in llama-cpp-python 0.3.36."""


@cache
def types() -> dict[str, tuple[int, int, int]]:
    """Name -> type number, columns and bytes per span, of the types that the library has; newer than the package's."""
    library, found = _library(), {}
    for number in range(TYPE_COUNT):
        if span := library.ggml_blck_size(number):
            name = library.ggml_type_name(number).decode()
            found[name.upper()] = (number, span, library.ggml_type_size(number))
    return found


def encode(name: str, w: Floats, importance: Floats | None = None) -> Bytes:
    """The bytes (rows, bytes per row) that llama-quantize stores for `w` (rows, cols).

    `importance` (cols,) is a tensor's vector of an importance matrix; where ggml wants one, an even one is made.
    """
    if importance is None and name in _REFUSED:
        importance = np.ones(w.shape[1], np.float32)
    kind, span, size = types()[name]
    w = np.ascontiguousarray(w, np.float32)
    rows, cols = w.shape
    stored = np.zeros((rows, cols // span * size), np.uint8)
    vector = None if importance is None else np.ascontiguousarray(importance, np.float32)
    assert vector is None or vector.shape == (cols,)
    at = None if vector is None else vector.ctypes.data
    written = _library().ggml_quantize_chunk(kind, w.ctypes.data, stored.ctypes.data, 0, rows, cols, at)
    assert written == stored.size
    return stored


def decode(name: str, stored: Bytes) -> Floats:
    """ggml's numbers (rows, cols) of stored bytes (rows, bytes per row)."""
    _, span, size = types()[name]
    stored = np.ascontiguousarray(stored)
    w = np.empty((len(stored), stored.shape[1] // size * span), np.float32)
    getattr(_library(), _DECODERS[name])(stored.ctypes.data, w.ctypes.data, w.size)
    return w


def chosen_types(source: Path, recipe: str, target: Path) -> dict[str, str]:
    """Tensor -> type in the file that llama-quantize makes of the GGUF file `source`; `target` is overwritten."""
    import llama_cpp

    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = int(gguf.LlamaFileType[f"MOSTLY_{recipe}"])
    parameters.nthread = 1
    done = llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(parameters))
    assert done == 0, f"llama.cpp could not make {recipe} of {source}"
    return {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(target).tensors}


def quantize_by_importance(source: Path, recipe: str, target: Path, importance: dict[str, Floats]) -> None:
    """Write what llama-quantize makes of the GGUF file `source` with an importance matrix."""
    import llama_cpp

    values = {name: np.ascontiguousarray(rows, np.float32).ravel() for name, rows in importance.items()}
    entry, pointer = llama_cpp.llama_model_imatrix_data, ctypes.POINTER(ctypes.c_float)
    entries = [entry(name.encode(), v.ctypes.data_as(pointer), v.size) for name, v in values.items()]
    array = (entry * (len(entries) + 1))(*entries, entry(None, None, 0))
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype, parameters.nthread, parameters.imatrix = FILE_TYPES[recipe], 1, array
    done = llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(parameters))
    assert done == 0, f"llama.cpp could not make {recipe} of {source}"


def planned_types(source: Path, recipe: str, *, importance: bool = False) -> dict[str, str]:
    """Tensor -> type that llama-quantize would choose for the GGUF file `source`; it writes nothing.

    `importance` stands for an importance matrix. Empty where llama-quantize refuses: Q1_0 has no fallback.
    """
    found = re.findall(_PLANNED, _dry_run(source, recipe, importance=importance), re.MULTILINE)
    return {name: (after or before).upper() for name, before, after in found}


def requires_importance(source: Path, recipe: str) -> bool:
    """Whether llama-quantize would refuse `recipe` for the GGUF file `source` without an importance matrix."""
    return "will require an imatrix" in _dry_run(source, recipe, importance=False)


def _dry_run(source: Path, recipe: str, *, importance: bool) -> str:
    """What llama-quantize says; "" where it refuses."""
    import llama_cpp

    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = FILE_TYPES[LARGE_ENDS.get(recipe, recipe)]
    parameters.nthread, parameters.dry_run = 1, True
    if recipe in LARGE_ENDS:
        parameters.output_tensor_type = parameters.token_embedding_type = int(gguf.GGMLQuantizationType.Q8_0)
    number = ctypes.c_float(1)
    entry = llama_cpp.llama_model_imatrix_data
    entries = (entry * 2)(entry(b"any.weight", ctypes.pointer(number), 1), entry(None, None, 0))
    if importance:
        parameters.imatrix = entries
    with _listening() as said:
        done = llama_cpp.llama_model_quantize(os.fsencode(source), b"", ctypes.byref(parameters))
    log = b"".join(said).decode()
    assert done == 0 or "no tensor type fallback" in log, f"llama.cpp could not plan {recipe}: {log[-2000:]}"
    return log if done == 0 else ""


_PLANNED = r"^\[ *\d+/ *\d+\] +(\S+) +- \[.*?\], type = +(\w+), size = .*?(?:\((\w+)\))?$"
"""What a dry run says of a tensor: name, type, and the type to come where it is another one."""


@contextmanager
def _listening() -> Iterator[list[bytes]]:
    """What llama.cpp says meanwhile."""
    import llama_cpp

    said: list[bytes] = []
    listen = llama_cpp.llama_log_callback(lambda _level, text, _data: said.append(text))
    llama_cpp.llama_log_set(listen, None)
    try:
        yield said
    finally:
        llama_cpp.llama_log_set(llama_cpp._logger.llama_log_callback, None)
