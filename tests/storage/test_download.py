"""Downloads from a local server with failures of all kinds."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import namedtuple
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from panformer_cli.errors import PanformerError
from panformer_cli.reporting import Progress, SilentReporter
from panformer_cli.storage import download as downloads
from panformer_cli.storage.download import DownloadedFile, DownloadError, download
from panformer_cli.storage.partial_file import Origin, PartialFile
from tests.conftest import REPOSITORY
from tests.helpers import files_of_at_most
from tests.storage.file_server import CLOSED, FileServer, hang, serve, status


class RecordingReporter(SilentReporter):
    """Records messages, and totals and steps of progress bars; raises `stop` when a bar advances."""

    def __init__(self, stop: BaseException | None = None) -> None:
        self.messages: list[str] = []
        self.bars: list[tuple[str, int, int]] = []
        self.steps, self.stop = 0, stop

    def message(self, text: str) -> None:
        self.messages.append(text)

    def progress(self, what: str, total: int, done: int = 0) -> AbstractContextManager[Progress]:
        self.bars.append((what, total, done))
        return nullcontext(self)

    def advance(self, steps: int = 1, status: str = "") -> None:
        del status
        self.steps += steps
        if self.stop is not None:
            raise self.stop


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "model.pth"


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds passed to `time.sleep`, which does not wait."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


def get(
    server: FileServer,
    target: Path,
    retries: int = 0,
    size: int | None = None,
    sha256: str | None = None,
    reporter: SilentReporter | None = None,
    check: Callable[[Path, DownloadedFile], None] | None = None,
) -> DownloadedFile:
    """Download the server's file, with retries that do not wait."""
    url, waits = f"{server.url}/model.pth", (0.0,) * retries
    used = reporter or SilentReporter()
    return download(url, target, reporter=used, size=size, sha256=sha256, check=check, waits=waits)


def assert_complete(server: FileServer, target: Path, found: DownloadedFile) -> None:
    assert target.read_bytes() == server.content
    assert found == DownloadedFile(5000, hashlib.sha256(server.content).hexdigest())
    assert {path.name for path in target.parent.iterdir()} <= {"model.pth", "model.pth.lock"}


def test_a_file_is_downloaded(server: FileServer, target: Path) -> None:
    sha256 = hashlib.sha256(server.content).hexdigest()
    assert_complete(server, target, get(server, target, size=5000, sha256=sha256))
    assert (server.paths, server.ranges) == (["/release/model.pth"], [None])


def test_progress_is_in_megabytes(server: FileServer, target: Path) -> None:
    server.content = bytes(2_500_000)
    server.answers = [serve(cut=1_200_000)]
    reporter = RecordingReporter()
    get(server, target, 1, reporter=reporter)
    assert reporter.bars == [("Download, MB", 3, 0), ("Download, MB", 3, 2), ("Check, MB", 3, 0)]
    assert reporter.steps == 2 + 1 + 3
    [message] = reporter.messages
    assert message == "model.pth: the connection was lost after 2 of 3 MB; retrying in 0 s"


def test_a_lost_connection_is_resumed_without_downloading_twice(server: FileServer, target: Path) -> None:
    server.answers = [serve(cut=1000), serve(cut=500)]
    assert_complete(server, target, get(server, target, 2))
    assert server.ranges == [None, "bytes=1000-", "bytes=1500-"]
    assert server.conditions == [None, '"one"', '"one"']
    assert server.sent == [(0, 1000), (1000, 1500), (1500, 5000)]


def test_a_later_call_resumes(server: FileServer, target: Path) -> None:
    server.answers = [serve(cut=1000)]
    with pytest.raises(DownloadError, match="the connection was lost after 1 of 1 MB"):
        get(server, target)
    assert not target.exists()
    assert_complete(server, target, get(server, target))
    assert server.sent == [(0, 1000), (1000, 5000)]


