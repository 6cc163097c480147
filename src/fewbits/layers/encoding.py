"""One weight in memory as a packed matrix, and the proof that it is the weight's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fewbits import formats, kernels, methods
from fewbits.checkpoints.base import StoredTensor
from fewbits.checkpoints.fields import Matrix, StoredMatrix
from fewbits.checkpoints.imatrix import Importance
from fewbits.encoding import encode_slab, joined, require_representable, shared_parameters, slabs
from fewbits.formats import Fields
from fewbits.layers.matrix import PackedMatrix
from fewbits.reporting.record import PlannedTensor
from fewbits.verification.files import verify_stored
from fewbits.verification.matrices import Expectation, Inputs, relative_rms
from fewbits.workers import Workers


@dataclass(frozen=True)
class Claim:
    """A matrix, the weight that it is said to store, and the relative error that was recorded."""

    matrix: PackedMatrix
    source: StoredTensor
    error: float


def packed_matrix(
    source: StoredTensor, planned: PlannedTensor, weights: Importance | None, workers: Workers
) -> tuple[PackedMatrix, float]:
    """The matrix in its format, and its relative error."""
    format = formats.get(planned.format)
    shared = shared_parameters(format, source)
    row = weights.row(0) if weights else None

    def encode(slab: tuple[int, int]) -> tuple[Fields, kernels.Doubles, kernels.Doubles]:
        like = shared.slice(*slab) if shared else None
        encoded = encode_slab(methods.get(planned.method), planned, source.format, source.slab(*slab), row, like)
        require_representable(source, planned, encoded)
        return encoded.part(slab[0]), encoded.squared_error, encoded.squared

    done = [each for _, each in workers.in_order(encode, slabs(source, format, weights))]
    matrix = PackedMatrix(planned.format, (source.rows, source.cols), joined([part for part, *_ in done]))
    return matrix, relative_rms([e for _, e, _ in done], [s for *_, s in done])


def verify_packed(claims: Mapping[str, Claim], workers: Workers, progress: Callable[[int, int], None]) -> None:
    """Read every matrix by code of its own and compare it with its weight; raises VerificationError."""
    stored, expected = {}, {}
    for name, claim in claims.items():
        stated = Matrix(name, claim.matrix.format, claim.matrix.shape)
        stored[name] = StoredMatrix(**vars(stated), bytes=claim.matrix.bytes, load=claim.matrix.stored)
        expected[name] = Expectation(claim.source, None, claim.matrix.format, claim.error, inputs=Inputs())
    verify_stored(stored, expected, workers, progress)
