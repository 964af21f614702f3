"""The index of a panoptic JSON: it equals the JSON, is built once, and is rebuilt if it is invalid."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from panformer_cli.data.coco import annotation_index
from panformer_cli.data.coco.annotation_index import IndexedAnnotation, index_paths, open_annotation
from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.coco.panoptic_json import read_annotation
from panformer_cli.data.layout import find_splits
from panformer_cli.errors import DataError
from tests.data.coco.annotation_files import expected_content, panoptic_jsons, read_back
from tests.data.coco.coco_files import write_coco


@pytest.fixture(autouse=True)
def every_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Index JSONs of any size, and use a cache folder that does not exist yet."""
    monkeypatch.setattr(annotation_index, "SMALLEST", 0)
    monkeypatch.setenv("PANFORMER_HOME", str(tmp_path / "home"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A panoptic JSON with an image without annotation."""
    path = write_coco(tmp_path / "data")
    content = json.loads(path.read_text())
    content["images"].append({"id": "x", "file_name": "café.png"})
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The JSONs that are read, in order."""
    found: list[Path] = []

    def recorded(path: Path) -> Any:
        found.append(path)
        return read_annotation(path)

    monkeypatch.setattr(annotation_index, "read_annotation", recorded)
    return found


def content_of(path: Path) -> list[Any]:
    return expected_content(json.loads(path.read_text()))


def change(path: Path) -> None:
    content = json.loads(path.read_text())
    content["annotations"][0]["segments_info"][0]["area"] += 1
    path.write_text(json.dumps(content))


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(content=panoptic_jsons())
def test_it_equals_the_json(tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any]) -> None:
    path = tmp_path_factory.mktemp("index") / "panoptic_x.json"
    path.write_text(json.dumps(content))
    for _ in ("built", "reused"):
        annotation = open_annotation(path)
        assert isinstance(annotation, IndexedAnnotation)
        assert read_back(annotation) == expected_content(content)


def test_it_is_built_once(path: Path, reads: list[Path]) -> None:
    first, second = open_annotation(path), open_annotation(path)
    assert reads == [path]
    assert read_back(first) == read_back(second) == content_of(path)
    assert index_paths(path)[0] == path.with_name("panoptic_val.index") and index_paths(path)[0].is_file()
    assert not index_paths(path)[1].parent.exists()
    assert not second.rows.flags.writeable


@pytest.mark.parametrize("what", ["size", "time"])
def test_a_changed_json_is_read_again(what: str, path: Path, reads: list[Path]) -> None:
    open_annotation(path)
    before = path.stat()
    if what == "size":
        path.write_text(path.read_text() + " ")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    else:
        change(path)
        assert path.stat().st_size == before.st_size
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert read_back(open_annotation(path)) == content_of(path)
    open_annotation(path)
    assert len(reads) == 2


def test_no_index_of_a_json_that_changes_while_it_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def changed_during_reading(path: Path) -> Any:
        annotation = read_annotation(path)
        path.write_text(path.read_text() + " ")
        return annotation

    monkeypatch.setattr(annotation_index, "read_annotation", changed_during_reading)
    assert not isinstance(open_annotation(path), IndexedAnnotation)
    assert not index_paths(path)[0].exists()


def corruptions(whole: bytes) -> Iterator[bytes]:
    """Yield the file truncated, extended and changed at many positions; other versions and other files."""
    yield b""
    yield whole + b"\0"
    for offset in range(0, len(whole), max(1, len(whole) // 40)):
        yield whole[:offset]
        yield whole[:offset] + bytes([whole[offset] ^ 4]) + whole[offset + 1 :]
    yield whole.replace(b"index 1 ", b"index 0 ")
    yield whole.replace(b"index 1 ", b"index 2 ")
    yield pickle.dumps(whole)


@pytest.mark.slow
def test_a_corrupt_index_is_rebuilt(path: Path, reads: list[Path]) -> None:
    index_path, expected = index_paths(path)[0], content_of(path)
    open_annotation(path)
    whole = index_path.read_bytes()
    for number, corrupt in enumerate(corruptions(whole), 2):
        index_path.write_bytes(corrupt)
        assert read_back(open_annotation(path)) == expected
        assert len(reads) == number
        assert index_path.read_bytes() == whole


def with_checksum(content: bytes) -> bytes:
    """Return the content of an index with a correct checksum."""
    length = len(annotation_index._first_line(0))
    return annotation_index._first_line(zlib.crc32(content[length:])) + content[length:]


@pytest.mark.parametrize(
    "edit",
    [
        lambda whole: whole[:-1],
        lambda whole: whole.replace(b'"lengths": [4, ', b'"lengths": [999999999, '),
        lambda whole: whole.replace(b'"lengths": [4, ', b'"lengths": ['),
        lambda whole: whole.replace(b'"<f2"', b'"|O8"'),
        lambda whole: whole.replace(b'"source"', b'"sauces"'),
    ],
    ids=["truncated", "too long", "one missing", "objects", "other keys"],
)
def test_nothing_is_read_beyond_the_file(edit: Callable[[bytes], bytes], path: Path, reads: list[Path]) -> None:
    index_path = index_paths(path)[0]
    open_annotation(path)
    whole = index_path.read_bytes()
    assert with_checksum(whole) == whole != edit(whole)
    index_path.write_bytes(with_checksum(edit(whole)))
    assert read_back(open_annotation(path)) == content_of(path)
    assert len(reads) == 2 and index_path.read_bytes() == whole


def test_if_the_folder_is_not_writable_the_index_is_in_the_cache(path: Path, reads: list[Path]) -> None:
    beside, cached = index_paths(path)
    beside.mkdir()
    for _ in range(2):
        assert read_back(open_annotation(path)) == content_of(path)
    assert reads == [path] and cached.is_file()
    other = write_coco(path.parent.parent.parent / "other")
    assert index_paths(other)[1] != cached  # though it has the same name


def test_without_a_writable_folder_the_annotation_is_in_memory(path: Path, tmp_path: Path, reads: list[Path]) -> None:
    index_paths(path)[0].mkdir()
    (tmp_path / "home").write_text("no folder")
    before = sorted(tmp_path.rglob("*"))
    for _ in range(2):
        annotation = open_annotation(path)
        assert not isinstance(annotation, IndexedAnnotation)
        assert read_back(annotation) == read_back(pickle.loads(pickle.dumps(annotation))) == content_of(path)
    assert len(reads) == 2 and sorted(tmp_path.rglob("*")) == before


def test_a_small_json_has_no_index(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotation_index, "SMALLEST", path.stat().st_size + 1)
    before = sorted(tmp_path.rglob("*"))
    assert read_back(open_annotation(path)) == content_of(path)
    assert sorted(tmp_path.rglob("*")) == before
    monkeypatch.setattr(annotation_index, "SMALLEST", path.stat().st_size)
    open_annotation(path)
    assert index_paths(path)[0].is_file()


def test_an_invalid_json_is_rejected(path: Path) -> None:
    path.write_text(path.read_text()[:500])
    with pytest.raises(DataError, match=r"panoptic_val\.json is not valid JSON, or is truncated"):
        open_annotation(path)
    path.unlink()
    with pytest.raises(DataError, match=r"the panoptic JSON .*panoptic_val\.json is missing"):
        open_annotation(path)


def test_pickles_contain_the_path_not_the_arrays(path: Path, reads: list[Path]) -> None:
    data = CocoPanoptic(path.parent.parent, "val", skip_unannotated=True)
    pickled = pickle.dumps(data)
    assert b"2.mask.png" not in pickled
    assert b"2.mask.png" in pickle.dumps(read_annotation(path).images)
    copy = pickle.loads(pickled)
    assert len(reads) == 1
    assert [copy.image_info(k) for k in range(3)] == [data.image_info(k) for k in range(3)]
    assert copy.annotation(2).segments == data.annotation(2).segments
    path.write_text(path.read_text() + " ")
    with pytest.raises(DataError, match=r"panoptic_val\.json has changed since it was opened"):
        pickle.loads(pickled)


def test_a_data_set_uses_the_index(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = path.parent.parent
    monkeypatch.setattr(annotation_index, "SMALLEST", 2**40)
    expected = [sample.annotation.segments for sample in CocoPanoptic(root, "val", skip_unannotated=True)]
    monkeypatch.setattr(annotation_index, "SMALLEST", 0)
    for _ in range(2):
        data = CocoPanoptic(root, "val", skip_unannotated=True)
        assert [sample.annotation.segments for sample in data] == expected
        assert data.skipped == [f"{path} lists café.png but does not annotate it"]
    assert find_splits(root) == ["val"]


def _open_at_the_barrier(path: Path, barrier: Any, answers: Any) -> None:
    barrier.wait(60)
    answers.put(read_back(open_annotation(path)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_several_processes_can_build_it_at_once(path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(4), context.Queue()
    processes = [context.Process(target=_open_at_the_barrier, args=(path, barrier, answers)) for _ in range(4)]
    for process in processes:
        process.start()
    found = [answers.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
    assert found == [content_of(path)] * 4
    names = sorted(entry.name for entry in path.parent.iterdir())
    assert names == ["panoptic_val", "panoptic_val.index", "panoptic_val.json"]
