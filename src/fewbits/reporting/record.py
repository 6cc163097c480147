"""What was planned, what was done and what it cost, as data; the card and every table are drawn from here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from math import prod, sqrt
from typing import Any

from fewbits.reporting.graph_record import GraphRounding

SCHEMA = 1
"""Version of the JSON of a preview and a record; it grows when a key changes its meaning or goes."""


def override_origin(override: str) -> str:
    """How `PlannedTensor.chosen_by` names an override "PATTERN=FORMAT"."""
    return f"the override '{override}'"


@dataclass(frozen=True)
class PlannedTensor:
    """The decision for one tensor of the target, taken before any weight is read."""

    name: str
    source_name: str
    shape: tuple[int, ...]
    source_format: str
    format: str
    method: str
    nominal: bool
    """Stored in the recipe's nominal format ("Q4_K" for Q4_K_M)."""
    quantizable: bool
    """False for norms, biases and tables, which every recipe keeps in 16 or 32 bits."""
    fallback: str | None
    """Why this is not the format that the recipe's rules chose; None when it is."""
    bytes_in: int
    bytes_out: int
    chosen_by: str | None = None
    """The user's rule or override that chose the format; None where the recipe's own rules did."""
    weighed: bool = False
    """Errors were weighed by an importance matrix while the codes were chosen."""
    activation: str | None = None
    """How the matrix's inputs are rounded at run time; None where they are not."""
    outliers: int = 0
    """Columns kept in 16 bits; their bytes are among `bytes_out`."""

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return prod(self.shape)


@dataclass(frozen=True)
class ImportanceUsed:
    """The importance matrix that errors were weighed by."""

    file: str
    text: str
    """Name of the text that it was measured on; "" where the file does not say."""
    chunks: int
    """Pieces of that text; 0 where the file does not say."""
    entries: int
    """Tensors of this model that it knows."""
    tensors: int
    """Tensors that were weighed by it: the others' formats do not search."""


@dataclass(frozen=True)
class RotationUsed:
    """The rotation of the whole model that came before everything else."""

    name: str
    seed: int


@dataclass(frozen=True)
class HubSource:
    """The repository of the Hugging Face hub that a source was fetched from."""

    repository: str
    """org/name."""
    revision: str | None
    """The branch, tag or commit that was asked for; None for the repository's own default."""
    commit: str
    """What that was when it was fetched: the commit whose files were read."""
    license: dict[str, str]
    """`license`, `license_name` and `license_link` as its model card states them; empty where it says nothing."""


@dataclass(frozen=True)
class PushPlan:
    """What will be uploaded to the hub, and where to."""

    repository: str
    creates: bool
    """Whether the repository is not there yet."""
    private: bool
    """Whether only its owners can see it."""
    files: tuple[str, ...]
    """Names in the repository."""
    notes: tuple[str, ...] = ()
    """What a person should know of it, one sentence each."""


@dataclass(frozen=True)
class Pushed:
    """An upload that the hub has taken and that was compared with what it then states."""

    repository: str
    commit: str
    url: str
    """Of the commit."""
    files: tuple[str, ...]
    bytes: int
    """Of those files."""


@dataclass(frozen=True)
class CalibrationPlan:
    """The texts that codes are chosen and judged by."""

    text: dict[str, Any]
    """Fingerprint of the calibration text: SHA-256 of its token ids, tokens, sources."""
    guard_text: dict[str, Any]
    """The same of the text that codes are judged by."""
    tokens: int
    guard_tokens: int
    checkpoints: int
    """How often the codes are judged on the way through the model."""
    layers: int
    precision: str = "float32"
    """In which the network was computed."""
    target_text: dict[str, Any] | None = None
    """The same, by group, of text of the kinds that the model will see, where some was given."""
    measure: str = "kl"
    """What the codes are judged by, a key of reporting/measures.py: "kl", or of encoders "state_error"."""


