"""Downloads from a server on this machine that breaks off, refuses, lies and changes its mind."""

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


class Told(SilentReporter):
    """Keeps messages, and the totals and steps of bars; `stop` is raised when a bar advances."""

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
    """Seconds that were waited; nobody really waits."""
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
    """Download the server's file, with so many further attempts, without a pause between them."""
    url, waits = f"{server.url}/model.pth", (0.0,) * retries
    told = reporter or SilentReporter()
    return download(url, target, reporter=told, size=size, sha256=sha256, check=check, waits=waits)


def assert_whole(server: FileServer, target: Path, found: DownloadedFile) -> None:
    assert target.read_bytes() == server.content
    assert found == DownloadedFile(5000, hashlib.sha256(server.content).hexdigest())
    assert {path.name for path in target.parent.iterdir()} <= {"model.pth", "model.pth.lock"}


def test_a_file_arrives_whole(server: FileServer, target: Path) -> None:
    sha256 = hashlib.sha256(server.content).hexdigest()
    assert_whole(server, target, get(server, target, size=5000, sha256=sha256))
    assert (server.paths, server.ranges) == (["/release/model.pth"], [None])


def test_progress_is_in_megabytes(server: FileServer, target: Path) -> None:
    server.content = bytes(2_500_000)
    server.answers = [serve(cut=1_200_000)]
    told = Told()
    get(server, target, 1, reporter=told)
    assert told.bars == [("Download, MB", 3, 0), ("Download, MB", 3, 2), ("Check, MB", 3, 0)]
    assert told.steps == 2 + 1 + 3
    [message] = told.messages
    assert message == "model.pth: the connection broke after 2 of 3 MB; trying again in 0 s"


def test_a_broken_connection_is_resumed_and_no_byte_comes_twice(server: FileServer, target: Path) -> None:
    server.answers = [serve(cut=1000), serve(cut=500)]
    assert_whole(server, target, get(server, target, 2))
    assert server.ranges == [None, "bytes=1000-", "bytes=1500-"]
    assert server.conditions == [None, '"one"', '"one"']
    assert server.sent == [(0, 1000), (1000, 1500), (1500, 5000)]


def test_a_later_call_goes_on(server: FileServer, target: Path) -> None:
    server.answers = [serve(cut=1000)]
    with pytest.raises(DownloadError, match="the connection broke after 1 of 1 MB"):
        get(server, target)
    assert not target.exists()
    assert_whole(server, target, get(server, target))
    assert server.sent == [(0, 1000), (1000, 5000)]


def test_ctrl_c_leaves_what_a_later_call_goes_on_with(server: FileServer, target: Path) -> None:
    server.answers = [serve(cut=1000)]
    with pytest.raises(KeyboardInterrupt, match=r"^Stopped; 1 MB of model\.pth are kept, and the same command resumes"):
        get(server, target, reporter=Told(KeyboardInterrupt()))
    assert_whole(server, target, get(server, target))
    assert server.sent == [(0, 1000), (1000, 5000)]


@pytest.mark.parametrize("headers", [{}, {"ETag": 'W/"one"'}])
def test_ctrl_c_promises_nothing_where_the_server_names_no_version(
    headers: dict[str, str], server: FileServer, target: Path
) -> None:
    server.headers, server.answers = headers, [serve(cut=1000)]
    with pytest.raises(
        KeyboardInterrupt, match=r"^Stopped; the same command downloads model\.pth from its beginning\.$"
    ):
        get(server, target, reporter=Told(KeyboardInterrupt()))
    assert_whole(server, target, get(server, target))
    assert server.ranges == [None, None]


def test_a_file_that_was_whole_but_not_renamed_is_not_fetched_again(server: FileServer, target: Path) -> None:
    partial = PartialFile(target)
    partial.begin(Origin(f"{server.url}/model.pth", 5000, '"one"'))
    partial.path.write_bytes(server.content)
    assert_whole(server, target, get(server, target))
    assert server.paths == []


def test_a_server_without_ranges_begins_again(server: FileServer, target: Path) -> None:
    server.answers = [serve(cut=1000), serve(use_range=False)]
    assert_whole(server, target, get(server, target, 1))
    assert server.sent == [(0, 1000), (0, 5000)]


@pytest.mark.parametrize("use_condition", [True, False], ids=["the server sees it", "we see it"])
def test_a_file_that_changed_meanwhile_begins_again(server: FileServer, target: Path, use_condition: bool) -> None:
    server.answers = [serve(cut=1000), serve(use_condition=use_condition)]
    with pytest.raises(DownloadError):
        get(server, target)
    server.content, server.headers = server.content[::-1], {"ETag": '"two"'}
    assert_whole(server, target, get(server, target, 1))
    assert server.sent[-1] == (0, 5000)


