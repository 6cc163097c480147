"""A second method after a first one: layers learn within the walk, whatever threads there are or breaks off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fewbits
from fewbits.errors import CalibrationError
from references.calibrated_runs import BrokenError, breaking_after
from references.expert_models import write_experts
from references.stored_files import stored_bytes

OPTIONS: dict[str, Any] = {"windows": 8, "sequence_length": 32}


def learned(source: Path, output: Path, **options: Any) -> Any:
    return fewbits.quantize(source, output, **{"to": "Q4_0", "method": "gptq+learned", **OPTIONS, **options})


@pytest.fixture(scope="module")
def whole(untied: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The file of a run that nothing disturbed, and its record."""
    output = tmp_path_factory.mktemp("whole") / "o.gguf"
    return output, learned(untied, output, threads=1)


def test_codes_change_and_the_card_says_so(untied: Path, whole: tuple[Path, Any], tmp_path: Path) -> None:
    fewbits.quantize(untied, tmp_path / "o.gguf", to="Q4_0", method="gptq", **OPTIONS)
    before, after = stored_bytes(tmp_path / "o.gguf"), stored_bytes(whole[0])

    changed = {name for name in before if before[name] != after[name]}
    layers = {t.planned.name for t in whole[1].tensors if any("learned with" in remark for remark in t.remarks)}
    assert changed & layers, "some layer finds something better"
    assert len(layers) == 3 * 7
    assert changed <= layers | {"output.weight"}
    assert {t.planned.method for t in whole[1].tensors} == {"gptq+learned", "nearest", "kept"}
    assert [r for t in whole[1].tensors if t.planned.name == "output.weight" for r in t.remarks] == [
        "not learned: it belongs to no layer"
    ]
    assert all(0 < t.output_error < 1 for t in whole[1].tensors if t.planned.name in layers)


@pytest.mark.parametrize("calls", [60, 200])
def test_broken_off_and_with_other_threads_it_gives_the_same_bytes(
    calls: int, untied: Path, whole: tuple[Path, Any], tmp_path: Path
) -> None:
    with pytest.raises(BrokenError):
        learned(untied, tmp_path / "o.gguf", progress=breaking_after(calls))

    record = learned(untied, tmp_path / "o.gguf", threads=3)

    assert record.calibration.resumed
    assert (tmp_path / "o.gguf").read_bytes() == whole[0].read_bytes()


def test_progress_ends_where_it_said(untied: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    learned(untied, tmp_path / "o.gguf", progress=lambda *now: seen.append(now[1:]) if now[0] == "calibrate" else None)

    assert seen == sorted(seen)
    assert len({total for _, total in seen}) == 1
    assert seen[-1][0] >= 0.95 * seen[-1][1]


def test_scales_that_rows_share_stay_and_that_is_said(untied: Path, tmp_path: Path) -> None:
    record = learned(untied, tmp_path / "o", to="int4_tensor_sym", method="learned")

    said = [t.remarks for t in record.tensors if t.planned.name == "blk.1.ffn_up.weight"]
    assert "scales stayed" in said[0][0]


def test_columns_in_16_bits_stay_while_the_rest_learns(outlying: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    text = 'extend = "w8a8"\n[[rule]]\nkinds = ["ffn_up", "ffn_down"]\nformat = "int3_row_sym"\n'
    recipe.write_text(text, encoding="utf-8")
    record = learned(outlying, tmp_path / "o", to=recipe, method="outliers+nearest+learned")

    assert record.verified
    assert sum(t.planned.outliers for t in record.tensors) > 0


def test_experts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="experts are not among what it can teach"):
        learned(write_experts(tmp_path / "model"), tmp_path / "o.gguf")


def test_another_seed_learns_otherwise(untied: Path, whole: tuple[Path, Any], tmp_path: Path) -> None:
    learned(untied, tmp_path / "o.gguf", seed=5)
    one, other = stored_bytes(tmp_path / "o.gguf"), stored_bytes(whole[0])

    assert one != other