@dataclass(frozen=True)
class CalibrationResult:
    """How the codes were judged, checkpoint by checkpoint."""

    verdicts: tuple[dict[str, Any], ...]
    """first, last (layers), kl_solved, kl_plain (nats per token of guard text, end to end), measure, kept.

    Of encoders state_error_solved and state_error_plain, and `measure` says which."""
    tensors: int
    """Tensors that the method solved."""
    kept: int
    """Tensors whose codes stayed; the others got plain ones."""
    resumed: bool
    """A run that was broken off had done a part."""
    unlikeness: dict[str, Any] | None = None
    """How far the calibration text is from the target's, by tokens and by inputs."""
    notes: tuple[str, ...] = ()
    """What a person should know of it, one sentence each."""

    @property
    def works(self) -> bool:
        """Whether at least half of the codes stayed: else the method does not work on this model."""
        return 2 * self.kept >= self.tensors


@dataclass(frozen=True)
class FormatSummary:
    """All tensors of one format."""

    format: str
    tensors: int
    parameters: int
    bytes_in: int
    bytes_out: int
    relative_rms: float | None
    """Root of the mean of the tensors' squared relative errors, weighted by their parameters; None before the work."""

    @property
    def bits_per_weight(self) -> float:
        """Stored bits over the number of weights, scales included."""
        return 8 * self.bytes_out / self.parameters if self.parameters else 0.0

    def to_json(self) -> dict[str, Any]:
        """The summary as plain data."""
        return {**asdict(self), "bits_per_weight": self.bits_per_weight}