@pytest.mark.parametrize("span", ["bytes 999-4999/5000", "bytes 1000-5999/6000", "nonsense"])
def test_a_part_that_does_not_fit_is_not_used(server: FileServer, target: Path, span: str) -> None:
    server.answers = [serve(cut=1000), status(206, Content_Range=span, ETag='"one"')]
    assert_whole(server, target, get(server, target, 2))
    assert server.ranges == [None, "bytes=1000-", None]


def test_a_part_beyond_the_end_is_dropped(server: FileServer, target: Path) -> None:
    partial = PartialFile(target)
    partial.begin(Origin(f"{server.url}/model.pth", None, '"one"'))
    partial.path.write_bytes(bytes(6000))
    assert_whole(server, target, get(server, target, 1))
    assert server.ranges == ["bytes=6000-", None]


@pytest.mark.parametrize(
    ("headers", "condition"),
    [
        ({"ETag": 'W/"one"', "Last-Modified": "Wed, 01 Jan 2020 00:00:00 GMT"}, "Wed, 01 Jan 2020 00:00:00 GMT"),
        ({"ETag": 'W/"one"'}, None),
        ({}, None),
    ],
)
def test_only_what_names_every_byte_allows_a_resumption(
    headers: dict[str, str], condition: str | None, server: FileServer, target: Path
) -> None:
    server.headers = headers
    server.answers = [serve(cut=1000)]
    assert_whole(server, target, get(server, target, 1))
    assert server.conditions == [None, condition]
    assert server.ranges == [None, condition and "bytes=1000-"]


def test_another_address_does_not_go_on_with_the_bytes_of_the_first(server: FileServer, target: Path) -> None:
    server.answers = [serve(cut=1000)]
    with pytest.raises(DownloadError):
        get(server, target)
    found = download(f"{server.url}/other.pth", target, reporter=SilentReporter(), waits=())
    assert_whole(server, target, found)
    assert server.ranges == [None, None]


@pytest.mark.parametrize("code", [404, 403, 410])
def test_a_refusal_is_final(server: FileServer, target: Path, code: int) -> None:
    server.answers = [status(code)]
    with pytest.raises(DownloadError) as caught:
        get(server, target, 3)
    assert len(server.paths) == 1
    expected = (
        rf"cannot download {server.url}/model\.pth: the server answers {code} \w[\w ]+; try again later, or put the "
        rf"file by hand at {target}"
    )
    assert re.fullmatch(expected, str(caught.value))
    assert not target.exists()


@pytest.mark.parametrize("code", [500, 503, 429])
def test_a_server_in_trouble_is_asked_again(server: FileServer, target: Path, code: int) -> None:
    server.answers = [status(code)]
    told = Told()
    assert_whole(server, target, get(server, target, 1, reporter=told))
    assert told.messages[0].startswith(f"model.pth: the server answers {code} ")


def test_the_waits_grow_and_end(server: FileServer, target: Path, slept: list[float]) -> None:
    server.answers = [status(500)] * 10
    with pytest.raises(DownloadError, match="the server answers 500 Internal Server Error; try again later"):
        download(f"{server.url}/model.pth", target, reporter=SilentReporter())
    assert slept == [1, 2, 4, 8, 16]
    assert len(server.paths) == 6


def test_the_waits_begin_anew_while_it_goes_on(server: FileServer, target: Path, slept: list[float]) -> None:
    server.answers = [serve(cut=1000), status(503), serve(cut=1000), serve(cut=1000)]
    assert_whole(server, target, download(f"{server.url}/model.pth", target, reporter=SilentReporter(), waits=(1, 2)))
    assert slept == [1, 2, 1, 1]


def test_a_server_that_always_breaks_off_at_the_same_place_is_given_up(server: FileServer, target: Path) -> None:
    server.answers = [serve(cut=1000, use_range=False)] * 20
    with pytest.raises(DownloadError, match="the connection broke"):
        get(server, target, 3)
    assert len(server.paths) == 1 + 3


def test_a_size_that_is_too_large_is_a_broken_connection(server: FileServer, target: Path) -> None:
    server.answers = [serve(length=6000)] * 2
    with pytest.raises(DownloadError, match="the connection broke after 1 of 1 MB"):
        get(server, target)
    assert not target.exists()