def test_a_later_call_resumes_after_ctrl_c(server: FileServer, target: Path) -> None:
    server.answers = [serve(cut=1000)]
    with pytest.raises(KeyboardInterrupt, match=r"^Interrupted; 1 MB of model\.pth are kept; rerun the same command"):
        get(server, target, reporter=RecordingReporter(KeyboardInterrupt()))
    assert_complete(server, target, get(server, target))
    assert server.sent == [(0, 1000), (1000, 5000)]


@pytest.mark.parametrize("headers", [{}, {"ETag": 'W/"one"'}])
def test_ctrl_c_does_not_promise_to_resume_without_a_version(
    headers: dict[str, str], server: FileServer, target: Path
) -> None:
    server.headers, server.answers = headers, [serve(cut=1000)]
    expected = r"^Interrupted; rerun the same command to download model\.pth from the start\.$"
    with pytest.raises(KeyboardInterrupt, match=expected):
        get(server, target, reporter=RecordingReporter(KeyboardInterrupt()))
    assert_complete(server, target, get(server, target))
    assert server.ranges == [None, None]


def test_a_complete_file_that_was_not_renamed_is_not_downloaded_again(server: FileServer, target: Path) -> None:
    partial = PartialFile(target)
    partial.start(Origin(f"{server.url}/model.pth", 5000, '"one"'))
    partial.path.write_bytes(server.content)
    assert_complete(server, target, get(server, target))
    assert server.paths == []


def test_without_support_for_ranges_the_download_restarts(server: FileServer, target: Path) -> None:
    server.answers = [serve(cut=1000), serve(use_range=False)]
    assert_complete(server, target, get(server, target, 1))
    assert server.sent == [(0, 1000), (0, 5000)]


@pytest.mark.parametrize("use_condition", [True, False], ids=["detected by the server", "detected here"])
def test_a_changed_file_is_downloaded_from_the_start(server: FileServer, target: Path, use_condition: bool) -> None:
    server.answers = [serve(cut=1000), serve(use_condition=use_condition)]
    with pytest.raises(DownloadError):
        get(server, target)
    server.content, server.headers = server.content[::-1], {"ETag": '"two"'}
    assert_complete(server, target, get(server, target, 1))
    assert server.sent[-1] == (0, 5000)


@pytest.mark.parametrize("span", ["bytes 999-4999/5000", "bytes 1000-5999/6000", "nonsense"])
def test_a_range_that_does_not_fit_is_not_used(server: FileServer, target: Path, span: str) -> None:
    server.answers = [serve(cut=1000), status(206, Content_Range=span, ETag='"one"')]
    assert_complete(server, target, get(server, target, 2))
    assert server.ranges == [None, "bytes=1000-", None]


def test_a_partial_file_that_is_too_long_is_discarded(server: FileServer, target: Path) -> None:
    partial = PartialFile(target)
    partial.start(Origin(f"{server.url}/model.pth", None, '"one"'))
    partial.path.write_bytes(bytes(6000))
    assert_complete(server, target, get(server, target, 1))
    assert server.ranges == ["bytes=6000-", None]


@pytest.mark.parametrize(
    ("headers", "condition"),
    [
        ({"ETag": 'W/"one"', "Last-Modified": "Wed, 01 Jan 2020 00:00:00 GMT"}, "Wed, 01 Jan 2020 00:00:00 GMT"),
        ({"ETag": 'W/"one"'}, None),
        ({}, None),
    ],
)
def test_only_a_strong_version_allows_resuming(
    headers: dict[str, str], condition: str | None, server: FileServer, target: Path
) -> None:
    server.headers = headers
    server.answers = [serve(cut=1000)]
    assert_complete(server, target, get(server, target, 1))
    assert server.conditions == [None, condition]
    assert server.ranges == [None, condition and "bytes=1000-"]


def test_a_different_address_does_not_resume(server: FileServer, target: Path) -> None:
    server.answers = [serve(cut=1000)]
    with pytest.raises(DownloadError):
        get(server, target)
    found = download(f"{server.url}/other.pth", target, reporter=SilentReporter(), waits=())
    assert_complete(server, target, found)
    assert server.ranges == [None, None]


