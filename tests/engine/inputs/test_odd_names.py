"""Names of files that have unusual characters, and lists that have comments and patterns."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from panformer_cli.engine.inputs.find import find_images
from panformer_cli.engine.inputs.names import distinct_names
from panformer_cli.errors import DataError
from panformer_cli.wording import shown, without_controls

needs_bytes = pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names of files are Unicode here")


@needs_bytes
def test_a_name_that_is_not_utf8_is_valid_and_can_be_reversed(tmp_path: Path) -> None:
    """As in addresses, each byte is % and its value, and names that are equal then get a number."""
    for name in (b"caf\xe9.jpg", "café.jpg".encode(), b"caf%E9.jpg"):
        Path(os.fsdecode(bytes(tmp_path) + b"/" + name)).touch()
    images = list(find_images([str(tmp_path)], Path("nowhere")).images)
    assert [(image.name, image.file_name) for image in images] == [
        *(("caf%E9.jpg", "caf%E9.jpg"), ("café.jpg", "café.jpg")),
        ("caf%E9_2.jpg", "caf%E9_2.jpg"),
    ]
    assert images[2].source.path.name == "caf\udce9.jpg"
    assert str(images[2]).endswith("/caf\\xe9.jpg")
    for image in images:
        json.dumps([image.name, image.file_name, str(image)], ensure_ascii=False).encode()


@needs_bytes
def test_control_characters_in_a_name_do_not_reach_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "a\n\x1b[31mred.jpg").touch()
    (image,) = find_images([str(tmp_path)], Path("nowhere")).images
    assert str(image) == f"{tmp_path}/a\\n\\x1b[31mred.jpg"
    with pytest.raises(DataError) as caught:
        image.read()
    assert "a\\n\\x1b[31mred.jpg is empty" in str(caught.value) and "\x1b" not in str(caught.value)


def test_shown_names_and_messages() -> None:
    assert shown("a\tb\u202ec\u2028d\x9b\udc80é €.jpg") == "a\\tb\\u202ec\\u2028d\\x9b\\x80é €.jpg"
    assert without_controls("2 problems:\n  a\x07\r") == "2 problems:\n  a\\x07\\r"


def test_names_that_differ_in_the_form_of_accents_do_not_collide() -> None:
    composed, decomposed = "caf\u00e9.jpg", "cafe\u0301.jpg"
    assert list(distinct_names([composed, decomposed])) == [composed, "cafe\u0301_2.jpg"]


def test_a_list_has_comments_and_its_patterns_keep_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("in/sub/a.jpg", "in/sub/b.jpg", "in/#c.jpg", "d.jpg"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    Path("in/list.txt").write_text("# all images\nsub/a.jpg\nsub/*.jpg\n./#c.jpg\n#d.jpg\n../*.jpg\n")
    names = [image.name for image in find_images(["in/list.txt"], Path("nowhere")).images]
    assert names == ["sub/a.jpg", "sub/b.jpg", "#c.jpg", "d.jpg"]


def test_images_of_a_json_need_one(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    with pytest.raises(DataError, match="--images is the folder of the images that a COCO JSON lists: no input is one"):
        find_images([str(tmp_path)], Path("nowhere"), images=tmp_path)


def test_the_path_of_an_address_is_not_looked_up_on_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []
    monkeypatch.setattr("panformer_cli.engine.inputs.ids.annotation_of_images", asked.append)
    find_images(["http://host/val2017/a.jpg"], Path("nowhere"))
    assert asked == []
