"""Fetch small files from the web into memory, with limits on size and time that no server can exceed."""

from __future__ import annotations

import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

from panformer_cli import __version__
from panformer_cli.errors import DataError, WriteError
from panformer_cli.reporting import megabytes

SCHEMES = ("http", "https")

_SAFE = "%/:=&?~#+!$,;'@()*[]"
"""Characters of an address that are not escaped, besides letters, digits and `_.-`."""
_Watch = Callable[[socket.socket], None]
_PIECE = 1 << 16  # bytes
_REDIRECTS = (301, 302, 303, 307, 308)


@dataclass(frozen=True)
class FetchLimits:
    """What a server may take.

    Attributes:
        size: Largest file, in bytes, whatever the server announces.
        wait: Seconds until a connection, and until the next byte.
        total: Seconds for the whole file, redirects included.
        redirects: Largest number of redirects.
    """

    size: int
    wait: float = 15.0
    total: float = 120.0
    redirects: int = 5


def fetch(url: str, limits: FetchLimits) -> bytes:
    """Return the file at an address; errors as `fetch_into`."""
    content = bytearray()
    fetch_into(url, limits, content.extend)
    return bytes(content)


def fetch_into(url: str, limits: FetchLimits, write: Callable[[bytes], object]) -> None:
    """Call `write` with the pieces of the file at an address.

    Redirects are followed to http and https only, and never from https to http. Proxies are those of the environment
    (`https_proxy`, `no_proxy`). Addresses of the user's own network are allowed.

    Raises:
        WriteError: `write` raises it.
        DataError: The address is not valid, the server cannot be reached, refuses the request or sends a web page or
            nothing, or a limit is exceeded.
    """
    deadline = time.monotonic() + limits.total
    address = checked_address(url)
    try:
        with _watched(deadline) as watch:
            for _ in range(limits.redirects + 1):
                with _opened(address, watch, min(limits.wait, deadline - time.monotonic())) as response:
                    if response.status not in _REDIRECTS:
                        _copy(response, limits, deadline, write)
                        return
                    address = _redirected(address, response)
            raise _FetchError(f"it was redirected more than {limits.redirects} times; use its final address")
    except WriteError:
        raise
    except _FetchError as error:
        raise DataError(f"cannot read {url}: {error}") from error
    except (OSError, HTTPException, ValueError) as error:
        if time.monotonic() >= deadline:
            raise DataError(f"cannot read {url}: {_too_slow(limits)}") from error
        raise DataError(
            f"cannot read {url}: {_reason(error, limits)}; check the address, or try again later"
        ) from error


