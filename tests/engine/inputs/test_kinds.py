"""The inputs of `predict` besides files and folders: archives, lists, standard input, addresses and COCO JSONs."""

from __future__ import annotations

import io
import json
import stat
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from panformer_cli.engine.inputs import archives, lists
from panformer_cli.engine.inputs.find import InputImages, find_images
from panformer_cli.errors import DataError
from tests.storage.file_server import FileServer, serving


def encoded(value: int = 0, suffix: str = "PNG") -> bytes:
    """Return an image of one color."""
    stream = io.BytesIO()
    Image.new("RGB", (4, 3), (value, 0, 0)).save(stream, suffix)
    return stream.getvalue()


def archive(path: Path, *names: str | zipfile.ZipInfo, content: bytes | None = None) -> Path:
    """Write a zip whose images differ in their first value, 0, 1, ..."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for number, name in enumerate(names):
            opened.writestr(name, encoded(number) if content is None else content)
    return path


def find(*inputs: str | Path, images: Path | None = None) -> InputImages:
    return find_images([str(given) for given in inputs], Path("nowhere"), images=images)


def first_values(found: InputImages) -> list[int]:
    return [int(image.read()[0, 0, 0]) for image in found.images]


def piped(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    """Let standard input be `data`, from a stream that cannot seek."""

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(Pipe(data)))


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving(encoded(7)) as files:
        yield files


def test_an_archive_is_read_in_place(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", "b/2.png", "b/10.png", "a.png", "notes.txt")
    before = set(tmp_path.iterdir())
    found = find(path)
    assert [image.name for image in found.images] == ["a.png", "b/10.png", "b/2.png"]
    assert first_values(found) == [2, 1, 0]
    assert found.notes == ["1 file left out: 1 .txt (not an image)"]
    assert str(found.images[0]) == f"{path}/a.png"
    assert set(tmp_path.iterdir()) == before


def test_files_of_operating_systems_in_an_archive_are_ignored(tmp_path: Path) -> None:
    found = find(archive(tmp_path / "a.zip", "a.jpg", "__MACOSX/._a.jpg", "b/._a.jpg", "b/.DS_Store", "Thumbs.db"))
    assert ([image.name for image in found.images], found.notes) == (["a.jpg"], [])


def test_unsafe_entries_are_left_out_and_counted(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    lzma = zipfile.ZipInfo("lzma.png")
    lzma.compress_type = zipfile.ZIP_LZMA
    names: list[str | zipfile.ZipInfo] = [
        "x.jpg",
        "../../x.jpg",
        link,
        "a/../x.jpg",
        "/etc/x.jpg",
        "C:\\x.jpg",
        "..\\x.jpg",
        lzma,
        "b.zip",
    ]
    found = find(archive(tmp_path / "a.zip", *names))
    assert first_values(found) == [0]
    assert found.notes == [
        "8 files left out: 5 with a name that leads out of the archive, 1 .zip (not an image), "
        "1 in an unsupported compression (unpack the archive), 1 link in an archive"
    ]


def test_equal_names_in_an_archive_give_as_many_results(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = archive(tmp_path / "a.zip", "x.jpg", "x.jpg", "X.png")
    found = find(path, archive(tmp_path / "b.zip", "x.jpg"), path)
    assert [image.name for image in found.images] == ["X.png", "x_2.jpg", "x_3.jpg", "x_4.jpg"]
    assert first_values(found) == [2, 0, 1, 0]


def test_an_encrypted_or_empty_archive_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", "x.png")
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.zip has no images \(left out: 1 encrypted \(needs a password\)\)"):
        find(path)
    with pytest.raises(DataError, match=r"b\.zip is corrupt or not a zip"):
        (tmp_path / "b.zip").write_bytes(b"no zip")
        find(tmp_path / "b.zip")


@pytest.mark.parametrize("lies", [False, True])
def test_a_zip_bomb_is_refused(tmp_path: Path, lies: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Smaller than a real one: 4 MB of zeros in 4 KB; an archive that lies states 10 bytes for them."""
    monkeypatch.setattr(archives, "_MOST_TOTAL", 2**21)
    path = archive(tmp_path / "a.zip", "x.png", content=bytes(4_000_000))
    if lies:
        data = bytearray(path.read_bytes())
        place = data.index(b"PK\1\2") + 24
        data[place : place + 4] = (10).to_bytes(4, "little")
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"a\.zip/x\.png is corrupt \(Bad CRC-32"):
            find(path).images[0].read()
    else:
        start = time.process_time()
        with pytest.raises(DataError, match=r"has 1 MB and would be 4 MB unpacked, as a zip bomb is"):
            find(path)
        assert time.process_time() - start < 0.5


