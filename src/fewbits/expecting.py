"""What the verifier has to find in an output: put together from where tensors come from and what was recorded."""

from __future__ import annotations

from collections.abc import Mapping

from fewbits.checkpoints.base import Conversion
from fewbits.errors import CheckpointError
from fewbits.reporting.record import TensorResult
from fewbits.verification.matrices import Allowance, Expectation, Inputs
from fewbits.verification.rotation import Turned
from fewbits.verification.sources import Origin


def expectation(origin: Origin, result: TensorResult, allowance: Allowance, turned: Turned | None) -> Expectation:
    """What the verifier must find of a tensor: `origin` or what a rotation made of it, as `result` was written."""
    planned, error = result.planned, result.relative_rms
    inputs = Inputs(planned.activation, planned.outliers)
    return Expectation(origin.source, origin.order, planned.format, error, origin.add, allowance, turned, inputs)


def require_planned(sources: Mapping[str, object], planned: Mapping[str, object]) -> None:
    """Raise CheckpointError where a tensor that the source must have was forgotten."""
    missing = sorted(set(sources) - set(planned))
    if missing:
        raise CheckpointError(
            f"tensor {missing[0]} of the source was not planned ({len(missing)} in all); this is a bug."
        )


def pickled(conversion: Conversion) -> bool:
    """Whether the source's weights are PyTorch's own, which the user has allowed."""
    return any(file.suffix == ".bin" for file in conversion.files)
