"""Published weights: the cache, downloads, and warnings when a file changes."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from panformer_cli.engine.checkpoints import published
from panformer_cli.engine.checkpoints.published import (
    PUBLISHED,
    fetch_published,
    published_at,
)
from panformer_cli.errors import CheckpointError, PanformerError
from panformer_cli.recipe_io import built_in_recipes
from panformer_cli.storage.download import DownloadError
from panformer_cli.storage.files import weights_folder
from panformer_cli.storage.partial_file import PartialFile
from tests.conftest import REPOSITORY
from tests.engine.small import StopAfter
from tests.release_files import small_file
from tests.storage.file_server import CLOSED, FileServer

R50 = PUBLISHED["r50"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set up an empty cache and a mirror of the official files."""
    server.content = small_file()
    monkeypatch.setenv("PANFORMER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PANFORMER_WEIGHTS_URL", f"{server.url}/")
    return tmp_path / "home"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def fetch() -> StopAfter:
    """Fetch `r50` and return the reporter."""
    reporter = StopAfter()
    assert fetch_published(R50, reporter) == R50.path
    return reporter


def test_published_weights_are_those_of_the_model_page() -> None:
    page = (REPOSITORY / "docs" / "model.md").read_text(encoding="utf-8")
    names = ["r50_1x", "r50", "r101", "pvtv2b5", "swinl"]
    assert [*PUBLISHED][: len(names)] == names
    for name, row in [*PUBLISHED.items()][: len(names)]:
        [line] = re.findall(rf"^\| `{name}` \| .*$", page, re.MULTILINE)
        assert f"| {row.pq} | {row.pq_things} | {row.pq_stuff} |" in line
        assert row.backbone in line
        assert f"`{row.file.removeprefix('panoptic_segformer_').removesuffix('.pth')}`" in page


def test_published_weights_of_k_net_are_those_of_its_page() -> None:
    page = (REPOSITORY / "docs" / "knet.md").read_text(encoding="utf-8")
    found = {name: row for name, row in PUBLISHED.items() if "knet" in name}
    pq = {"knet_r50_1x": 44.3, "knet_r50": 47.1, "knet_r101": 48.4, "knet_swinl": 54.6}
    assert {name: row.pq for name, row in found.items()} == pq
    for name, row in found.items():
        [line] = re.findall(rf"^\| `{name}` \| .*$", page, re.MULTILINE)
        assert f"| {row.pq} |" in line
        assert row.backbone in line
        assert f"`{row.file}`" in page
        checkpoint = re.sub(r"_\d{8}_\d{6}-[0-9a-f]{8}\.pth$", "", row.file)
        assert (
            f"{row.folder}/{row.file}"
            == f"https://download.openmmlab.com/mim-example/knet/det/knet/{checkpoint}/{row.file}"
        )
        assert row.sha256 == row.file[-12:-4]
        assert (row.pq_things, row.pq_stuff, row.size) == (None, None, None)


@pytest.mark.parametrize("digits", [8, 64])
def test_a_file_with_another_hash_than_in_its_name_is_refused(digits: int, server: FileServer, home: Path) -> None:
    actual = sha256(server.content)
    right = replace(PUBLISHED["knet_r50"], sha256=actual[:digits])
    assert fetch_published(right, StopAfter()) == home / "weights" / right.file
    other = "0" * digits
    expected = other if digits == 64 else f"one that starts with {other}"
    for weights in (replace(right, sha256=other), replace(right, file="new.pth", sha256=other)):
        with pytest.raises(PanformerError, match=f"has the SHA-256 {actual}, expected {expected}; "):
            fetch_published(weights, StopAfter())
    assert not (home / "weights" / "new.pth").exists()


def test_every_name_is_a_recipe() -> None:
    assert set(PUBLISHED) <= set(built_in_recipes())


