"""Downloading COCO, with a local server and small archives."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from panformer_cli.errors import DataError, PanformerError
from panformer_cli.prepare.coco import download as coco_download
from panformer_cli.prepare.coco.coco import prepare_coco
from panformer_cli.prepare.coco.download import Archive, download_coco, needed
from panformer_cli.prepare.convert import ConvertOptions
from panformer_cli.reporting import SilentReporter
from tests.prepare.coco.test_coco import make_split
from tests.storage.file_server import FileServer, serve


def names(archives: list[Archive]) -> list[str]:
    return [archive.name for archive in archives]


def test_each_split_needs_its_archives(tmp_path: Path) -> None:
    panoptic = "panoptic_annotations_trainval2017.zip"
    assert names(needed(tmp_path, ["train2017", "val2017"])) == ["train2017.zip", panoptic, "val2017.zip"]
    assert names(needed(tmp_path, ["test-dev2017"])) == ["test2017.zip", "image_info_test2017.zip"]
    with pytest.raises(DataError, match="no download is available for the split 'val2014'"):
        needed(tmp_path, ["val2014"])
    make_split(tmp_path)
    assert names(needed(tmp_path, ["val2017"])) == []
    shutil.rmtree(tmp_path / "annotations" / "panoptic_val2017")
    assert names(needed(tmp_path, ["val2017"])) == [panoptic]


def test_too_little_space_is_reported_before_any_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: FileServer
) -> None:
    monkeypatch.setenv("PANFORMER_COCO_URL", server.url)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 3 * 10**9))
    with pytest.raises(PanformerError, match=r"val2017.zip need 3.7 GB in .*, but only 3.0 GB are free"):
        download_coco(tmp_path / "new", ["val2017"], SilentReporter())
    assert server.paths == [] and not (tmp_path / "new").exists()


@pytest.fixture
def val2017(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: FileServer) -> bytes:
    """The server serves a small `val2017.zip`, the only missing part of `tmp_path / "coco"`."""
    root = tmp_path / "coco"
    make_split(root)
    shutil.rmtree(root / "images")
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for number in (1, 2):
            jpeg = io.BytesIO()
            Image.new("RGB", (4, 3)).save(jpeg, "JPEG")
            archive.writestr(f"val2017/{number}.jpg", jpeg.getvalue())
    server.content = memory.getvalue()
    digest = hashlib.sha256(server.content).hexdigest()
    archive_info = Archive("zips/val2017.zip", len(server.content), digest)
    monkeypatch.setitem(coco_download.IMAGES, "val2017", archive_info)
    monkeypatch.setenv("PANFORMER_COCO_URL", server.url)
    return server.content


def test_missing_files_are_downloaded_unpacked_and_checked(tmp_path: Path, val2017: bytes, server: FileServer) -> None:
    root = tmp_path / "coco"
    server.answers = [serve(cut=100)]  # the connection breaks; the rest is requested
    download_coco(root, ["val2017"], SilentReporter())
    assert server.ranges == [None, "bytes=100-"] and all(path.endswith("/zips/val2017.zip") for path in server.paths)
    assert (root / "val2017.zip").read_bytes() == val2017
    (prepared,) = prepare_coco(root, ["val2017"], ConvertOptions(), SilentReporter())
    assert prepared.summary.images == 2
    download_coco(root, ["val2017"], SilentReporter())
    assert len(server.paths) == 2


def test_a_file_with_another_hash_is_rejected(tmp_path: Path, val2017: bytes, server: FileServer) -> None:
    server.content = val2017[:-1] + b"?"
    with pytest.raises(PanformerError, match="SHA-256"):
        download_coco(tmp_path / "coco", ["val2017"], SilentReporter())
    assert not (tmp_path / "coco" / "val2017.zip").exists()


def test_urls_sizes_and_hashes_are_complete() -> None:
    archives = [*coco_download.IMAGES.values(), coco_download.PANOPTIC, coco_download.TEST_INFO]
    assert len({archive.sha256 for archive in archives}) == 5
    for archive in archives:
        assert len(bytes.fromhex(archive.sha256)) == 32 and archive.size > 10**6
    assert json.dumps(coco_download.URL) == '"http://images.cocodataset.org"'
