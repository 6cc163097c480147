"""Open a written file as a stranger would, and compare every tensor with the source, read again.

Nothing of the way in is used on the way out: the header is read by our reader (the gguf package wrote it), the bytes
are decoded by a reader of their own (native/verify), names go from the file to the source through the architecture
facts (the gguf package's map brought them here), and where llama.cpp wants the rows of a head interleaved, the row is
computed from its number. Success is refused unless each tensor is there once, agrees with the source within its
format's bound, and has exactly the error that was recorded while it was written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from fewbits.checkpoints.base import StoredTensor, Value
from fewbits.checkpoints.fields import FieldsReader, StoredMatrix
from fewbits.checkpoints.gguf import GGUFReader
from fewbits.checkpoints.gguf_parts import GGUFParts, join_parts
from fewbits.checkpoints.safetensors import INDEX_NAME, SafetensorsReader, ShardedReader, open_directory
from fewbits.digest import OutputDigest, sha256_of_parts
from fewbits.errors import VerificationError
from fewbits.verification.dialects import Directory, Reading
from fewbits.verification.matrices import Expectation, check_reading, check_stored, check_tensor
from fewbits.workers import Workers


def open_written(paths: Sequence[Path]) -> GGUFParts:
    """What was written into `paths`: one file, or all parts of one, which have to say so."""
    readers = tuple(map(GGUFReader, paths))
    return join_parts(readers) if len(readers) > 1 else GGUFParts(readers)


def verify(
    paths: Sequence[Path],
    metadata: Mapping[str, Value],
    expected: Mapping[str, Expectation],
    workers: Workers,
    progress: Callable[[int, int], None],
) -> OutputDigest:
    """Check a file, in `paths` parts, against what it must hold and return its SHA-256; raises VerificationError."""
    digest = workers.submit(partial(sha256_of_parts, paths, workers.cancelled))
    file = open_written(paths)
    _check_metadata(file, metadata)
    _require_same_names(file.path, file.names(), expected)
    total = sum(e.source.bytes for e in expected.values())
    done = 0
    for name in file.names():
        done = check_tensor(file.read(name), expected[name], workers, lambda n: progress(n, total), done)
    return digest.result()


def verify_fields(
    folder: Path,
    weights: Sequence[Path],
    expected: Mapping[str, Expectation],
    workers: Workers,
    progress: Callable[[int, int], None],
) -> OutputDigest:
    """Check the model directory `folder` in the fewbits dialect and return the SHA-256 of `weights`.

    Raises VerificationError.
    """
    digest = workers.submit(partial(sha256_of_parts, weights, workers.cancelled))
    file = FieldsReader(_open(folder, weights))
    _require_same_names(folder, file.names(), expected)
    verify_stored({name: file.read(name) for name in file.names()}, expected, workers, progress)
    return digest.result()


def verify_stored(
    stored: Mapping[str, StoredMatrix | StoredTensor],
    expected: Mapping[str, Expectation],
    workers: Workers,
    progress: Callable[[int, int], None],
) -> None:
    """Check matrices by their fields, wherever those lie, against what they must hold; raises VerificationError."""
    total, done = sum(e.source.bytes for e in expected.values()), 0
    for name, found in stored.items():
        done = check_stored(found, expected[name], workers, lambda n: progress(n, total), done)


def _open(folder: Path, weights: Sequence[Path]) -> SafetensorsReader | ShardedReader:
    """The directory's weights as any reader finds them; raises VerificationError where those are others."""
    reader, files = open_directory(folder)
    if {file for file in files if file.name != INDEX_NAME} != set(weights):
        raise VerificationError(f"{folder} does not lead to {', '.join(f.name for f in weights)}; it is not kept.")
    assert isinstance(reader, SafetensorsReader | ShardedReader), "pickles were not asked for"
    return reader


def verify_dialect(
    folder: Path,
    weights: Sequence[Path],
    expected: Mapping[str, Expectation],
    workers: Workers,
    progress: Callable[[int, int], None],
) -> OutputDigest:
    """Check the model directory `folder` in a dialect of others and return the SHA-256 of `weights`.

    Raises VerificationError.
    """
    digest = workers.submit(partial(sha256_of_parts, weights, workers.cancelled))
    directory = Directory.of(folder, _open(folder, weights))
    read = {name: directory.read(name) for name in expected}
    used = {part for name, reading in read.items() for part in (reading.tensors if reading else {name})}
    if used != set(directory.weights.names()):
        odd = sorted(used ^ set(directory.weights.names()))
        raise VerificationError(
            f"{folder} and its source differ in the tensor {odd[0]} ({len(odd)} in all); it is not kept."
        )
    total = sum(e.source.bytes for e in expected.values())
    done = 0
    for name, want in expected.items():
        reading = read[name]
        if reading is None:
            done = check_tensor(directory.weights.read(name), want, workers, lambda n: progress(n, total), done)
        else:
            done = check_reading(name, reading, want, workers, lambda n: progress(n, total), done)
    return digest.result()


def verify_readings(
    expected: Mapping[str, Expectation],
    readings: Mapping[str, Reading],
    workers: Workers,
    progress: Callable[[int, int], None],
) -> None:
    """Check what others read of each expected matrix; raises VerificationError."""
    total, done = sum(e.source.bytes for e in expected.values()), 0
    for name, want in expected.items():
        done = check_reading(name, readings[name], want, workers, lambda n: progress(n, total), done)


def _check_metadata(file: GGUFParts, metadata: Mapping[str, Value]) -> None:
    for key, value in metadata.items():
        found = file.metadata.get(key)
        if found is None or found.type != value.type or found.value != value.value:
            raise VerificationError(f"{file.path} does not hold the metadata key {key} as it should; it is not kept.")


def _require_same_names(path: Path, found: list[str], expected: Mapping[str, Expectation]) -> None:
    if set(found) != set(expected):
        odd = sorted(set(found) ^ set(expected))
        raise VerificationError(
            f"{path} and its source differ in the tensor {odd[0]} ({len(odd)} in all); it is not kept."
        )