def test_a_size_that_is_not_the_known_one(server: FileServer, target: Path) -> None:
    server.answers = [serve(length=4000)]
    with pytest.raises(PanformerError) as caught:
        get(server, target, 3, size=5000)
    assert str(caught.value) == (
        f"{server.url}/model.pth has 4000 bytes, expected 5000; put the right file at {target}"
    )
    assert len(server.paths) == 1


@pytest.mark.parametrize("size", [None, 5000])
def test_a_server_that_does_not_say_the_size(server: FileServer, target: Path, size: int | None) -> None:
    server.answers = [serve(length=-1)]
    assert_whole(server, target, get(server, target, size=size))


def test_more_than_the_known_size(server: FileServer, target: Path) -> None:
    server.answers = [serve(length=-1)]
    with pytest.raises(PanformerError, match="has 5000 bytes, expected 4000; it was deleted; put the right file at"):
        get(server, target, size=4000)
    assert [path.name for path in target.parent.glob("*partial*")] == []


def test_a_wrong_hash_leaves_nothing(server: FileServer, target: Path) -> None:
    with pytest.raises(PanformerError) as caught:
        get(server, target, sha256="0" * 64)
    assert str(caught.value) == (
        f"what came from {server.url}/model.pth has the SHA-256 {hashlib.sha256(server.content).hexdigest()}, expected "
        f"{'0' * 64}; it was deleted; put the right file at {target}"
    )
    assert {path.name for path in target.parent.iterdir()} <= {"model.pth.lock"}


def test_the_hash_counts_resumed_bytes(server: FileServer, target: Path) -> None:
    """A partial file with a wrong byte in it does not pass for the right file."""
    server.answers = [serve(cut=1000)]
    sha256 = hashlib.sha256(server.content).hexdigest()
    with pytest.raises(DownloadError):
        get(server, target, sha256=sha256)
    PartialFile(target).path.write_bytes(bytes(1000))
    with pytest.raises(PanformerError, match=f"expected {sha256}; it was deleted"):
        get(server, target, sha256=sha256)
    assert_whole(server, target, get(server, target, sha256=sha256))


