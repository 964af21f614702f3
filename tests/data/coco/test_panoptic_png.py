"""Segment ids as colors of PNGs."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from panformer_cli.data.coco.panoptic_png import (
    decode_panoptic_png,
    encode_ids,
    id_runs,
    read_panoptic_png,
    segment_ids,
    write_panoptic_png,
)
from panformer_cli.errors import DataError
from tests.data.coco.coco_files import colors

MAPS = hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 256**3 - 1))


@pytest.mark.slow
@given(MAPS)
def test_colors_follow_the_formula_and_decode_to_the_same_ids(ids: np.ndarray) -> None:
    rgb = encode_ids(ids)
    assert rgb.dtype == np.uint8 and np.array_equal(rgb, colors(ids))
    png = BytesIO()
    Image.fromarray(rgb).save(png, "PNG")
    back = decode_panoptic_png(png.getvalue())
    assert back is not None and back.dtype == np.int32 and np.array_equal(back, ids)


@given(hnp.arrays(np.int32, (4, 5), elements=st.integers(0, 2)))
def test_runs_reproduce_the_map_and_its_ids(ids: np.ndarray) -> None:
    values, lengths = id_runs(ids)
    assert np.array_equal(np.repeat(values, lengths), ids.reshape(-1))
    assert (values[1:] != values[:-1]).all()
    assert segment_ids(ids) == set(ids.reshape(-1).tolist()) - {0}


@pytest.mark.parametrize("wrong", [-1, 256**3])
def test_ids_that_no_color_represents_are_rejected(wrong: int) -> None:
    with pytest.raises(DataError, match=str(wrong)):
        encode_ids(np.array([[0, wrong]], np.int32))


def test_pillow_and_the_package_read_a_written_file(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 256**3, (13, 17)).astype(np.int32)
    write_panoptic_png(tmp_path / "a.png", ids)
    with Image.open(tmp_path / "a.png") as png:
        assert png.mode == "RGB" and np.array_equal(np.asarray(png), colors(ids))
    assert np.array_equal(read_panoptic_png(tmp_path / "a.png"), ids)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("mode", "found"),
    [("P", "1-bit palette"), ("RGBA", "8-bit RGB with alpha"), ("L", "8-bit grayscale"), ("I;16", "16-bit grayscale")],
)
def test_other_types_of_png_are_named(tmp_path: Path, mode: str, found: str) -> None:
    Image.new(mode, (6, 4)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=rf"a\.png is an? {found} PNG; expected an 8-bit RGB PNG"):
        read_panoptic_png(tmp_path / "a.png")


def test_missing_corrupt_and_other_files_have_different_errors(tmp_path: Path) -> None:
    write_panoptic_png(tmp_path / "whole.png", np.random.default_rng(0).integers(0, 256**3, (50, 50)).astype(np.int32))
    data = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    (tmp_path / "zeros.png").write_bytes(data[:2000] + bytes(100) + data[2100:])
    Image.new("RGB", (6, 4)).save(tmp_path / "a.jpg")
    expected = {"none.png": "missing", "cut.png": "corrupt", "zeros.png": "corrupt", "a.jpg": "not a PNG"}
    for name, message in expected.items():
        with pytest.raises(DataError, match=message) as caught:
            read_panoptic_png(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