@pytest.mark.parametrize("code", [404, 403, 410])
def test_a_client_error_is_not_retried(server: FileServer, target: Path, code: int) -> None:
    server.answers = [status(code)]
    with pytest.raises(DownloadError) as caught:
        get(server, target, 3)
    assert len(server.paths) == 1
    expected = (
        rf"cannot download {server.url}/model\.pth: the server responded {code} \w[\w ]+; try again later, or put the "
        rf"file at {target} yourself"
    )
    assert re.fullmatch(expected, str(caught.value))
    assert not target.exists()


@pytest.mark.parametrize("code", [500, 503, 429])
def test_a_server_error_is_retried(server: FileServer, target: Path, code: int) -> None:
    server.answers = [status(code)]
    reporter = RecordingReporter()
    assert_complete(server, target, get(server, target, 1, reporter=reporter))
    assert reporter.messages[0].startswith(f"model.pth: the server responded {code} ")


def test_the_waits_grow_and_the_retries_end(server: FileServer, target: Path, slept: list[float]) -> None:
    server.answers = [status(500)] * 10
    with pytest.raises(DownloadError, match="the server responded 500 Internal Server Error; try again later"):
        download(f"{server.url}/model.pth", target, reporter=SilentReporter())
    assert slept == [1, 2, 4, 8, 16]
    assert len(server.paths) == 6


def test_the_waits_start_over_after_progress(server: FileServer, target: Path, slept: list[float]) -> None:
    server.answers = [serve(cut=1000), status(503), serve(cut=1000), serve(cut=1000)]
    found = download(f"{server.url}/model.pth", target, reporter=SilentReporter(), waits=(1, 2))
    assert_complete(server, target, found)
    assert slept == [1, 2, 1, 1]


def test_retries_without_progress_end(server: FileServer, target: Path) -> None:
    server.answers = [serve(cut=1000, use_range=False)] * 20
    with pytest.raises(DownloadError, match="the connection was lost"):
        get(server, target, 3)
    assert len(server.paths) == 1 + 3


def test_a_size_that_is_too_large_is_a_lost_connection(server: FileServer, target: Path) -> None:
    server.answers = [serve(length=6000)] * 2
    with pytest.raises(DownloadError, match="the connection was lost after 1 of 1 MB"):
        get(server, target)
    assert not target.exists()


def test_an_unexpected_size(server: FileServer, target: Path) -> None:
    server.answers = [serve(length=4000)]
    with pytest.raises(PanformerError) as caught:
        get(server, target, 3, size=5000)
    assert str(caught.value) == (
        f"{server.url}/model.pth has 4000 bytes, expected 5000; put the correct file at {target}"
    )
    assert len(server.paths) == 1


@pytest.mark.parametrize("size", [None, 5000])
def test_a_server_that_does_not_report_the_size(server: FileServer, target: Path, size: int | None) -> None:
    server.answers = [serve(length=-1)]
    assert_complete(server, target, get(server, target, size=size))


def test_more_bytes_than_expected(server: FileServer, target: Path) -> None:
    server.answers = [serve(length=-1)]
    with pytest.raises(PanformerError, match="has 5000 bytes, expected 4000; it was deleted; put the correct file at"):
        get(server, target, size=4000)
    assert [path.name for path in target.parent.glob("*partial*")] == []


def test_a_file_with_a_wrong_hash_is_deleted(server: FileServer, target: Path) -> None:
    with pytest.raises(PanformerError) as caught:
        get(server, target, sha256="0" * 64)
    sha256 = hashlib.sha256(server.content).hexdigest()
    assert str(caught.value) == (
        f"the download of {server.url}/model.pth has the SHA-256 {sha256}, expected "
        f"{'0' * 64}; it was deleted; put the correct file at {target}"
    )
    assert {path.name for path in target.parent.iterdir()} <= {"model.pth.lock"}


