"""Fetching a file from the web: limits that no server can exceed, and redirects that are checked."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from panformer_cli.errors import DataError
from panformer_cli.storage.web import FetchLimits, checked_address, fetch
from tests.storage.file_server import CLOSED, Answer, FileServer, Handler, serve, serving, status

LIMITS = FetchLimits(size=1000, wait=0.5, total=1.0)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving(b"content") as files:
        yield files


def body(*pieces: bytes, pause: float = 0.0, forever: bool = False, headers: bytes = b"") -> Answer:
    """Return an answer without a length that sends `pieces` with a pause after each, once or again and again."""

    def answer(handler: Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + headers)
        end = time.monotonic() + 5
        while time.monotonic() < end:
            for piece in pieces:
                try:
                    handler.wfile.write(piece)
                    handler.wfile.flush()
                except OSError:
                    return
                time.sleep(pause)
            if not forever:
                return

    return answer


def test_a_file_is_fetched(server: FileServer) -> None:
    assert fetch(f"{server.url}/a b.jpg?v=1", LIMITS) == b"content"
    assert server.paths == ["/release/a%20b.jpg?v=1"]


def test_relative_and_absolute_redirects_are_followed(server: FileServer) -> None:
    server.answers = [status(302, Location="/other/a.jpg"), status(308, Location=f"{server.url}/b.jpg"), serve()]
    assert fetch(f"{server.url}/a.jpg", LIMITS) == b"content"
    assert server.paths == ["/release/a.jpg", "/other/a.jpg", "/release/b.jpg"]


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([status(302, Location="file:///etc/passwd")], "redirected to file:///etc/passwd, which is not followed"),
        ([status(302, Location="ftp://host/a.jpg")], "redirected to ftp://host/a.jpg, which is not followed"),
        ([status(302, Location="http://user:word@127.0.0.1/a.jpg")], "contains a user name or password"),
        ([status(302, Location="/a.jpg")] * 7, "redirected more than 5 times"),
        ([status(404)], "the server responded 404"),
        ([serve(length=10**12)], "more than 1 MB"),
        ([serve(cut=3)], "the connection was lost after 3 of 7 bytes"),
        ([status(200)], "an empty file"),
        ([status(200, Content_Type="text/html")], "a web page instead of a file"),
        ([body(b"\r\n", b"\0" * 2000, forever=True)], "more than 1 MB"),
    ],
)
def test_what_is_refused(server: FileServer, answers: list[Answer], message: str) -> None:
    server.answers = answers
    with pytest.raises(DataError, match=message):
        fetch(f"{server.url}/a.jpg", LIMITS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (body(b"\r\n", pause=3.0), "sent nothing for 0.5 s"),
        (body(b"\r\n", b"x", pause=0.1, forever=True), "took more than 1 s"),
        (body(b"X", pause=0.1, forever=True, headers=b"X-Slow: "), "took more than 1 s"),
        (
            body(b"1", pause=0.1, forever=True, headers=b"Transfer-Encoding: chunked\r\n\r\n"),
            "took more than 1 s",
        ),
    ],
)
def test_a_slow_server_is_left(server: FileServer, answer: Answer, message: str) -> None:
    """Also one that sends a byte now and then: in the body, in a header, and in the size of a chunk."""
    server.answers = [answer]
    start = time.monotonic()
    with pytest.raises(DataError, match=message):
        fetch(f"{server.url}/a.jpg", LIMITS)
    assert time.monotonic() - start < 2.5
    assert threading.active_count() < 10


def test_no_connection() -> None:
    with pytest.raises(DataError, match=r"cannot read http://127\.0\.0\.1:9/release: Connection refused"):
        fetch(CLOSED, LIMITS)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://host", "http://host/"),
        ("HTTPS://Host:8080/ä/b c.jpg?x=ü#part", "https://host:8080/%C3%A4/b%20c.jpg?x=%C3%BC"),
        ("http://bücher.example/a%20b.jpg", "http://xn--bcher-kva.example/a%20b.jpg"),
        ("http://[::1]:80/a.jpg", "http://[::1]:80/a.jpg"),
    ],
)
def test_addresses_are_written_in_ascii(url: str, address: str) -> None:
    assert checked_address(url) == address


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://host/a.jpg", "of the kind ftp://"),
        ("file:///etc/passwd", "of the kind file://"),
        ("http:///a.jpg", "has no host"),
        ("http://user:word@host/a.jpg", "user name or password"),
        ("http://host:port/a.jpg", "not a valid address"),
        ("http://[::1/a.jpg", "not a valid address"),
    ],
)
def test_addresses_that_are_refused(url: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        checked_address(url)
    assert "word" not in str(error.value).replace("password", "")


def test_a_slow_proxy_is_stopped() -> None:
    """It answers a request for a tunnel with a byte now and then, which no timeout of a socket notices."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        stop = threading.Event()

        def drip() -> None:
            accepted, _ = listening.accept()
            with accepted, suppress(OSError):
                while not stop.wait(0.02):
                    accepted.send(b"H")

        thread = threading.Thread(target=drip)
        thread.start()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("https_proxy", f"http://127.0.0.1:{listening.getsockname()[1]}")
            patch.delenv("no_proxy", raising=False)
            began = time.monotonic()
            with pytest.raises(DataError, match=r"cannot read https://host.test/a.jpg: it took more than 0.3 s"):
                fetch("https://host.test/a.jpg", FetchLimits(1000, wait=5, total=0.3))
        stop.set()
        thread.join()
    assert time.monotonic() - began < 3
