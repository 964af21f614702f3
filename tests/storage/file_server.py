"""A local web server that serves a few files, with the failures that a test asks for."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CLOSED = "http://127.0.0.1:9/release"
"""An address that refuses connections."""


@dataclass
class FileServer:
    """The files that are served, and the requests received.

    Attributes:
        content: the file at every path that has no other.
        url: address of the server.
        named: other files, by file name.
        headers: headers of each response; they identify the version of the file, so that a download can resume safely.
        answers: responses to the first requests; the later ones are served normally.
        reports_sizes: whether HEAD requests are answered.
        heads: path of each HEAD request.
        paths: path of each other request.
        ranges: header Range of each request.
        conditions: header If-Range of each request.
        sent: first and end position of the bytes of each response.
    """

    content: bytes
    url: str = ""
    named: dict[str, bytes] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=lambda: {"ETag": '"one"'})
    answers: list[Answer] = field(default_factory=list)
    reports_sizes: bool = True
    heads: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    ranges: list[str | None] = field(default_factory=list)
    conditions: list[str | None] = field(default_factory=list)
    sent: list[tuple[int, int]] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    """Handles one request."""

    files: FileServer

    def do_HEAD(self) -> None:
        content = self.files.named.get(self.path.rpartition("/")[2], self.files.content)
        self.files.heads.append(self.path)
        self.send_response(200 if self.files.reports_sizes else 405)
        if self.files.reports_sizes:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()

    def do_GET(self) -> None:
        self.files.paths.append(self.path)
        self.files.ranges.append(self.headers["Range"])
        self.files.conditions.append(self.headers["If-Range"])
        answer = self.files.answers.pop(0) if self.files.answers else serve()
        answer(self)

    def log_message(self, format: str, *args: object) -> None:
        del format, args


Answer = Callable[[Handler], None]


def serve(
    cut: int | None = None, use_range: bool = True, use_condition: bool = True, length: int | None = None
) -> Answer:
    """Return an answer that sends the file, or the requested range of it.

    Args:
        cut: close the connection after this many bytes.
        use_range: respect the header Range.
        use_condition: respect the header If-Range.
        length: reported size if not the true one; -1 for none.
    """

    def answer(handler: Handler) -> None:
        files = handler.files
        content = files.named.get(handler.path.rpartition("/")[2], files.content)
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers["Range"] or "")
        condition = handler.headers["If-Range"]
        same = not use_condition or condition in (None, *files.headers.values())
        start = int(asked[1]) if asked and use_range and same else 0
        if start >= len(content):
            return status(416)(handler)
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if length != -1:
            handler.send_header("Content-Length", str(len(content) - start if length is None else length))
        for name, value in files.headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        body = content[start:] if cut is None else content[start : start + cut]
        files.sent.append((start, start + len(body)))  # first: the client continues as soon as it has the bytes
        handler.wfile.write(body)
        return None

    return answer


def status(code: int, **headers: str) -> Answer:
    """Return an empty answer with this status code."""

    def answer(handler: Handler) -> None:
        handler.send_response(code)
        for name, value in {"Content-Length": "0", **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()

    return answer


def hang(until: threading.Event, asked: threading.Event | None = None) -> Answer:
    """Return an answer that waits for `until` before it sends the file; it sets `asked` when the request arrives."""

    def answer(handler: Handler) -> None:
        if asked is not None:
            asked.set()
        until.wait(60)
        serve()(handler)

    return answer


@contextmanager
def serving(content: bytes) -> Iterator[FileServer]:
    """Run a server; `url` is the address of a folder."""
    files = FileServer(content)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Mine", (Handler,), {"files": files}))
    files.url = f"http://127.0.0.1:{server.server_address[1]}/release"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield files
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
