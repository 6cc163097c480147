"""Parts of stored matrices: the numbers of the whole, wherever a part begins, by any threads and instruction set."""

from __future__ import annotations

import pytest
import torch

from fewbits import formats, kernels
from fewbits.errors import FormatError
from fewbits.formats.base import Fields
from fewbits.kernels.stored import stored_numbers
from fewbits.kernels.tiles import tile_reader
from fewbits.qtensor import QTensor

ROWS, COLS = 37, 768
MORE = ["int4_g32_sym_f16", "fp4_bnb_g64", "uint4_g128_asym_f16", "int3_g256_sym_f16", "nf4_g64_dq"]


def fields_of(name: str, rows: int = ROWS, cols: int = COLS) -> Fields:
    """Random numbers, none of them around 0, as they are stored."""
    generator = torch.Generator().manual_seed(0)
    w = (torch.randn(rows, cols, generator=generator) + 0.2) * torch.randn(rows, 1, generator=generator).exp() * 0.02
    format = formats.get(name)
    params = format.fit(w, like=format.prepare([w]))
    return QTensor(format, format.encode(w, params), params).fields()


READ = [n for n in (*formats.FORMATS, *MORE) if tile_reader(formats.get(n), fields_of(n, 2), (2, COLS)) is not None]


def test_most_formats_are_read() -> None:
    assert {"Q4_K", "IQ2_XS", "TQ1_0", "nf4_g64", "nf4_g64_dq", "int8_row_sym", "BF16", "uint4_g128_asym_f16"} <= set(
        READ
    )


@pytest.mark.parametrize("isa", kernels.available())
@pytest.mark.parametrize("name", READ)
def test_a_part_is_that_of_the_whole(name: str, isa: str) -> None:
    format, fields = formats.get(name), fields_of(name)
    whole, read = stored_numbers(format, fields, (ROWS, COLS)), tile_reader(format, fields, (ROWS, COLS), isa=isa)
    assert read is not None
    unit = format.span if 0 < format.span < COLS else COLS
    last = COLS // unit * unit - unit
    for (row, col), (rows, cols), threads in (
        ((0, 0), (ROWS, COLS), 1),
        ((5, last), (7, unit), 3),
        ((36, last // unit // 2 * unit), (1, unit), 2),
        ((0, 0), (ROWS, last or unit), 3),
    ):
        for dtype in (torch.float32, torch.bfloat16):
            tile = torch.full((rows, cols), torch.nan, dtype=dtype)
            read((row, col), tile, threads)
            assert torch.equal(tile, whole[row : row + rows, col : col + cols].to(dtype))


def test_a_part_may_lie_within_one_group() -> None:
    format, fields = formats.get("int8_row_sym"), fields_of("int8_row_sym")
    read, tile = tile_reader(format, fields, (ROWS, COLS)), torch.empty(ROWS, 24)
    assert read is not None
    read((0, 40), tile, 2)

    assert torch.equal(tile, stored_numbers(format, fields, (ROWS, COLS))[:, 40:64])


@pytest.mark.parametrize(
    ("name", "first", "shape"),
    [
        ("Q4_K", (0, 128), (1, 256)),
        ("Q4_K", (37, 0), (1, 256)),
        ("Q4_K", (0, 512), (1, 512)),
        ("nf4_g64", (0, 32), (1, 64)),
        ("nf4_g64", (-1, 0), (1, 64)),
    ],
)
def test_what_is_no_part_is_refused(name: str, first: tuple[int, int], shape: tuple[int, int]) -> None:
    read = tile_reader(formats.get(name), fields_of(name), (ROWS, COLS))
    assert read is not None
    with pytest.raises(ValueError, match="columns"):
        read(first, torch.empty(shape), 1)


def test_fields_of_another_matrix_are_refused() -> None:
    with pytest.raises(FormatError):
        tile_reader(formats.get("nf4_g64"), fields_of("nf4_g64"), (ROWS + 1, COLS))
