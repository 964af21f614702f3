"""Label Studio's run lengths, decoded bit by bit as its documentation describes them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from panformer_cli.prepare.export.brush_rle import encode


def decoded(data: list[int]) -> list[int]:
    """Return the values: a plain loop over a string of bits."""
    text = "".join(f"{byte:08b}" for byte in data)
    position = 0

    def read(bits: int) -> int:
        nonlocal position
        position += bits
        return int(text[position - bits : position], 2)

    number, value_bits = read(32), read(5) + 1
    length_bits = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < number:
        is_run = read(1)
        length = read(length_bits[read(2)]) + 1
        values += [read(value_bits)] * length if is_run else [read(value_bits) for _ in range(length)]
    assert len(text) - position < 8
    return values


def alpha(data: list[int], size: tuple[int, int]) -> npt.NDArray[np.int64]:
    return np.array(decoded(data)).reshape(*size, 4)[..., 3]


def test_bytes_of_one_pixel_worked_out_by_hand() -> None:
    # 4 values; 8 bits a value; lengths of 3, 4, 8 and 16 bits; a run (1), of 3 bits (00), of 4 (011), of 255
    bits = f"{4:032b}" + "00111" + "0010" + "0011" + "0111" + "1111" + "1" + "00" + "011" + "11111111"
    bits += "0" * (-len(bits) % 8)
    assert encode(np.array([[True]])) == [int(bits[start : start + 8], 2) for start in range(0, len(bits), 8)]


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 63, 64, 65, 16384, 16385, 40000])
def test_runs_of_every_length_are_decoded(length: int) -> None:
    mask = np.zeros((1, length + 2), np.bool_)
    mask[0, 1:-1] = True
    assert np.array_equal(alpha(encode(mask), (1, length + 2)), 255 * mask)


def test_random_masks_are_decoded() -> None:
    draws = np.random.default_rng(0)
    for _ in range(30):
        mask = draws.random((int(draws.integers(1, 20)), int(draws.integers(1, 20)))) < draws.random()
        data = encode(mask)
        assert np.array_equal(alpha(data, mask.shape), 255 * mask)
        assert all(type(byte) is int and 0 <= byte <= 255 for byte in data)
