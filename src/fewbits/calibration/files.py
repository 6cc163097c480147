"""Calibration text on disk: text files, JSON Lines, and directories of them or of a data set of Hugging Face."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Any

from fewbits.calibration.documents import Document, Source, from_rows
from fewbits.errors import CalibrationError

Parse = Callable[[Path, bytes], "tuple[Document, ...]"]


def read_source(path: Path) -> Source:
    """The documents of a file or directory; raises CalibrationError where there are none, saying why."""
    if path.is_dir():
        return _read_directory(path)
    data = _read_bytes(path)
    parse = PARSERS.get(path.suffix.lower(), _parse_text)
    return Source(str(path), hashlib.sha256(data).hexdigest(), parse(path, data))


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise CalibrationError(f"{path}: there is no such file of calibration text.") from None
    except OSError as error:
        raise CalibrationError(f"{path}: the calibration text cannot be read ({error.strerror}).") from None


def _read_directory(path: Path) -> Source:
    """All files of rows below `path`; where there are none, all text files; of several splits the one for training."""
    found = [file for file in sorted(path.rglob("*")) if file.is_file() and _is_data(file.relative_to(path))]
    rows = [file for file in found if file.suffix.lower() in ROWS]
    files, remarks = _training(path, rows or found)
    if not files:
        raise CalibrationError(
            f"{path} holds no file that can be read as calibration text; known endings are {', '.join(PARSERS)}."
        )
    documents: list[Document] = []
    digest = hashlib.sha256()
    for file in files:
        data = _read_bytes(file)
        digest.update(f"{file.relative_to(path).as_posix()}\0{hashlib.sha256(data).hexdigest()}\n".encode())
        documents += PARSERS[file.suffix.lower()](file, data)
    return Source(str(path), digest.hexdigest(), tuple(documents), remarks)


def _is_data(path: PurePath) -> bool:
    """Whether a file in a directory is text or rows, by its name; what describes a data set is neither."""
    hidden = any(part.startswith((".", "_")) for part in path.parts)
    return path.suffix.lower() in PARSERS and path.name not in _DESCRIPTIONS and not hidden


def _training(path: Path, files: list[Path]) -> tuple[list[Path], tuple[str, ...]]:
    """The files of the split for training, where names tell splits: a test split is not for calibrating on."""
    training = [file for file in files if any(p.startswith("train") for p in file.relative_to(path).parts)]
    if not training or len(training) == len(files):
        return files, ()
    return training, (f"{path}: of {len(files)} files, the {len(training)} of the training split were read",)


def decoded(path: Path, data: bytes) -> str:
    """`data` as text; raises CalibrationError saying which byte is not UTF-8."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CalibrationError(f"{path}: not UTF-8 text (byte {error.start}); convert it to UTF-8 first.") from None


def _parse_text(path: Path, data: bytes) -> tuple[Document, ...]:
    return (decoded(path, data),)


def _parse_lines(path: Path, data: bytes) -> tuple[Document, ...]:
    return from_rows(_json_lines(path, decoded(path, data)))


def _json_lines(path: Path, text: str) -> Iterator[tuple[str, object]]:
    # Not `splitlines`: JSON strings may hold other ends of lines than \n.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{path}, line {number},"
            try:
                yield where, json.loads(line)
            except ValueError as error:
                raise CalibrationError(f"{where} is not valid JSON ({error}); correct or remove it.") from None
            except RecursionError:
                raise CalibrationError(f"{where} nests deeper than any text does; remove it.") from None


def _parse_json(path: Path, data: bytes) -> tuple[Document, ...]:
    """A list of rows; also lines of JSON, which data sets store under this name too."""
    text = decoded(path, data)
    if not text.lstrip().startswith("["):
        return _parse_lines(path, data)
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise CalibrationError(f"{path} is not valid JSON ({error}); correct it.") from None
    except RecursionError:
        raise CalibrationError(f"{path} nests deeper than any text does; it is no calibration text.") from None
    return from_rows((f"{path}, row {number},", row) for number, row in enumerate(rows))


def _parse_table(path: Path, data: bytes) -> tuple[Document, ...]:
    """Parquet and Arrow, as `datasets` stores them."""
    try:
        import pyarrow
    except ImportError:
        raise CalibrationError(
            f"{path}: reading {path.suffix} needs pyarrow, which is not installed; pip install 'fewbits[data]', or "
            "store the text as JSON Lines."
        ) from None
    try:
        rows = _table(path, pyarrow.BufferReader(data)).to_pylist()
    except pyarrow.ArrowException as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise CalibrationError(f"{path} cannot be read as {path.suffix[1:]} ({reason}); it is damaged.") from None
    return from_rows((f"{path}, row {number},", row) for number, row in enumerate(rows))


def _table(path: Path, stream: Any) -> Any:
    """The columns of text of a table; arrow files of `datasets` are streams, those of others may be files."""
    import pyarrow

    if path.suffix.lower() == ".parquet":
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(stream)
    else:
        try:
            table = pyarrow.ipc.open_stream(stream).read_all()
        except pyarrow.ArrowInvalid:
            stream.seek(0)
            table = pyarrow.ipc.open_file(stream).read_all()
    texts = [name for name in ("text", "messages", "conversations") if name in table.column_names]
    return table.select(texts) if texts else table.slice(0, 1)


ROWS: Mapping[str, Parse] = MappingProxyType(
    {".jsonl": _parse_lines, ".json": _parse_json, ".parquet": _parse_table, ".arrow": _parse_table}
)
"""Ending -> reader of files whose rows are documents."""

PARSERS: Mapping[str, Parse] = MappingProxyType(
    {**dict.fromkeys((".txt", ".md", ".rst", ".text"), _parse_text), **ROWS}
)
"""Ending -> reader; a file that is named itself is a text whatever its ending."""

_DESCRIPTIONS = frozenset({"dataset_info.json", "dataset_dict.json", "dataset_infos.json", "state.json"})
