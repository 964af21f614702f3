"""The index of a panoptic JSON: says what the JSON says, is built once, and is not trusted when anything is wrong."""

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
from panformer_cli.data.coco.annotation_index import IndexedAnnotation, index_places, open_annotation
from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.coco.panoptic_json import read_annotation
from panformer_cli.data.layout import find_splits
from panformer_cli.errors import DataError
from tests.data.coco.annotation_files import panoptic_jsons, read_back, told
from tests.data.coco.coco_files import write_coco


@pytest.fixture(autouse=True)
def every_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The smallest JSON gets an index, and the cache is a folder that is not there yet."""
    monkeypatch.setattr(annotation_index, "SMALLEST", 0)
    monkeypatch.setenv("PANFORMER_HOME", str(tmp_path / "home"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A panoptic JSON with an image that is not annotated."""
    path = write_coco(tmp_path / "data")
    content = json.loads(path.read_text())
    content["images"].append({"id": "x", "file_name": "café.png"})
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The JSONs that are read, as they are read."""
    found: list[Path] = []

    def noted(path: Path) -> Any:
        found.append(path)
        return read_annotation(path)

    monkeypatch.setattr(annotation_index, "read_annotation", noted)
    return found


def said(path: Path) -> list[Any]:
    return told(json.loads(path.read_text()))


def change(path: Path) -> None:
    content = json.loads(path.read_text())
    content["annotations"][0]["segments_info"][0]["area"] += 1
    path.write_text(json.dumps(content))


@settings(deadline=None, max_examples=60)
@given(content=panoptic_jsons())
def test_it_says_what_the_json_says(tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any]) -> None:
    path = tmp_path_factory.mktemp("index") / "panoptic_x.json"
    path.write_text(json.dumps(content))
    for _ in ("built", "reused"):
        annotation = open_annotation(path)
        assert isinstance(annotation, IndexedAnnotation)
        assert read_back(annotation) == told(content)


def test_it_is_built_once(path: Path, reads: list[Path]) -> None:
    first, second = open_annotation(path), open_annotation(path)
    assert reads == [path]
    assert read_back(first) == read_back(second) == said(path)
    assert index_places(path)[0] == path.with_name("panoptic_val.index") and index_places(path)[0].is_file()
    assert not index_places(path)[1].parent.exists()
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
    assert read_back(open_annotation(path)) == said(path)
    open_annotation(path)
    assert len(reads) == 2


def test_no_index_of_a_json_that_changes_while_it_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def overtaken(path: Path) -> Any:
        annotation = read_annotation(path)
        path.write_text(path.read_text() + " ")
        return annotation

    monkeypatch.setattr(annotation_index, "read_annotation", overtaken)
    assert not isinstance(open_annotation(path), IndexedAnnotation)
    assert not index_places(path)[0].exists()


def damages(whole: bytes) -> Iterator[bytes]:
    """Cut, prolonged and changed in places all over the file; other versions and other files."""
    yield b""
    yield whole + b"\0"
    for place in range(0, len(whole), max(1, len(whole) // 40)):
        yield whole[:place]
        yield whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :]
    yield whole.replace(b"index 1 ", b"index 0 ")
    yield whole.replace(b"index 1 ", b"index 2 ")
    yield pickle.dumps(whole)


def test_a_damaged_index_is_built_anew(path: Path, reads: list[Path]) -> None:
    place, expected = index_places(path)[0], said(path)
    open_annotation(path)
    whole = place.read_bytes()
    for number, damaged in enumerate(damages(whole), 2):
        place.write_bytes(damaged)
        assert read_back(open_annotation(path)) == expected
        assert len(reads) == number
        assert place.read_bytes() == whole


def with_checksum(content: bytes) -> bytes:
    """The content of an index with a checksum that fits it."""
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
    ids=["cut", "too long", "one lacks", "objects", "other keys"],
)
def test_nothing_is_read_beyond_the_file(edit: Callable[[bytes], bytes], path: Path, reads: list[Path]) -> None:
    place = index_places(path)[0]
    open_annotation(path)
    whole = place.read_bytes()
    assert with_checksum(whole) == whole != edit(whole)
    place.write_bytes(with_checksum(edit(whole)))
    assert read_back(open_annotation(path)) == said(path)
    assert len(reads) == 2 and place.read_bytes() == whole


def test_without_a_place_beside_the_json_it_lies_in_the_cache(path: Path, reads: list[Path]) -> None:
    beside, cached = index_places(path)
    beside.mkdir()
    for _ in range(2):
        assert read_back(open_annotation(path)) == said(path)
    assert reads == [path] and cached.is_file()
    other = write_coco(path.parent.parent.parent / "other")
    assert index_places(other)[1] != cached  # though it has the same name


def test_without_any_place_the_annotation_is_in_memory(path: Path, tmp_path: Path, reads: list[Path]) -> None:
    index_places(path)[0].mkdir()
    (tmp_path / "home").write_text("no folder")
    before = sorted(tmp_path.rglob("*"))
    for _ in range(2):
        annotation = open_annotation(path)
        assert not isinstance(annotation, IndexedAnnotation)
        assert read_back(annotation) == read_back(pickle.loads(pickle.dumps(annotation))) == said(path)
    assert len(reads) == 2 and sorted(tmp_path.rglob("*")) == before


def test_a_small_json_needs_none(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotation_index, "SMALLEST", path.stat().st_size + 1)
    before = sorted(tmp_path.rglob("*"))
    assert read_back(open_annotation(path)) == said(path)
    assert sorted(tmp_path.rglob("*")) == before
    monkeypatch.setattr(annotation_index, "SMALLEST", path.stat().st_size)
    open_annotation(path)
    assert index_places(path)[0].is_file()


def test_a_bad_json_is_refused_as_without_an_index(path: Path) -> None:
    path.write_text(path.read_text()[:500])
    with pytest.raises(DataError, match=r"panoptic_val\.json is not valid JSON, or is truncated"):
        open_annotation(path)
    path.unlink()
    with pytest.raises(DataError, match=r"the panoptic JSON .*panoptic_val\.json is missing"):
        open_annotation(path)


def test_workers_get_the_place_not_the_arrays(path: Path, reads: list[Path]) -> None:
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


def test_a_data_set_reads_through_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = path.parent.parent
    monkeypatch.setattr(annotation_index, "SMALLEST", 2**40)
    expected = [sample.annotation.segments for sample in CocoPanoptic(root, "val", skip_unannotated=True)]
    monkeypatch.setattr(annotation_index, "SMALLEST", 0)
    for _ in range(2):
        data = CocoPanoptic(root, "val", skip_unannotated=True)
        assert [sample.annotation.segments for sample in data] == expected
        assert data.skipped == [f"{path} lists café.png but does not annotate it"]
    assert find_splits(root) == ["val"]


def _open_when_all_are_there(path: Path, barrier: Any, answers: Any) -> None:
    barrier.wait(60)
    answers.put(read_back(open_annotation(path)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_several_processes_may_build_it_at_once(path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(4), context.Queue()
    processes = [context.Process(target=_open_when_all_are_there, args=(path, barrier, answers)) for _ in range(4)]
    for process in processes:
        process.start()
    found = [answers.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
    assert found == [said(path)] * 4
    names = sorted(entry.name for entry in path.parent.iterdir())
    assert names == ["panoptic_val", "panoptic_val.index", "panoptic_val.json"]
