"""The tables of points reach the native module whole, once, and in two forms that mean the same."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from fewbits.formats import iquant
from fewbits.formats.lattice_format import LatticeFormat
from fewbits.formats.lattices import packed_points, points
from fewbits.kernels.module import native_module

LATTICES = {"IQ1_S": 2048, "IQ2_XXS": 256, "IQ2_XS": 512, "IQ2_S": 1024, "IQ3_XXS": 256, "IQ3_S": 512}


@pytest.mark.parametrize("name", LATTICES)
def test_points_differ_from_each_other(name: str) -> None:
    table = points(name)
    assert table.shape == (LATTICES[name], 4 if name.startswith("IQ3") else 8)
    assert len(np.unique(table, axis=0)) == len(table)


@pytest.mark.parametrize("name", LATTICES)
def test_packed_points_mean_the_same(name: str) -> None:
    packed = packed_points(name)
    bits = 2 if len(packed.numbers) <= 4 else 4
    columns = [byte >> at & (2**bits - 1) for byte in packed.bits.tolist() for at in range(0, 8, bits)]
    assert [packed.numbers[column] for column in columns] == points(name).flatten().tolist()


@pytest.mark.parametrize("name", LATTICES)
def test_points_are_given_once(name: str) -> None:
    native, table = native_module(), points(name)
    native.give_points(name, table)
    native.give_points(name, table)
    for wrong in (table[::-1].copy(), table[:-1].copy(), np.where(table == table.max(), table.max() + 1, table)):
        with pytest.raises(ValueError, match="not the points"):
            native.give_points(name, np.ascontiguousarray(wrong, np.int8))


def test_numbers_that_are_no_levels_are_refused() -> None:
    """In a process of its own, where no points were given yet."""
    program = (
        "from fewbits.kernels.module import native_module\n"
        "from fewbits.formats.lattices import points\n"
        "table = points('IQ3_S').copy()\n"
        "table[511, 3] = 2\n"
        "native_module().give_points('IQ3_S', table)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "not the points" in done.stderr


@pytest.mark.parametrize("format", [iquant.IQ2_XXS, iquant.IQ2_XS, iquant.IQ2_S, iquant.IQ3_XXS, iquant.IQ3_S])
def test_formats_state_what_their_points_are(format: LatticeFormat) -> None:
    table = points(format.code.name)
    assert table.shape == (format.code.count, format.code.width)
    assert table.max() == format.code.top