def test_an_archive_that_changes_is_reported(tmp_path: Path) -> None:
    image = find(archive(tmp_path / "a.zip", "a.png", "b.png")).images[1]
    archive(tmp_path / "a.zip", "a.png")
    with pytest.raises(DataError, match=r"a\.zip/b\.png is missing; the archive has changed"):
        image.read()
    (tmp_path / "a.zip").unlink()
    with pytest.raises(DataError, match=r"a\.zip/b\.png cannot be read: No such file"):
        image.read()


def test_a_list_is_relative_to_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("set/a.png", "set/sub/b c.png", "other/d.png", "set/more/e.png", "set/more/f.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(encoded())
    archive(tmp_path / "set" / "z.zip", "g.png")
    monkeypatch.chdir(tmp_path)
    lines = ["a.png", "", "./sub/b c.png\r", f"{tmp_path}/other/d.png", "../other/d.png", "more/e*", "z.zip", "no.png"]
    Path("set/list.txt").write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    found = find("set/list.txt")
    assert [image.name for image in found.images] == ["a.png", "sub/b c.png", "d.png", "more/e.png", "g.png", "no.png"]
    with pytest.raises(DataError, match=r"the image set/no\.png is missing"):
        found.images[-1].read()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"x.png\ny.png\n", r"list\.txt has 2 names, and none of them exists \(first .*x\.png\); expected one image"),
        (b" \n\n", r"list\.txt has no names"),
        (b"\xff\xfea\0", r"list\.txt is not UTF-8 text"),
        (b"other.txt\n", r"list\.txt names other\.txt; expected images, not another list"),
        (b"ftp://host/a.jpg\n", r"addresses of the kind ftp:// cannot be read"),
    ],
)
def test_lists_that_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        find(tmp_path / "list.txt")