@dataclass(frozen=True)
class Preview:
    """Everything known before work starts; `--dry-run` stops here."""

    source: str
    output: str
    recipe: str
    nominal_format: str
    architecture: str
    tensors: tuple[PlannedTensor, ...]
    notes: tuple[str, ...]
    """Choices made for the user and tensors left out, one sentence each."""
    bytes_in: int
    """Bytes of the source's weights."""
    bytes_out: int
    """Exact size of the file to come, header included."""
    seconds_estimated: float
    memory_estimated: int
    """Expected peak of anonymous memory in bytes; mapped files not counted."""
    recipe_file: str | None = None
    """The user's file that states the recipe."""
    overrides: tuple[str, ...] = ()
    """"PATTERN=FORMAT", in the order in which they are tried, before the recipe's rules."""
    importance: ImportanceUsed | None = None
    calibration: CalibrationPlan | None = None
    rotation: RotationUsed | None = None
    hub: HubSource | None = None
    push: PushPlan | None = None
    parts: tuple[str, ...] = ()
    """Names of the files that the output is split into; none where it is one."""

    @property
    def parameters(self) -> int:
        """Number of weights of all tensors."""
        return sum(t.parameters for t in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        """Stored bits of all tensors over the number of weights, the file's header left out."""
        return 8 * sum(t.bytes_out for t in self.tensors) / self.parameters if self.parameters else 0.0

    @property
    def share_not_nominal(self) -> float:
        """Share of the parameters that are not in the nominal format, norms and biases included."""
        return sum(t.parameters for t in self.tensors if not t.nominal) / (self.parameters or 1)

    @property
    def fallbacks(self) -> tuple[PlannedTensor, ...]:
        """Tensors whose shape did not fit the format that the rules chose."""
        return tuple(t for t in self.tensors if t.fallback)

    def formats(self) -> tuple[FormatSummary, ...]:
        """One summary per format, the largest first."""
        return _summaries([(t, None) for t in self.tensors])


@dataclass(frozen=True)
class TensorResult:
    """One tensor as it was written, and the error measured while writing."""

    planned: PlannedTensor
    relative_rms: float
    """sqrt(sum (w - stored)^2 / sum w^2); 0 for an all-zero tensor that came back exact."""
    output_error: float | None = None
    """sqrt of the mean squared error of the matrix's outputs over their mean square, on the calibration text."""
    output_error_plain: float | None = None
    """The same with the nearest codes, weighed by importance."""
    remarks: tuple[str, ...] = ()
    """What had to be decided while codes were chosen."""


@dataclass(frozen=True)
class Record:
    """One finished, verified quantization: the content of OUT.card.json."""

    preview: Preview
    tensors: tuple[TensorResult, ...]
    source_sha256: dict[str, str]
    output_sha256: str
    seed: int
    seconds: float
    """Wall time of everything, verifying included."""
    seconds_verifying: float
    peak_memory: int
    """Largest resident memory less file-backed pages, in bytes."""
    versions: dict[str, str]
    isa: str
    threads: int
    card: str
    """Path of the card."""
    started: str = ""
    """UTC, ISO 8601."""
    calibration: CalibrationResult | None = None
    graph: GraphRounding | None = None
    """Of an ONNX graph whose products run on whole numbers: every value's range, and what stayed in floats."""
    pushed: Pushed | None = None
    """Where the output was uploaded to; None where it was not."""
    parts_sha256: dict[str, str] = field(default_factory=dict)
    """SHA-256 of each part by name, where the output is split; `output_sha256` is that of all one after another."""
    verified: bool = field(default=True)
    """Always True: a file that fails verification is not kept and no record is made."""

    def formats(self) -> tuple[FormatSummary, ...]:
        """One summary per format with its error, the largest first."""
        return _summaries([(t.planned, t.relative_rms) for t in self.tensors])

    def to_json(self) -> dict[str, Any]:
        """The record as plain data, with the derived figures spelled out."""
        data = {"schema": SCHEMA, **asdict(self)}
        data["preview"] = preview_to_json(self.preview)
        data["formats"] = [summary.to_json() for summary in self.formats()]
        data["tensors"] = [_result_to_json(t) for t in self.tensors]
        if self.calibration is not None:
            data["calibration"]["works"] = self.calibration.works
        for key in ("schema", "tensors", "formats"):  # said once, in the record itself
            del data["preview"][key]
        return data


def preview_to_json(preview: Preview) -> dict[str, Any]:
    """A preview as plain data, with the derived figures spelled out."""
    data = {"schema": SCHEMA, **asdict(preview)}
    data["tensors"] = [_planned_to_json(t) for t in preview.tensors]
    data["formats"] = [summary.to_json() for summary in preview.formats()]
    data["parameters"] = preview.parameters
    data["bits_per_weight"] = preview.bits_per_weight
    data["share_not_nominal"] = preview.share_not_nominal
    data["fallbacks"] = [{"name": t.name, "format": t.format, "why": t.fallback} for t in preview.fallbacks]
    return data


def _planned_to_json(planned: PlannedTensor) -> dict[str, Any]:
    return {**asdict(planned), "shape": list(planned.shape), "parameters": planned.parameters}


def _result_to_json(result: TensorResult) -> dict[str, Any]:
    errors = {key: value for key, value in asdict(result).items() if key != "planned"}
    return {**_planned_to_json(result.planned), **errors, "remarks": list(result.remarks)}


def _summaries(tensors: Iterable[tuple[PlannedTensor, float | None]]) -> tuple[FormatSummary, ...]:
    members: dict[str, list[tuple[PlannedTensor, float | None]]] = {}
    for planned, error in tensors:
        members.setdefault(planned.format, []).append((planned, error))
    summaries = [_summary(name, group) for name, group in members.items()]
    return tuple(sorted(summaries, key=lambda s: -s.parameters))


def _summary(name: str, members: list[tuple[PlannedTensor, float | None]]) -> FormatSummary:
    parameters = sum(planned.parameters for planned, _ in members)
    errors = [(planned.parameters, error) for planned, error in members if error is not None]
    weight = sum(n for n, _ in errors)
    return FormatSummary(
        format=name,
        tensors=len(members),
        parameters=parameters,
        bytes_in=sum(planned.bytes_in for planned, _ in members),
        bytes_out=sum(planned.bytes_out for planned, _ in members),
        relative_rms=sqrt(sum(n * e * e for n, e in errors) / weight) if weight else None,
    )
