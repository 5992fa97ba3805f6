"""Packed integers against a bit string written out character by character."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quantizable.bits import int_range
from quantizable.storage.packing import pack, unpack


@st.composite
def coded(draw: st.DrawFn) -> tuple[list[int], int, int]:
    bits = draw(st.integers(1, 16))
    low, high = int_range(bits, draw(st.booleans()))
    return draw(st.lists(st.integers(low, high), max_size=40)), low, bits


@given(coded())
def test_bits_are_those_of_the_written_numbers(case: tuple[list[int], int, int]) -> None:
    codes, low, bits = case
    packed = pack(torch.tensor(codes, dtype=torch.int32), low, bits)
    written = "".join(format(code - low, f"0{bits}b") for code in codes)
    written += "0" * (-len(written) % 8)
    assert packed.tolist() == [int(written[i : i + 8], 2) for i in range(0, len(written), 8)]


@given(coded())
def test_unpack_gives_the_codes_back(case: tuple[list[int], int, int]) -> None:
    codes, low, bits = case
    assert unpack(pack(torch.tensor(codes), low, bits), (len(codes),), low, bits).tolist() == codes


def test_a_code_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit 2 bits"):
        pack(torch.tensor([0, 2]), -2, 2)


def test_missing_bytes_are_refused() -> None:
    with pytest.raises(ValueError, match="3 bytes do not hold 16 codes of 2 bits"):
        unpack(torch.zeros(3, dtype=torch.uint8), (4, 4), -2, 2)
