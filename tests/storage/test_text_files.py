"""Text files in encodings of other systems."""

from __future__ import annotations

from pathlib import Path

import pytest

from panformer_cli.errors import DataError
from panformer_cli.storage import text_files
from panformer_cli.storage.text_files import decode_text, encoding_of, is_text_encoding, likely_encodings

PATH = Path("a.json")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("text", ["", "car", '{"label": "Stra\u00dfe"}', '{"label": "\u6c7d\u8f66"}'])
def test_unicode_needs_no_option(text: str, encoding: str) -> None:
    assert decode_text(text.encode(encoding), PATH) == text
    assert decode_text(text.encode(encoding), PATH, "cp1252") == text


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("\u6c7d\u8f66 \u884c\u4eba", "gbk"),
        ("\u6c7d\u8eca", "big5"),
        ("\u30cd\u30b3", "shift_jis"),
        ("\uc790\ub3d9\ucc28", "cp949"),
        ("\u043c\u0430\u0448\u0438\u043d\u0430", "cp1251"),
        ("Stra\u00dfe, for\u00eat, ca\u00f1\u00f3n", "cp1252"),
    ],
)
def test_other_encodings_are_suggested_and_read_with_the_option(text: str, encoding: str) -> None:
    data = f'{{"shapes": [],\n"label": "{text}"}}'.encode(encoding)
    assert {"gb18030" if encoding == "gbk" else encoding} & set(likely_encodings(data))
    assert text in decode_text(data, PATH, encoding)
    first = len(data) - len(data.lstrip(bytes(range(128))))
    with pytest.raises(
        DataError, match=f"^a.json is not UTF-8: byte 0x{data[first]:02x} at position {first}, on line 2"
    ) as caught:
        decode_text(data, PATH)
    assert text[:4] in str(caught.value) and "--encoding NAME" in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-be"])
def test_the_encoding_of_a_large_file(tmp_path: Path, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "_PART", 2**12)
    path, text = tmp_path / "a.json", "{" + "\u00df\u6c7d" * 2**12  # more than one part
    path.write_text(text, encoding=encoding)
    found = encoding_of(path)
    assert path.read_text(encoding=found).removeprefix("\ufeff") == text
    assert encoding_of(path, "gbk") == found
    path.write_bytes(text.encode("gb18030"))
    assert encoding_of(path, "gb18030") == "gb18030"
    with pytest.raises(DataError, match="a.json is not UTF-8: byte 0x81 at position 1, on line 1"):
        encoding_of(path)


def test_a_file_in_neither_encoding_is_refused() -> None:
    with pytest.raises(DataError, match="^a.json is neither UTF-8 nor ascii: byte 0xdf at position 4, on line 1;"):
        decode_text("Stra\u00dfe".encode("cp1252"), PATH, "ascii")


def test_bytes_of_no_known_encoding_get_no_guess() -> None:
    assert likely_encodings(b"\xa0\xa0\xa0") == []
    with pytest.raises(
        DataError, match="on line 1; pass its encoding with --encoding NAME, or save the file as UTF-8$"
    ):
        decode_text(b"a\xa0\xa0\xa0", PATH)


def test_a_named_encoding_wins_where_utf8_is_valid_by_accident() -> None:
    """The two bytes of a cat in GBK are an accented letter in UTF-8."""
    cat = "\u732b".encode("gbk")
    assert cat.decode() == "\u00e8"
    assert decode_text(cat, PATH, "gbk") == "\u732b"
    assert decode_text("\u6c7d\u8f66".encode(), PATH, "gbk") == "\u6c7d\u8f66"
    for other in ("cp1252", "utf-16", "utf-16-le"):
        assert decode_text("\u00e8".encode(), PATH, other) == "\u00e8"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gbk", True),
        ("GB18030", True),
        ("utf-8", True),
        ("cp1252", True),
        ("hex", False),
        ("idna", False),
        ("x", False),
        ("", False),
    ],
)
def test_names_of_encodings(name: str, expected: bool) -> None:
    assert is_text_encoding(name) is expected


@pytest.mark.parametrize("encoding", ["utf8", "UTF-8"])
def test_utf8_as_the_given_encoding_is_not_named_twice(encoding: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.txt is not UTF-8: byte 0xe4 .* it may be cp1252"):
        decode_text("M\u00e4rz und Stra\u00dfe".encode("cp1252"), tmp_path / "a.txt", encoding)
