"""Files from the internet: resumed after a break, checked, and fetched once however many processes ask."""

from __future__ import annotations

import re
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException, HTTPMessage, HTTPResponse, InvalidURL
from pathlib import Path
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from panformer_cli import __version__
from panformer_cli.errors import PanformerError
from panformer_cli.reporting import MEGABYTE, Reporter, megabyte_bar, megabytes
from panformer_cli.storage.files import sha256_of, writing
from panformer_cli.storage.partial_file import KEPT, Origin, PartialFile

RETRY_WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before each further attempt; they begin anew whenever an attempt got further than all before it."""

TIMEOUT = 30.0
"""Seconds without a sign of the server, in connecting and in reading."""

_PIECE = 1 << 20  # bytes


class DownloadError(PanformerError):
    """The file cannot be had from its address now; the message ends with where to put it by hand."""


@dataclass(frozen=True)
class DownloadedFile:
    """A whole file. size: bytes. sha256: 64 hexadecimal digits."""

    size: int
    sha256: str


def download(
    url: str,
    target: Path,
    *,
    reporter: Reporter,
    size: int | None = None,
    sha256: str | None = None,
    check: Callable[[Path, DownloadedFile], None] | None = None,
    waits: Sequence[float] | None = None,
) -> DownloadedFile:
    """Fetch `url` to `target`, which appears there whole or not at all; a file that is there already is not fetched.

    What an earlier call has left, stopped or broken off, is gone on with if the server still has that version.

    url: http or https; proxies are those of the environment (`https_proxy`, `no_proxy`).
    size, sha256: bytes and hash that the file must have, where they are known.
    check: is shown what came before it appears at `target`, while other processes that want it wait; where it raises
        a PanformerError, such as "what came is no image", the file is deleted.
    waits: seconds before each further attempt [RETRY_WAITS].

    Raises:
        DownloadError: no connection, a refusal of the server, a connection that breaks again and again, or a file that
            `check` refuses.
        PanformerError: no room, no permission, or a file of another size or hash.
    """
    wanted, partial = _Wanted(url, target, size), PartialFile(target)
    with _alone(target, reporter):
        if target.is_file():
            found = DownloadedFile(target.stat().st_size, sha256_of(target, reporter))
            check_file(str(target), found, size, sha256, "delete it, and it will be downloaded again")
            return found
        try:
            _fetch(wanted, partial, reporter, RETRY_WAITS if waits is None else waits)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_how_to_go_on(wanted, partial)) from None
        found = DownloadedFile(partial.size, sha256_of(partial.path, reporter))
        try:
            check_file(f"what came from {url}", found, size, sha256, f"it was deleted; put the right file at {target}")
            if check is not None:
                _show(found, partial, wanted, check)
        except PanformerError:
            partial.discard()
            raise
        partial.finish()
        return found


def check_file(what: str, found: DownloadedFile, size: int | None, sha256: str | None, advice: str) -> None:
    """Raises PanformerError for another size or hash than known; it calls the file `what` and ends with `advice`."""
    if size is not None and found.size != size:
        raise _size_error(what, found.size, size, advice)
    if sha256 is not None and found.sha256 != sha256:
        raise PanformerError(f"{what} has the SHA-256 {found.sha256}, expected {sha256}; {advice}")


@dataclass(frozen=True)
class _Wanted:
    """What is to be fetched: where from, where to, and its size where that is known."""

    url: str
    target: Path
    size: int | None

    def refusal(self, reason: str) -> DownloadError:
        return DownloadError(
            f"cannot download {self.url}: {reason}; try again later, or put the file by hand at {self.target}"
        )


class _BrokenOff(Exception):
    """An attempt that ended early. passing: whether it may just have been bad luck."""

    def __init__(self, reason: str, passing: bool = True) -> None:
        super().__init__(reason)
        self.passing = passing


def _show(
    found: DownloadedFile, partial: PartialFile, wanted: _Wanted, check: Callable[[Path, DownloadedFile], None]
) -> None:
    try:
        check(partial.path, found)
    except PanformerError as error:
        raise wanted.refusal(f"{error}, and was deleted") from error


def _how_to_go_on(wanted: _Wanted, partial: PartialFile) -> str:
    if not partial.can_go_on(wanted.url):
        return f"Stopped; the same command downloads {wanted.target.name} from its beginning."
    kept = f"{megabytes(partial.size)} MB of {wanted.target.name} are kept"
    return f"Stopped; {kept}, and the same command resumes from there."


def _fetch(wanted: _Wanted, partial: PartialFile, reporter: Reporter, waits: Sequence[float]) -> None:
    """Fill `partial`, in as many attempts as it takes while it goes on."""
    furthest, moved, left = partial.size, False, list(waits)
    while not partial.is_whole(wanted.url):
        try:
            _attempt(wanted, partial, reporter)
            return
        except _BrokenOff as problem:
            if partial.size > furthest:
                furthest, moved, left = partial.size, True, list(waits)
            if not left or not (problem.passing or moved):
                raise wanted.refusal(str(problem)) from problem
            wait = left.pop(0)
            reporter.message(f"{wanted.target.name}: {problem}; trying again in {wait:g} s")
            time.sleep(wait)


def _attempt(wanted: _Wanted, partial: PartialFile, reporter: Reporter) -> None:
    """One request, for all bytes that are still to come."""
    with _connect(wanted, partial) as response:
        if response.headers.get_content_type() == "text/html" and wanted.target.suffix != ".html":
            raise wanted.refusal("a web page came in place of the file, perhaps the login page of a network")
        total = _begin_or_go_on(wanted, partial, response)
        _check_room(partial, (total or 0) - partial.size)
        with megabyte_bar("Download, MB", total or 0, partial.size, reporter) as bar:
            partial.append(_pieces(response), bar.advance)
    if total is not None and partial.size < total:
        raise _BrokenOff(f"the connection broke after {megabytes(partial.size)} of {megabytes(total)} MB")


def _connect(wanted: _Wanted, partial: PartialFile) -> HTTPResponse:
    headers = {"User-Agent": f"panformer/{__version__}", **partial.range_headers(wanted.url)}
    try:
        if urlsplit(wanted.url).scheme not in ("http", "https"):
            raise InvalidURL
        request = urllib.request.Request(wanted.url, headers=headers)
        response: HTTPResponse = urllib.request.build_opener(_Redirects).open(request, timeout=TIMEOUT)
        return response
    except (InvalidURL, ValueError) as error:
        example = f"https://host/{wanted.target.name}"
        raise PanformerError(f"{wanted.url!r} cannot be downloaded: expected an address such as {example}") from error
    except HTTPError as error:
        error.close()
        reason = f"the server answers {error.code} {error.reason}"
        if error.code == 416:  # more is here than there is
            partial.discard()
        elif error.code not in (408, 429) and error.code < 500:
            raise wanted.refusal(reason) from error
        raise _BrokenOff(reason) from error
    except (OSError, HTTPException) as error:
        # A server that hangs or hangs up may do better; a name that nobody knows or a port where nobody listens mostly
        # means that there is no network.
        cause = error.reason if isinstance(error, URLError) and isinstance(error.reason, Exception) else error
        passing = isinstance(cause, (TimeoutError, ConnectionResetError, HTTPException))
        raise _BrokenOff(_words(cause), passing) from error


def _begin_or_go_on(wanted: _Wanted, partial: PartialFile, response: HTTPResponse) -> int | None:
    """Make `partial` ready for the body of `response`; the bytes of the whole file, None where nobody says."""
    headers = response.headers
    if response.status == 206:
        origin, span = partial.origin, re.fullmatch(r"bytes (\d+)-\d+/(\d+)", headers.get("Content-Range", ""))
        fits = origin is not None and span is not None and (int(span[1]), int(span[2])) == (partial.size, origin.size)
        if origin is None or not fits or _version(headers) not in (None, origin.version):
            partial.discard()
            raise _BrokenOff("the server has another version of the file by now")
        return origin.size
    length = headers.get("Content-Length", "")
    total = int(length) if length.isdecimal() else wanted.size
    if wanted.size is not None and total != wanted.size:
        partial.discard()
        raise _size_error(wanted.url, total, wanted.size, f"put the right file at {wanted.target}")
    partial.begin(Origin(wanted.url, total, _version(headers)))
    return total


def _version(headers: Message) -> str | None:
    tag: str = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified")  # a weak tag does not vouch for every byte


def _pieces(response: HTTPResponse) -> Iterator[bytes]:
    """The body as it arrives; where the server hangs up, it ends early without a word."""
    try:
        while piece := response.read1(_PIECE):
            yield piece
    except (OSError, HTTPException) as error:
        raise _BrokenOff(f"the connection broke ({_words(error)})") from error


def _check_room(partial: PartialFile, needed: int) -> None:
    free = shutil.disk_usage(partial.path.parent).free
    if free < needed:
        raise PanformerError(
            f"no room for {partial.target}: {megabytes(needed)} MB are to come and {free // MEGABYTE} MB are free on "
            "its disk; free some space and try again"
        )


def _size_error(what: str, found: int | None, expected: int, advice: str) -> PanformerError:
    return PanformerError(f"{what} has {found} bytes, expected {expected}; {advice}")


@contextmanager
def _alone(target: Path, reporter: Reporter) -> Iterator[None]:
    """Hold `<target>.lock`; wait for it where another process has it."""
    lock = FileLock(f"{target}.lock")
    with writing(target, KEPT):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            reporter.message(f"Another process is fetching {target}; waiting for it")
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows to http and https only, and never from https to http."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme not in ("https", req.type):
            raise HTTPError(newurl, code, f"and leads to {newurl}, which is not followed", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _words(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