def checked_address(url: str) -> str:
    """Return an address in ASCII.

    Raises:
        DataError: It is not an http or https address of a host, or it contains a user name or password.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        name = f"[{host}]" if ":" in host else host.encode("idna").decode()
    except ValueError as error:  # UnicodeError included
        raise DataError(f"{url!r} is not a valid address ({error}); expected one such as https://host/a.jpg") from error
    if parts.scheme.lower() not in SCHEMES:
        raise DataError(
            f"{url}: addresses of the kind {parts.scheme}:// cannot be read; expected http:// or https://; download "
            "the file first"
        )
    if "@" in parts.netloc:
        raise DataError(
            f"an address of {name} contains a user name or password, which would appear in the results; download the "
            "file first"
        )
    if not name:
        raise DataError(f"{url!r} has no host; expected an address such as https://host/a.jpg")
    place = name if port is None else f"{name}:{port}"
    return urlunsplit((parts.scheme.lower(), place, quote(parts.path or "/", _SAFE), quote(parts.query, _SAFE), ""))


class _FetchError(Exception):
    """Why a file is not read, and what to do."""


def _too_slow(limits: FetchLimits) -> str:
    return f"it took more than {limits.total:g} s; download the file first"


def _reason(error: Exception, limits: FetchLimits) -> str:
    """Return the end of a sentence about an error of the connection."""
    cause = error.reason if isinstance(error, URLError) and isinstance(error.reason, Exception) else error
    if isinstance(cause, TimeoutError):
        return f"the server sent nothing for {limits.wait:g} s"
    return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__


@contextmanager
def _opened(url: str, watch: _Watch, wait: float) -> Iterator[HTTPResponse]:
    """Yield the response to one request, a redirect included."""
    if wait <= 0:
        raise TimeoutError
    request = urllib.request.Request(url, headers={"User-Agent": f"panformer/{__version__}"})
    opener = urllib.request.build_opener(_NoRedirects, _Http(watch), _Https(watch))
    try:
        response: Any = opener.open(request, timeout=wait)
    except HTTPError as error:
        if error.code not in _REDIRECTS:
            error.close()
            raise _FetchError(f"the server responded {error.code} {error.reason}; check the address") from error
        response = error
    with response:
        yield response


def _copy(response: HTTPResponse, limits: FetchLimits, deadline: float, write: Callable[[bytes], object]) -> None:
    """Call `write` with the pieces of a response."""
    if response.headers.get_content_type() == "text/html":
        raise _FetchError("the server sent a web page instead of a file; use the address of the image or video itself")
    announced = response.headers.get("Content-Length", "")
    received = 0
    size = int(announced) if announced.isdecimal() else 0
    while size <= limits.size and time.monotonic() < deadline and (piece := response.read1(_PIECE)):
        write(piece)
        received += len(piece)
        size = max(size, received)
    if size > limits.size:
        raise _FetchError(f"it has more than {megabytes(limits.size)} MB; download the file first")
    if time.monotonic() >= deadline:  # the socket may have been shut down
        raise _FetchError(_too_slow(limits))
    if received < size:
        raise _FetchError(f"the connection was lost after {received} of {size} bytes; try again")
    if not received:
        raise _FetchError("the server sent an empty file (0 bytes); check the address")


def _redirected(url: str, response: HTTPResponse) -> str:
    """Return where a response redirects to."""
    target = urljoin(url, response.headers.get("Location", ""))
    scheme = urlsplit(target).scheme
    if scheme not in SCHEMES or (urlsplit(url).scheme == "https" and scheme != "https"):
        raise _FetchError(f"it was redirected to {target}, which is not followed; expected an https address")
    return checked_address(target)


@contextmanager
def _watched(deadline: float) -> Iterator[_Watch]:
    """Yield a function that is called with each socket; at the deadline, the sockets are shut down.

    A timeout of a socket does not stop a server that sends a byte now and then. Copies of the sockets are kept, since
    TLS detaches the originals.
    """
    sockets: list[socket.socket] = []

    def shut_down() -> None:
        for opened in sockets:
            with suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(max(0.0, deadline - time.monotonic()), shut_down)
    timer.daemon = True
    timer.start()
    try:
        yield lambda opened: sockets.append(opened.dup())
    finally:
        timer.cancel()
        for copy in sockets:
            copy.close()


def _connection(kind: type[HTTPConnection], watch: _Watch, host: str, **options: Any) -> HTTPConnection:
    """Return a connection that reports its socket before a byte is sent, for example to a proxy."""
    connection = kind(host, **options)

    def created(*arguments: Any) -> socket.socket:
        opened = socket.create_connection(*arguments)
        watch(opened)
        return opened

    vars(connection)["_create_connection"] = created  # `connect` only returns after the tunnel of a proxy
    return connection


class _Watching:
    """A handler whose connections report their sockets."""

    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self._watch = watch


class _Http(_Watching, urllib.request.HTTPHandler):
    """Opens connections of http."""

    def http_open(self, req: urllib.request.Request) -> HTTPResponse:
        connect: Any = partial(_connection, HTTPConnection, self._watch)
        return self.do_open(connect, req)


class _Https(_Watching, urllib.request.HTTPSHandler):
    """Opens connections of https."""

    def https_open(self, req: urllib.request.Request) -> HTTPResponse:
        connect: Any = partial(_connection, HTTPSConnection, self._watch)
        return self.do_open(connect, req)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Raises an HTTPError for a redirect; each one is checked before it is followed."""

    def redirect_request(self, *arguments: Any) -> None:
        del arguments