def test_a_file_is_downloaded_only_once(server: FileServer, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = home / "weights" / "panoptic_segformer_r50_2x.pth"
    reporter = fetch()
    assert reporter.messages == [f"Downloading {server.url}/panoptic_segformer_r50_2x.pth to {file}"]
    assert file.read_bytes() == server.content
    monkeypatch.setattr(published, "sha256_of", None)  # it is not hashed again either
    reporter = fetch()
    assert (reporter.messages, reporter.warnings) == ([], [])
    assert server.paths == ["/release/panoptic_segformer_r50_2x.pth"]


def test_the_first_download_is_recorded(server: FileServer, home: Path) -> None:
    fetch()
    file = home / "weights" / "panoptic_segformer_r50_2x.pth"
    assert json.loads(file.with_name(f"{file.name}.json").read_text()) == {
        "url": f"{server.url}/{file.name}",
        "size": len(server.content),
        "sha256": sha256(server.content),
        "first_seen": date.today().isoformat(),
        "mtime_ns": file.stat().st_mtime_ns,
    }
    assert R50.known_size == len(server.content)
    assert PUBLISHED["r101"].known_size is None


def test_a_manually_copied_file_is_used(server: FileServer) -> None:
    R50.path.parent.mkdir(parents=True)
    mine = small_file(5.0)
    R50.path.write_bytes(mine)
    assert fetch().warnings == []
    assert server.paths == []
    assert R50.record is not None
    assert (R50.record.url, R50.record.size, R50.record.sha256) == (None, len(mine), sha256(mine))


def test_a_replaced_file_is_reported_until_it_is_accepted(server: FileServer) -> None:
    fetch()
    other = small_file(7.0)  # of the same size
    assert len(other) == len(server.content)
    R50.path.write_bytes(other)
    for _ in range(2):
        [warning] = fetch().warnings
        assert warning == (
            f"{R50.path} has the SHA-256 {sha256(other)}, but had {sha256(server.content)} when it was first seen "
            f"on {date.today().isoformat()}; find out why before you use it; delete {R50.record_path} to accept "
            "it"
        )
    R50.record_path.unlink()
    assert fetch().warnings == []
    assert R50.record is not None
    assert R50.record.sha256 == sha256(other)


def test_a_changed_download_is_reported(server: FileServer) -> None:
    fetch()
    R50.path.unlink()
    server.content, before = small_file(7.0), server.content
    [warning] = fetch().warnings
    assert sha256(server.content) in warning
    assert sha256(before) in warning
    assert R50.path.read_bytes() == server.content


SPOILT = {
    "random": lambda whole: random.Random(1).randbytes(3000),
    "a page": lambda whole: b"<!doctype html><html></html>",
    "truncated": lambda whole: whole[:-500],
    "one bit": lambda whole: whole.replace(bytes(64), bytes(63) + b"\1", 1),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_an_incomplete_download_is_neither_kept_nor_recorded(
    spoil: Callable[[bytes], bytes], server: FileServer
) -> None:
    whole = server.content
    server.content = spoil(whole)
    assert server.content != whole
    with pytest.raises(DownloadError) as caught:
        fetch()
    address = f"{server.url}/{R50.file}"
    assert str(caught.value) == (
        f"cannot download {address}: the download is not a complete checkpoint, and was deleted; try again later, or "
        f"put the file at {R50.path} yourself, or set PANFORMER_WEIGHTS_URL to the address of a folder that has it"
    )
    assert {path.name for path in R50.path.parent.iterdir()} <= {f"{R50.file}.lock"}
    server.content = whole
    assert fetch().warnings == []


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_an_incomplete_manual_copy_is_not_recorded(spoil: Callable[[bytes], bytes], server: FileServer) -> None:
    R50.path.parent.mkdir(parents=True)
    R50.path.write_bytes(spoil(server.content))
    with pytest.raises(CheckpointError) as caught:
        fetch()
    assert str(caught.value) == (f"{R50.path} is not a complete checkpoint; delete it to download it again")
    assert R50.record is None


def test_the_record_is_written_before_the_file(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every visible file has a record of its source."""
    finish, records = PartialFile.finish, []

    def spy(partial: PartialFile) -> None:
        records.append(R50.record)
        finish(partial)

    monkeypatch.setattr(PartialFile, "finish", spy)
    fetch()
    [record] = records
    assert record == R50.record
    assert record is not None
    assert (record.url, record.mtime_ns) == (f"{server.url}/{R50.file}", R50.path.stat().st_mtime_ns)


def test_an_identical_copy_is_the_same_file(monkeypatch: pytest.MonkeyPatch) -> None:
    fetch()
    before = R50.record
    os.utime(R50.path, ns=(10**18, 10**18))
    assert fetch().warnings == []
    assert before is not None
    assert R50.record == replace(before, mtime_ns=10**18)
    monkeypatch.setattr(published, "sha256_of", None)
    fetch()


def test_a_corrupt_record_is_rewritten() -> None:
    fetch()
    for text in ("", "[1]", '{"size": 1}'):
        R50.record_path.write_text(text)
        assert R50.record is None
        assert fetch().warnings == []
        assert R50.record is not None


def test_a_read_only_cache_works() -> None:
    R50.path.parent.mkdir(parents=True)
    R50.path.write_bytes(small_file())
    R50.record_path.mkdir()
    [warning] = fetch().warnings
    assert warning.startswith(f"cannot write {R50.record_path}: ")


@pytest.mark.parametrize("known", [{"size": 4000}, {"sha256": "0" * 64}])
def test_a_file_must_match_a_known_size_and_hash(known: dict[str, int | str], server: FileServer, home: Path) -> None:
    strict = replace(R50, **known)  # type: ignore[arg-type]
    with pytest.raises(PanformerError, match="expected"):
        fetch_published(strict, StopAfter())
    assert not R50.path.exists()
    R50.path.write_bytes(server.content)
    with pytest.raises(PanformerError, match=f"^{R50.path} has .*, expected .*; delete it to download it again"):
        fetch_published(strict, StopAfter())
    assert R50.record is None
    fits = replace(R50, size=len(server.content), sha256=sha256(server.content))
    assert fetch_published(fits, StopAfter()).read_bytes() == server.content


def test_offline_the_error_says_where_to_put_the_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PANFORMER_WEIGHTS_URL", CLOSED)
    with pytest.raises(DownloadError) as caught:
        fetch_published(R50, StopAfter())
    text = str(caught.value)
    assert text.startswith(f"cannot download {CLOSED}/panoptic_segformer_r50_2x.pth: ")
    assert text.endswith(
        f"put the file at {home}/weights/panoptic_segformer_r50_2x.pth yourself, or set PANFORMER_WEIGHTS_URL to the "
        "address of a folder that has it"
    )


def test_an_invalid_mirror_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PANFORMER_WEIGHTS_URL", "/mnt/weights")
    with pytest.raises(
        PanformerError, match=r"'/mnt/weights/panoptic_\w+\.pth' cannot be downloaded: expected an addr"
    ):
        fetch_published(R50, StopAfter())


@pytest.mark.skipif(sys.platform != "linux", reason="the cache folder of Linux")
def test_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for value in (None, ""):
        for name in ("PANFORMER_HOME", "PANFORMER_WEIGHTS_URL"):
            monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
        assert weights_folder() == tmp_path / "panformer" / "weights"
        assert R50.address == f"https://github.com/zhiqi-li/Panoptic-SegFormer/releases/download/v1.0/{R50.file}"


def test_the_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("PANFORMER_HOME", "~/models")
    assert weights_folder() == tmp_path / "user" / "models" / "weights"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PANFORMER_HOME", "models")
    assert weights_folder() == tmp_path / "models" / "weights"


def test_a_path_in_the_cache_has_a_name() -> None:
    assert published_at(R50.path) is R50
    assert published_at(Path("panoptic_segformer_r50_2x.pth")) is None