def test_a_file_that_is_there_is_not_fetched(server: FileServer, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(b"mine")
    sha256 = hashlib.sha256(b"mine").hexdigest()
    assert get(server, target) == DownloadedFile(4, sha256)
    with pytest.raises(PanformerError, match=f"model.pth has the SHA-256 {sha256}, expected 00.*; delete it, and it"):
        get(server, target, sha256="0" * 64)
    assert target.read_bytes() == b"mine"
    assert server.paths == []


def test_a_check_sees_the_whole_file_before_it_has_its_name(server: FileServer, target: Path) -> None:
    seen: list[tuple[bytes, DownloadedFile, bool]] = []

    def check(path: Path, found: DownloadedFile) -> None:
        seen.append((path.read_bytes(), found, target.exists()))

    found = get(server, target, check=check)
    assert_whole(server, target, found)
    assert seen == [(server.content, found, False)]
    get(server, target, check=check)  # it is there: nothing came that could be checked
    assert len(seen) == 1


def test_what_a_check_refuses_is_deleted(server: FileServer, target: Path) -> None:
    def check(path: Path, found: DownloadedFile) -> None:
        raise PanformerError("what came is no image")

    with pytest.raises(DownloadError) as caught:
        get(server, target, 3, check=check)
    assert str(caught.value) == (
        f"cannot download {server.url}/model.pth: what came is no image, and was deleted; try again later, or put the "
        f"file by hand at {target}"
    )
    assert {path.name for path in target.parent.iterdir()} <= {"model.pth.lock"}
    assert len(server.paths) == 1


def free(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the disk have `count` bytes free."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - count, count))


def test_no_room_is_seen_before(server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free(4999, monkeypatch)
    server.answers = [serve(cut=1000)]
    with pytest.raises(PanformerError) as caught:
        get(server, target)
    assert str(caught.value) == (
        f"no room for {target}: 1 MB are to come and 0 MB are free on its disk; free some space and try again"
    )
    assert PartialFile(target).size == 0


def test_room_is_needed_only_for_what_is_to_come(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers = [serve(cut=1000)]
    with pytest.raises(DownloadError):
        get(server, target)
    free(4000, monkeypatch)
    assert_whole(server, target, get(server, target))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_disk_that_fills_up_is_one_sentence(server: FileServer, target: Path) -> None:
    target.parent.mkdir()
    partial = PartialFile(target).path
    partial.symlink_to("/dev/full")
    with pytest.raises(PanformerError) as caught:
        get(server, target, 3)
    assert str(caught.value) == (
        f"cannot write {partial}: {os.strerror(errno.ENOSPC)}; free some space or fix the permissions, and try again: "
        "what has arrived is kept"
    )
    assert len(server.paths) == 1


def test_what_fitted_on_the_disk_is_gone_on_with(server: FileServer, target: Path) -> None:
    with files_of_at_most(2000), pytest.raises(PanformerError, match="cannot write .*; free some space"):
        get(server, target)
    assert_whole(server, target, get(server, target))
    assert server.ranges == [None, "bytes=2000-"]


def test_a_folder_that_cannot_be(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PanformerError, match="cannot write .*/file/model.pth: "):
        get(server, tmp_path / "file" / "model.pth")


def test_offline(target: Path, slept: list[float]) -> None:
    with pytest.raises(DownloadError) as caught:
        download(f"{CLOSED}/model.pth", target, reporter=SilentReporter())
    assert str(caught.value) == (
        f"cannot download {CLOSED}/model.pth: {os.strerror(errno.ECONNREFUSED)}; try again later, or put the file by "
        f"hand at {target}"
    )
    assert slept == []


def test_a_network_that_goes_away_in_between_may_come_back(
    server: FileServer, target: Path, slept: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where bytes have arrived, even an address that cannot be reached is tried again."""
    server.answers = [serve(cut=1000)]
    opened = downloads._connect
    calls = iter([opened, *[lambda *_: (_ for _ in ()).throw(downloads._BrokenOff("no route", False))] * 2, opened])
    monkeypatch.setattr(downloads, "_connect", lambda *arguments: next(calls)(*arguments))
    assert_whole(server, target, download(f"{server.url}/model.pth", target, reporter=SilentReporter()))
    assert slept == [1, 2, 4]


def test_a_server_that_hangs(server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "TIMEOUT", 0.1)
    done = threading.Event()
    server.answers = [hang(done)]
    told = Told()
    try:
        assert_whole(server, target, get(server, target, 1, reporter=told))
    finally:
        done.set()
    assert told.messages == ["model.pth: timed out; trying again in 0 s"]


@pytest.mark.parametrize(
    "url", ["file:///etc/hosts", "ftp://host/model.pth", "model.pth", "", "http://[x", "http://a b/"]
)
def test_what_is_no_web_address(url: str, target: Path) -> None:
    with pytest.raises(
        PanformerError, match=r"cannot be downloaded: expected an address such as https://host/model\.p"
    ):
        download(url, target, reporter=SilentReporter(), waits=())


def test_redirections_are_followed_on_the_web_only(server: FileServer, target: Path, tmp_path: Path) -> None:
    there = status(302, Location=f"{server.url}/elsewhere")
    server.answers = [there, serve(cut=1000), there]
    assert_whole(server, target, get(server, target, 1))
    assert server.paths == ["/release/model.pth", "/release/elsewhere"] * 2
    assert server.ranges[2:] == ["bytes=1000-"] * 2
    for place in ("ftp://127.0.0.1/model.pth", "file:///etc/hosts"):
        server.answers = [status(302, Location=place)]
        with pytest.raises(DownloadError, match="the server answers 302"):
            get(server, tmp_path / "other.pth", 3)


def test_a_web_page_is_no_file(server: FileServer, target: Path) -> None:
    server.headers["Content-Type"] = "text/html; charset=utf-8"
    with pytest.raises(DownloadError, match="a web page came in place of the file, perhaps the login page"):
        get(server, target, 3)
    assert len(server.paths) == 1


def test_the_proxy_of_the_environment_is_used(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/release"))
    assert_whole(server, target, download("http://nowhere.invalid/m", target, reporter=SilentReporter(), waits=()))
    assert server.paths == ["http://nowhere.invalid/m"]


def test_two_processes_download_once(server: FileServer, target: Path) -> None:
    asked, go_on = threading.Event(), threading.Event()
    server.answers = [hang(go_on, asked)]
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
                assert second.stderr.readline() == f"Another process is fetching {target}; waiting for it\n"
                go_on.set()
                outs = [process.communicate()[0] for process in (first, second)]
        finally:
            go_on.set()
    sha256 = hashlib.sha256(server.content).hexdigest()
    assert outs == [f"{sha256}\n"] * 2
    assert (first.returncode, second.returncode) == (0, 0)
    assert len(server.paths) == 1
    assert target.read_bytes() == server.content