def test_a_missing_image_of_a_list_has_the_name_that_it_has_later(tmp_path: Path) -> None:
    """Otherwise a prediction could not be resumed when the image is there again."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.png").write_bytes(encoded())
    (tmp_path / "list.txt").write_text("sub/a.png\nsub/b.png\n", encoding="utf-8")
    before = list(find(tmp_path / "list.txt").images)
    (tmp_path / "sub" / "b.png").write_bytes(encoded())
    assert list(find(tmp_path / "list.txt").images) == before
    assert [image.name for image in before] == ["sub/a.png", "sub/b.png"]


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 5000, "a\0b.png"])
def test_impossible_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="cannot be the name of a file: it"):
        find(name)
    rows = [{"id": 1, "file_name": "x" * 300}]
    (tmp_path / "a.json").write_text(json.dumps({"images": rows}), encoding="utf-8")
    (tmp_path / "a.txt").write_text("word " * 100, encoding="utf-8")
    for file in ("a.json", "a.txt"):
        with pytest.raises(DataError, match="cannot be the name of a file: it is too long"):
            find(tmp_path / file)
    with pytest.raises(DataError, match=r"has a path of 6001 characters, expected at most 2000"):
        find(f"http://host/{'a/' * 3000}")


def test_long_names_in_an_archive(tmp_path: Path) -> None:
    """A name in an archive can be longer than a file system allows."""
    found = find(archive(tmp_path / "a.zip", "d" * 300 + "/a.png", "e" * 300 + ".png", "f/" * 2000 + "b.png"))
    assert [len(part) for image in found.images for part in Path(image.name).parts] == [235, 5, 239]
    assert found.notes == ["1 file left out: 1 with a name that is too long"]


@pytest.mark.parametrize("position", [0, -1])
def test_a_name_in_an_archive_that_is_not_unicode(tmp_path: Path, position: int) -> None:
    """In the list of the archive, at its end, or in front of the entry."""
    path = archive(tmp_path / "a.zip", "é.png")
    parts = path.read_bytes().split("é.png".encode())
    names = ["é.png".encode()] * 2
    names[position] = b"\xff\xff.png"
    path.write_bytes(parts[0] + names[0] + parts[1] + names[1] + parts[2])
    with pytest.raises(DataError, match="is corrupt"):
        find(path).images[0].read()


@pytest.mark.parametrize("suffix", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "PPM"])
def test_an_image_on_standard_input(monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    piped(monkeypatch, encoded(200, suffix))
    (image,) = find("-").images
    assert (str(image), image.name, image.file_name) == ("standard input", "stdin", "stdin")
    assert abs(int(image.read()[0, 0, 0]) - 200) < 3


def test_a_plain_text_image_is_no_list(monkeypatch: pytest.MonkeyPatch) -> None:
    piped(monkeypatch, b"P3\n1 1\n255\n9 8 7\n")
    assert find("-").images[0].read().tolist() == [[[9, 8, 7]]]


@pytest.mark.parametrize("separator", ["\n", "\0", "\r\n"])
def test_names_on_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, separator: str) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("ä.png", "b.png"):
        Path(name).write_bytes(encoded())
    piped(monkeypatch, separator.join(["ä.png", "b.png", ""]).encode())
    assert [image.name for image in find("-").images] == ["ä.png", "b.png"]


def test_standard_input_that_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    piped(monkeypatch, b"")
    with pytest.raises(DataError, match="standard input, which is empty; pipe an image"):
        find("-")
    piped(monkeypatch, encoded())
    with pytest.raises(DataError, match="- is given twice"):
        find("-", "-")
    monkeypatch.setattr(lists, "MOST_BYTES", 99)
    for data in (b"name.png\n" * 12, b"\xff" * 150):
        piped(monkeypatch, data)
        with pytest.raises(DataError, match=r"standard input has more than .* MB; give the image, or the list"):
            find("-")
        assert sys.stdin.buffer.read(), "it is not read to its end, which may never come"
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    with pytest.raises(DataError, match="standard input, which is a terminal"):
        find("-")


def test_addresses(server: FileServer) -> None:
    urls = [f"{server.url}/{name}" for name in ("a.jpg?v=1", "a.jpg?v=2", "b%20c%2F%3F.png", "download/", "x" * 300)]
    found = find(*urls, urls[0])
    names = [image.name for image in found.images]
    assert names == ["a.jpg", "a_2.jpg", "b c__.png", "download", "x" * 100]
    assert [image.file_name for image in found.images] == names
    assert [str(image) for image in found.images] == urls
    assert first_values(found) == [7] * 5
    assert server.paths[:2] == ["/release/a.jpg?v=1", "/release/a.jpg?v=2"]


def test_numbers_in_addresses_are_ids() -> None:
    found = find("http://host/val2017/000000039769.jpg", "http://host/val2017/000000000139.jpg?size=l")
    assert [image.id for image in found.images] == [39769, 139]


def test_a_coco_json_gives_images_and_ids(tmp_path: Path) -> None:
    images = [{"id": 7, "file_name": "b.png"}, {"id": 3, "file_name": "sub/a.png"}, {"id": 9, "file_name": "no.png"}]
    for name in ("images/test/b.png", "images/test/sub/a.png", "elsewhere/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(encoded(len(name)))
    annotations = tmp_path / "annotations"
    annotations.mkdir()
    path = annotations / "image_info_test.json"
    path.write_text(json.dumps({"images": images, "categories": []}))
    found = find(path)
    assert [(image.id, image.file_name) for image in found.images] == [(7, "b.png"), (3, "sub/a.png"), (9, "no.png")]
    assert found.images[0].source.path == tmp_path / "images" / "test" / "b.png"
    assert find(path, images=tmp_path / "elsewhere").images[0].source.path == tmp_path / "elsewhere" / "b.png"
    with pytest.raises(DataError, match=r"no\.png is missing"):
        found.images[2].read()
    path.rename(tmp_path / "list.json")
    with pytest.raises(DataError, match=r"none of the images in .*list\.json is in .*first b\.png.*--images DIR"):
        find(tmp_path / "list.json")
    mixed = find(tmp_path / "elsewhere", annotations.parent / "list.json", images=tmp_path / "images" / "test")
    assert [image.id for image in mixed.images] == [1, 2, 3, 4], "one image has no id in a JSON"


def test_a_json_that_lists_no_images(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"shapes": []}')
    with pytest.raises(DataError, match=r"a\.json is missing the lists images"):
        find(tmp_path / "a.json")


def test_a_video_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.MP4").write_bytes(b"x")
    with pytest.raises(DataError, match=r"a\.MP4 is a video"):
        find(tmp_path / "a.MP4")


def test_an_image_is_the_same_from_every_input(tmp_path: Path, server: FileServer) -> None:
    rng = np.random.default_rng(0)
    stream = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(stream, "JPEG", exif=b"")
    (tmp_path / "a.jpg").write_bytes(stream.getvalue())
    server.named["a.jpg"] = stream.getvalue()
    archive(tmp_path / "a.zip", "a.jpg", content=stream.getvalue())
    (tmp_path / "a.txt").write_text("a.jpg")
    direct = find(tmp_path / "a.jpg").images[0].read()
    for given in (tmp_path / "a.zip", tmp_path / "a.txt", f"{server.url}/a.jpg"):
        assert np.array_equal(find(given).images[0].read(), direct)
