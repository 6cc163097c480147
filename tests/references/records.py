"""A made-up preview and record with unlike tensors, for the tests of cards, tables and the command line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fewbits.reporting.record import (
    CalibrationPlan,
    CalibrationResult,
    PlannedTensor,
    Preview,
    Record,
    TensorResult,
)


def planned(name: str, shape: tuple[int, ...], form: str, bits: float, **changes: object) -> PlannedTensor:
    count = shape[0] * (shape[1] if len(shape) > 1 else 1)
    values: dict[str, object] = {
        "name": name,
        "source_name": f"model.{name}",
        "shape": shape,
        "source_format": "BF16",
        "format": form,
        "method": "nearest",
        "nominal": form == "Q4_K",
        "quantizable": len(shape) > 1,
        "fallback": None,
        "bytes_in": 2 * count,
        "bytes_out": int(count * bits / 8),
    }
    return PlannedTensor(**{**values, **changes})  # type: ignore[arg-type]


def preview(output: Path) -> Preview:
    tensors = (
        planned("token_embd.weight", (4096, 256), "Q6_K", 6.5625),
        planned("layer.0.attn_q.weight", (256, 256), "Q4_K", 4.5),
        planned("layer.0.odd.weight", (256, 96), "Q8_0", 8.5, fallback="96 columns are no multiple of 256"),
        planned("output_norm.weight", (256,), "F32", 32.0, method="copy"),
    )
    return Preview(
        source="models/small",
        output=str(output),
        recipe="Q4_K_M",
        nominal_format="Q4_K",
        architecture="llama",
        tensors=tensors,
        notes=("lm_head.weight is tied to the embedding and left out.",),
        bytes_in=sum(t.bytes_in for t in tensors),
        bytes_out=sum(t.bytes_out for t in tensors) + 4096,
        seconds_estimated=1.5,
        memory_estimated=120_000_000,
    )


def calibration_plan() -> CalibrationPlan:
    text = {
        "sha256": "12" * 32,
        "tokens": 65536,
        "windows": 128,
        "length": 512,
        "seed": 0,
        "parts": [
            {"name": "code", "share": 0.5, "windows": 64, "sources": [{"name": "ast", "sha256": "34" * 32}]},
            {"name": "manual", "share": 0.5, "windows": 64, "sources": [{"name": "topics", "sha256": "56" * 32}]},
        ],
    }
    return CalibrationPlan(text=text, guard_text=text, tokens=65536, guard_tokens=4096, checkpoints=2, layers=4)


def calibrated_record(output: Path, card: Path) -> Record:
    """The record of a run with a method that looks at text."""
    plain = record(output, card)
    verdicts = (
        {"first": 0, "last": 1, "kl_solved": 0.01, "kl_plain": 0.02, "measure": "kl", "kept": True},
        {"first": 2, "last": 3, "kl_solved": 0.04, "kl_plain": 0.03, "measure": "kl", "kept": False},
    )
    tensors = tuple(
        replace(t, planned=replace(t.planned, name=f"blk.{n}.attn_q.weight"), output_error=0.05, output_error_plain=0.1)
        for n, t in enumerate(plain.tensors)
    )
    return replace(
        plain,
        preview=replace(plain.preview, calibration=calibration_plan()),
        tensors=tensors,
        calibration=CalibrationResult(verdicts=verdicts, tensors=4, kept=2, resumed=False),
    )


def record(output: Path, card: Path) -> Record:
    plan = preview(output)
    errors = (0.01, 0.07, 0.004, 0.0)
    return Record(
        preview=plan,
        tensors=tuple(TensorResult(t, e) for t, e in zip(plan.tensors, errors, strict=True)),
        source_sha256={"model.safetensors": "ab" * 32},
        output_sha256="cd" * 32,
        seed=0,
        seconds=2.5,
        seconds_verifying=0.5,
        peak_memory=130_000_000,
        versions={"fewbits": "0.1.0", "python": "3.11.7"},
        isa="avx2",
        threads=2,
        card=str(card),
        started="2026-11-21T13:00:00Z",
    )
