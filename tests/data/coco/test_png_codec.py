"""The fast PNG codec: the same pixels as Pillow and OpenCV, and the same files rejected as by OpenCV."""

from __future__ import annotations

import io
import multiprocessing
import sys
import zlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from panformer_cli.data import parallel
from panformer_cli.data.coco import panoptic_png, png_codec
from panformer_cli.data.coco.panoptic_png import (
    MANY_READS,
    encode_ids,
    expect_reads,
    read_panoptic_png,
    write_panoptic_png,
)
from panformer_cli.data.coco.png_codec import decode_plain, encode_plain
from panformer_cli.data.parallel import map_in_order
from panformer_cli.data.scenes.generator import SceneOptions, generate_scene
from panformer_cli.errors import DataError
from tests.data.coco.coco_files import colors
from tests.data.coco.png_files import END, SIGNATURE, chunk, filtered, header, image_data, png, with_true_checksums

needs_zlib_ng = pytest.mark.skipif(find_spec("zlib_ng") is None, reason="zlib-ng is missing")


def smooth_ids(height: int, width: int, seed: int) -> np.ndarray:
    """Segments of large ids with noise, so that pixels equal none, some or all of their neighbors."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 256**3, (height // 5 + 1, width // 5 + 1)).repeat(5, 0).repeat(5, 1)[:height, :width]
    noise = rng.integers(0, 256**3, (height, width))
    return np.where(rng.random((height, width)) < 0.2, noise, ids).astype(np.int32)


def pillows(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "RGB"
        return np.asarray(image)


@pytest.mark.slow
@needs_zlib_ng
@settings(max_examples=150, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 10**6), st.integers(1, 9), st.data())
def test_every_filter_in_any_order_gives_the_pixels(
    height: int, width: int, seed: int, pieces: int, data: st.DataObject
) -> None:
    ids = smooth_ids(height, width, seed)
    filters = data.draw(st.lists(st.integers(0, 4), min_size=height, max_size=height))
    content = png(ids, filters, pieces)
    assert np.array_equal(pillows(content), colors(ids)), "the test builds a wrong file"
    found = decode_plain(content)
    assert found is not None and found.dtype == np.int32 and np.array_equal(found, ids)


@needs_zlib_ng
@pytest.mark.parametrize("shape", [(500, 400), (20000, 3), (3, 20000)])
def test_an_image_of_many_blocks(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    ids = smooth_ids(*shape, seed=1)
    filters = np.random.default_rng(2).integers(0, 5, shape[0])
    monkeypatch.setattr(png_codec, "_BLOCK", 10_000)
    assert np.array_equal(decode_plain(png(ids, filters.tolist())), ids)  # type: ignore[arg-type]


def opencvs(path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray | str:
    """Return the result or the error of `read_panoptic_png` with OpenCV only."""
    with monkeypatch.context() as patch:
        patch.setattr(panoptic_png, "decode_plain", lambda _: None)
        return result(path)


def result(path: Path) -> np.ndarray | str:
    try:
        return read_panoptic_png(path)
    except DataError as error:
        return str(error)


@pytest.fixture(autouse=True, scope="module")
def loaded() -> None:
    png_codec.load()


IDS = smooth_ids(30, 20, 3)
LINES = filtered(IDS, [row % 5 for row in range(30)])
STREAM = zlib.compress(LINES)
HEADER = header(30, 20)
WHOLE = SIGNATURE + HEADER + image_data(STREAM) + END


def of(stream: bytes, head: bytes = HEADER) -> bytes:
    return SIGNATURE + head + image_data(stream) + END


def small_window() -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, 9)
    return packer.compress(LINES) + packer.flush()


UNUSUAL = {
    "interlaced": of(zlib.compress(filtered(IDS[:1, :1], [0])), header(1, 1, (8, 2, 0, 0, 1))),
    "transparent color": SIGNATURE + HEADER + chunk(b"tRNS", b"\0\1\0\2\0\3") + image_data(STREAM) + END,
    "gamma": SIGNATURE + HEADER + chunk(b"gAMA", b"\0\0\xb1\x8f") + image_data(STREAM) + END,
    "significant bits": SIGNATURE + HEADER + chunk(b"sBIT", b"\5\6\5") + image_data(STREAM) + END,
    "text at the end": SIGNATURE + HEADER + image_data(STREAM) + chunk(b"tEXt", b"a\0b") + END,
    "unknown and necessary": SIGNATURE + HEADER + chunk(b"ABCD", b"") + image_data(STREAM) + END,
    "two headers": SIGNATURE + HEADER + HEADER + image_data(STREAM) + END,
    "no header": SIGNATURE + image_data(STREAM) + END,
    "no pixels": SIGNATURE + HEADER + END,
    "empty pixels": of(b""),
    "bytes after the end": WHOLE + b"abc",
    "no end": WHOLE[:-12],
    "half": WHOLE[: len(WHOLE) // 2],
    "chunk beyond the end": SIGNATURE + HEADER + b"\0\1\0\0" + image_data(STREAM)[4:] + END,
    "wrong checksum of a chunk": WHOLE.replace(END, b"")[:-1] + b"\0" + END,
    "wrong checksum of the pixels": of(STREAM[:-1] + bytes((STREAM[-1] ^ 1,))),
    "no checksum of the pixels": of(STREAM[:-4]),
    "a line too few": of(zlib.compress(LINES[:-61])),
    "a byte too many": of(zlib.compress(LINES + b"\0")),
    "bytes after the pixels": of(STREAM + b"abc"),
    "unknown filter": of(zlib.compress(b"\5" + LINES[1:])),
    "other compression": of(STREAM, header(30, 20, (8, 2, 1, 0, 0))),
    "other filters": of(STREAM, header(30, 20, (8, 2, 0, 1, 0))),
    "small window": of(small_window()),
    "preset dictionary": of(b"\x78\xbb" + STREAM[2:]),
    "not deflate": of(b"\x79" + STREAM[1:]),
    "no height": of(STREAM, header(0, 20)),
    "no width": of(STREAM, header(30, 0)),
    "huge, little data": of(STREAM, header(60_000, 60_000)),
    "large, little data": of(STREAM, header(30_000, 30_000)),
    "too wide": of(zlib.compress(bytes(3 * 40_000 + 1)), header(1, 40_000)),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_and_corrupt_files_are_left_to_opencv(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(UNUSUAL[name])
    assert decode_plain(UNUSUAL[name]) is None
    expected = opencvs(path, monkeypatch)
    np.testing.assert_array_equal(result(path), expected)


@needs_zlib_ng
def test_the_same_file_without_a_fault_is_decoded() -> None:
    assert np.array_equal(decode_plain(WHOLE), IDS)  # type: ignore[arg-type]


def corrupted(data: bytes, rng: np.random.Generator) -> bytes:
    """Flip, delete or insert a few bits or bytes; correct the checksums in half of the results."""
    changed = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        offset = int(rng.integers(8, len(changed)))
        match rng.integers(8):
            case 0:
                del changed[offset]
            case 1:
                changed.insert(offset, int(rng.integers(256)))
            case 2:
                del changed[offset : offset + 40]
            case _:
                changed[offset] ^= 1 << int(rng.integers(8))
    return with_true_checksums(bytes(changed)) if rng.random() < 0.5 else bytes(changed)


def claims_much(data: bytes) -> bool:
    """Return whether a chunk claims to be longer than a megabyte, which takes OpenCV seconds to reject."""
    offsets = [data.find(kind) for kind in (b"IHDR", b"IDAT", b"IEND")]
    return any(int.from_bytes(data[offset - 4 : offset], "big") > 2**20 for offset in offsets if offset >= 12)


@pytest.mark.parametrize("level", [0, 1, 9])
def test_both_decoders_agree_on_corrupt_files(level: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(level)
    whole = png(smooth_ids(9, 7, level), rng.integers(0, 5, 9).tolist(), 2, level)
    for number in range(200):
        content = corrupted(whole, rng)
        if claims_much(content):
            continue  # OpenCV would allocate that much memory
        path = tmp_path / f"{number}.png"
        path.write_bytes(content)
        np.testing.assert_array_equal(result(path), opencvs(path, monkeypatch), err_msg=path.read_bytes().hex())


@pytest.mark.parametrize(
    "ids", [smooth_ids(1, 1, 0), smooth_ids(37, 1, 1), smooth_ids(1, 41, 2), smooth_ids(90, 80, 3)]
)
def test_other_libraries_read_a_written_file(ids: np.ndarray, tmp_path: Path) -> None:
    for kind in (np.asfortranarray(ids), ids.astype(np.int64), ids):
        write_panoptic_png(tmp_path / "a.png", kind)  # type: ignore[arg-type]
        data = (tmp_path / "a.png").read_bytes()
        assert np.array_equal(pillows(data), colors(ids))
        assert np.array_equal(np.asarray(cv2.imread(str(tmp_path / "a.png")))[..., ::-1], colors(ids))
        assert np.array_equal(read_panoptic_png(tmp_path / "a.png"), ids)


def test_panopticapi_reads_a_written_file(tmp_path: Path) -> None:
    utils = pytest.importorskip("panopticapi.utils")
    ids = smooth_ids(40, 30, 5)
    write_panoptic_png(tmp_path / "a.png", ids)
    assert np.array_equal(utils.rgb2id(np.array(Image.open(tmp_path / "a.png"))), ids)


@needs_zlib_ng
def test_files_are_no_larger_than_opencvs() -> None:
    for index in range(3):
        _, truth = generate_scene(SceneOptions(), "val", index)
        rgb = encode_ids(truth.ids)
        ours, theirs = encode_plain(rgb), cv2.imencode(".png", rgb)[1].tobytes()
        assert ours is not None and len(ours) < len(theirs)


def no_zlib_ng(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(png_codec, "_zlib", None)


def no_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "panformer_cli.data.coco.png_filters", None)


@pytest.mark.parametrize("missing", [no_zlib_ng, no_numba])
def test_without_zlib_ng_or_numba_opencv_is_used(
    missing: Callable[[pytest.MonkeyPatch], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing(monkeypatch)
    monkeypatch.setattr(png_codec, "_unfilter", None)
    png_codec.load()
    assert not png_codec.is_loaded() and decode_plain(WHOLE) is None
    write_panoptic_png(tmp_path / "a.png", IDS)
    assert np.array_equal(pillows((tmp_path / "a.png").read_bytes()), colors(IDS))
    assert np.array_equal(read_panoptic_png(tmp_path / "a.png"), IDS)


@needs_zlib_ng
def test_the_decoder_is_loaded_only_for_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(png_codec, "_unfilter", None)
    (tmp_path / "a.png").write_bytes(WHOLE)
    for number, is_loaded in ((MANY_READS - 1, False), (MANY_READS, True), (1, True)):
        expect_reads(number)
        assert png_codec.is_loaded() == is_loaded and (decode_plain(WHOLE) is not None) == is_loaded
        assert np.array_equal(read_panoptic_png(tmp_path / "a.png"), IDS)


def is_loaded(_: object) -> bool:
    return png_codec.is_loaded()


@needs_zlib_ng
@pytest.mark.slow
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_worker_processes_load_the_decoder_if_their_parent_has(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    start = partial(ProcessPoolExecutor, mp_context=multiprocessing.get_context(method))
    monkeypatch.setattr(parallel, "ProcessPoolExecutor", start)
    assert list(map_in_order(is_loaded, range(3), 2)) == [True, True, True]
    monkeypatch.setattr(png_codec, "_unfilter", None)
    assert list(map_in_order(is_loaded, range(3), 2)) == [False, False, False]