def test_the_hash_includes_resumed_bytes(server: FileServer, target: Path) -> None:
    """A partial file with a wrong byte is detected."""
    server.answers = [serve(cut=1000)]
    sha256 = hashlib.sha256(server.content).hexdigest()
    with pytest.raises(DownloadError):
        get(server, target, sha256=sha256)
    PartialFile(target).path.write_bytes(bytes(1000))
    with pytest.raises(PanformerError, match=f"expected {sha256}; it was deleted"):
        get(server, target, sha256=sha256)
    assert_complete(server, target, get(server, target, sha256=sha256))


def test_an_existing_file_is_not_downloaded(server: FileServer, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(b"mine")
    sha256 = hashlib.sha256(b"mine").hexdigest()
    assert get(server, target) == DownloadedFile(4, sha256)
    with pytest.raises(PanformerError, match=f"model.pth has the SHA-256 {sha256}, expected 00.*; delete it to"):
        get(server, target, sha256="0" * 64)
    assert target.read_bytes() == b"mine"
    assert server.paths == []


def test_a_check_gets_the_complete_file_before_it_is_renamed(server: FileServer, target: Path) -> None:
    seen: list[tuple[bytes, DownloadedFile, bool]] = []

    def check(path: Path, found: DownloadedFile) -> None:
        seen.append((path.read_bytes(), found, target.exists()))

    found = get(server, target, check=check)
    assert_complete(server, target, found)
    assert seen == [(server.content, found, False)]
    get(server, target, check=check)  # it exists, so nothing is downloaded and checked
    assert len(seen) == 1


def test_a_file_rejected_by_the_check_is_deleted(server: FileServer, target: Path) -> None:
    def check(path: Path, found: DownloadedFile) -> None:
        raise PanformerError("the download is not an image")

    with pytest.raises(DownloadError) as caught:
        get(server, target, 3, check=check)
    assert str(caught.value) == (
        f"cannot download {server.url}/model.pth: the download is not an image, and was deleted; try again later, or "
        f"put the file at {target} yourself"
    )
    assert {path.name for path in target.parent.iterdir()} <= {"model.pth.lock"}
    assert len(server.paths) == 1


def free(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the disk report `count` free bytes."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - count, count))


def test_low_disk_space_is_reported_first(server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free(4999, monkeypatch)
    server.answers = [serve(cut=1000)]
    with pytest.raises(PanformerError) as caught:
        get(server, target)
    assert str(caught.value) == (
        f"not enough disk space for {target}: 1 MB are needed and 0 MB are free; free some space and try again"
    )
    assert PartialFile(target).size == 0


def test_disk_space_is_needed_only_for_the_missing_bytes(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers = [serve(cut=1000)]
    with pytest.raises(DownloadError):
        get(server, target)
    free(4000, monkeypatch)
    assert_complete(server, target, get(server, target))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_reported(server: FileServer, target: Path) -> None:
    target.parent.mkdir()
    partial = PartialFile(target).path
    partial.symlink_to("/dev/full")
    with pytest.raises(PanformerError) as caught:
        get(server, target, 3)
    assert str(caught.value) == (
        f"cannot write {partial}: {os.strerror(errno.ENOSPC)}; free some space or fix the permissions, then try again; "
        "the part already downloaded is kept"
    )
    assert len(server.paths) == 1


def test_a_download_resumes_after_a_full_disk(server: FileServer, target: Path) -> None:
    with files_of_at_most(2000), pytest.raises(PanformerError, match="cannot write .*; free some space"):
        get(server, target)
    assert_complete(server, target, get(server, target))
    assert server.ranges == [None, "bytes=2000-"]


def test_a_folder_that_cannot_be_created(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PanformerError, match="cannot write .*/file/model.pth: "):
        get(server, tmp_path / "file" / "model.pth")


def test_offline(target: Path, slept: list[float]) -> None:
    with pytest.raises(DownloadError) as caught:
        download(f"{CLOSED}/model.pth", target, reporter=SilentReporter())
    assert str(caught.value) == (
        f"cannot download {CLOSED}/model.pth: {os.strerror(errno.ECONNREFUSED)}; try again later, or put the file at "
        f"{target} yourself"
    )
    assert slept == []


def test_a_network_that_fails_during_a_download_is_retried(
    server: FileServer, target: Path, slept: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some bytes have arrived, even an unreachable address is retried."""
    server.answers = [serve(cut=1000)]
    opened = downloads._connect
    unreachable = downloads._AttemptFailed("no route", False)
    calls = iter([opened, *[lambda *_: (_ for _ in ()).throw(unreachable)] * 2, opened])
    monkeypatch.setattr(downloads, "_connect", lambda *arguments: next(calls)(*arguments))
    assert_complete(server, target, download(f"{server.url}/model.pth", target, reporter=SilentReporter()))
    assert slept == [1, 2, 4]


def test_a_server_that_hangs(server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "TIMEOUT", 0.1)
    done = threading.Event()
    server.answers = [hang(done)]
    reporter = RecordingReporter()
    try:
        assert_complete(server, target, get(server, target, 1, reporter=reporter))
    finally:
        done.set()
    assert reporter.messages == ["model.pth: timed out; retrying in 0 s"]


@pytest.mark.parametrize(
    "url", ["file:///etc/hosts", "ftp://host/model.pth", "model.pth", "", "http://[x", "http://a b/"]
)
def test_invalid_addresses(url: str, target: Path) -> None:
    with pytest.raises(
        PanformerError, match=r"cannot be downloaded: expected an address such as https://host/model\.p"
    ):
        download(url, target, reporter=SilentReporter(), waits=())


def test_redirects_are_followed_to_http_only(server: FileServer, target: Path, tmp_path: Path) -> None:
    there = status(302, Location=f"{server.url}/elsewhere")
    server.answers = [there, serve(cut=1000), there]
    assert_complete(server, target, get(server, target, 1))
    assert server.paths == ["/release/model.pth", "/release/elsewhere"] * 2
    assert server.ranges[2:] == ["bytes=1000-"] * 2
    for location in ("ftp://127.0.0.1/model.pth", "file:///etc/hosts"):
        server.answers = [status(302, Location=location)]
        with pytest.raises(DownloadError, match="the server responded 302"):
            get(server, tmp_path / "other.pth", 3)


def test_a_web_page_instead_of_the_file(server: FileServer, target: Path) -> None:
    server.headers["Content-Type"] = "text/html; charset=utf-8"
    with pytest.raises(DownloadError, match="the server sent a web page instead of the file, possibly a login page"):
        get(server, target, 3)
    assert len(server.paths) == 1


def test_the_proxy_of_the_environment_is_used(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/release"))
    assert_complete(server, target, download("http://nowhere.invalid/m", target, reporter=SilentReporter(), waits=()))
    assert server.paths == ["http://nowhere.invalid/m"]


@pytest.mark.slow
def test_two_processes_download_once(server: FileServer, target: Path) -> None:
    asked, proceed = threading.Event(), threading.Event()
    server.answers = [hang(proceed, asked)]
    code = (
        "import pathlib, sys\nfrom panformer_cli.console import RichReporter\n"
        "from panformer_cli.storage.download import download\n"
        "print(download(sys.argv[1], pathlib.Path(sys.argv[2]), reporter=RichReporter()).sha256)"
    )
    command = [sys.executable, "-c", code, f"{server.url}/model.pth", str(target)]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY)

    with start() as first:
        try:
            assert asked.wait(60)
            with start() as second:
                assert second.stderr is not None
                assert second.stderr.readline() == f"Another process is downloading {target}; waiting for it\n"
                proceed.set()
                outs = [process.communicate()[0] for process in (first, second)]
        finally:
            proceed.set()
    sha256 = hashlib.sha256(server.content).hexdigest()
    assert outs == [f"{sha256}\n"] * 2
    assert (first.returncode, second.returncode) == (0, 0)
    assert len(server.paths) == 1
    assert target.read_bytes() == server.content
