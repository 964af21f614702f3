"""Reading JSON piece by piece, compared with `json.loads`."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panformer_cli.data.coco import json_stream
from panformer_cli.data.coco.json_stream import read_members, write_list
from panformer_cli.errors import DataError
from panformer_cli.storage.plain_json import DEEPEST
from tests.storage.test_plain_json import nested

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


def read(path: Path) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, Iterator) else value for key, value in read_members(path)}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stream") / "x.json"


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(
    content=st.dictionaries(st.text(), values, max_size=5),
    chunk=st.integers(1, 40),
    indent=st.none() | st.integers(0, 2),
    ascii_only=st.booleans(),
)
def test_the_result_equals_that_of_json(
    path: Path, content: dict[str, Any], chunk: int, indent: int | None, ascii_only: bool
) -> None:
    text = json.dumps(content, indent=indent, ensure_ascii=ascii_only)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "CHUNK", chunk)
        assert read(path) == json.loads(text)


@settings(deadline=None, max_examples=60)
@given(cut=st.integers(1, 50), chunk=st.integers(1, 40))
def test_a_truncated_file_is_reported(path: Path, cut: int, chunk: int) -> None:
    text = json.dumps({"a": [1, {"b": "cdé"}, -2.5e7], "c": True, "d": [], "e": "xyz"})
    assert len(text) > 50
    path.write_text(text[:cut])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "CHUNK", chunk)
        with pytest.raises(DataError, match="not valid JSON"):
            read(path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", r"the panoptic JSON .*x\.json is empty \(0 bytes\)"),
        (b"[1]", "contains a list; expected an object"),
        (b"null", "contains a NoneType; expected an object"),
        (b"words", "is not valid JSON, or is truncated: Expecting value at character 0"),
        (b'{"a": ' + 5000 * b"7" + b"}", "is not valid JSON.*digits"),
        (b'{"a": 1, "a": 2}', "duplicate key 'a'"),
    ],
    ids=["empty", "list", "null", "words", "too many digits", "duplicate key"],
)
def test_other_files_are_rejected(path: Path, content: bytes, expected: str) -> None:
    path.write_bytes(content)
    with pytest.raises(DataError, match=expected) as caught:
        read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("chunk", [7, json_stream.CHUNK])
@pytest.mark.parametrize("depth", [DEEPEST + 1, 900, 1500, 5000, 100_000])
def test_rows_that_are_nested_too_deeply(path: Path, depth: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    path.write_text(f'{{"a": [{nested(DEEPEST)}, {nested(depth)}]}}')
    members = read_members(path)
    key, rows = next(members)
    assert key == "a" and next(rows) == json.loads(nested(DEEPEST))
    with pytest.raises(DataError, match=f"nested more than {DEEPEST} levels deep at character {7 + 2 * DEEPEST + 2}"):
        next(rows)


def test_wide_rows_are_not_too_deep(path: Path) -> None:
    row = [[number] for number in range(10 * DEEPEST)]
    path.write_text(json.dumps({"a": [row], "b": row}))
    assert read(path) == {"a": [row], "b": row}


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the panoptic JSON .*none\.json is missing; check the path"):
        read(tmp_path / "none.json")
    with pytest.raises(DataError, match="the panoptic JSON .* cannot be read: .*; expected a readable file"):
        read(tmp_path)


def test_the_rest_of_a_list_is_skipped(path: Path) -> None:
    path.write_text('{"a": [1, 2, 3], "b": 4}')
    members = read_members(path)
    assert next(next(members)[1]) == 1
    assert next(members) == ("b", 4)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_other_encodings_of_json(path: Path, encoding: str) -> None:
    path.write_bytes('{"ä": ["ö"]}'.encode(encoding))
    assert read(path) == {"ä": ["ö"]}


def test_the_position_of_the_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = '{"a": [' + "10, " * 30 + "], " + "x" * 50
    monkeypatch.setattr(json_stream, "CHUNK", 16)
    path.write_text(text)
    with pytest.raises(DataError, match=f"extra comma before ] at character {text.index(']')}"):
        read(path)


def test_after_an_error_nothing_more_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_text('{"a": [{"b" 1}' + " " * 5000)
    sizes: list[int] = []
    monkeypatch.setattr(json_stream, "CHUNK", 100)
    original = json_stream._Text._read_more

    def counted(self: Any) -> bool:
        sizes.append(1)
        return original(self)

    monkeypatch.setattr(json_stream._Text, "_read_more", counted)
    with pytest.raises(DataError, match="delimiter at character 12"):
        read(path)
    assert len(sizes) == 1


@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 100])
def test_a_list_written_in_pieces_equals_the_list(count: int) -> None:
    rows = [{"id": number, "name": "ä, [" * (number % 3)} for number in range(count)]
    file = io.StringIO()
    write_list(file, iter(rows))
    assert file.getvalue() == json.dumps(rows)
