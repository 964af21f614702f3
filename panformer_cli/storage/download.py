"""Downloads that resume after an interruption, are verified, and run once even if several processes ask."""

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
"""Seconds before each retry; they start over whenever an attempt gets further than all before it."""

TIMEOUT = 30.0
"""Seconds without a response before a connection or a read fails."""

_PIECE = 1 << 20  # bytes


class DownloadError(PanformerError):
    """A file that cannot be downloaded now; the message ends with where to put it manually."""


@dataclass(frozen=True)
class DownloadedFile:
    """A complete file.

    Attributes:
        size: bytes.
        sha256: 64 hexadecimal digits.
    """

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
    """Download `url` to `target`, atomically. An existing file is verified and not downloaded again.

    A download that was interrupted earlier is resumed if the file on the server has not changed.

    Args:
        url: http or https; proxies are those of the environment (`https_proxy`, `no_proxy`).
        target: path of the downloaded file.
        reporter: shows the progress.
        size: expected bytes, if known.
        sha256: expected hash, or the first digits of it, if known.
        check: called with the downloaded file before it appears at `target`. If it raises a PanformerError, the file is
            deleted. The message starts with what is wrong, such as "the download is not an image".
        waits: seconds before each retry [RETRY_WAITS].

    Raises:
        DownloadError: no connection, an error of the server, repeated loss of the connection, or a file that `check`
            rejects.
        PanformerError: no disk space, no permission, or a file with a different size or hash.
    """
    source, partial = _Source(url, target, size), PartialFile(target)
    with _locked(target, reporter):
        if target.is_file():
            found = DownloadedFile(target.stat().st_size, sha256_of(target, reporter))
            check_file(str(target), found, size, sha256, "delete it to download it again")
            return found
        try:
            _fetch(source, partial, reporter, RETRY_WAITS if waits is None else waits)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_how_to_resume(source, partial)) from None
        found = DownloadedFile(partial.size, sha256_of(partial.path, reporter))
        try:
            advice = f"it was deleted; put the correct file at {target}"
            check_file(f"the download of {url}", found, size, sha256, advice)
            if check is not None:
                _run_check(found, partial, source, check)
        except PanformerError:
            partial.discard()
            raise
        partial.finish()
        return found


def remote_size(url: str, timeout: float = 10.0) -> int | None:
    """Return the size in bytes that the server reports for a file; None if it reports none or cannot be reached."""
    request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": f"panformer/{__version__}"})
    try:
        with urllib.request.build_opener(_Redirects).open(request, timeout=timeout) as response:
            length = response.headers.get("Content-Length", "")
    except (OSError, HTTPException, ValueError):
        return None
    return int(length) if length.isdecimal() else None


def downloaded_bytes(target: Path) -> int:
    """Return the bytes that an interrupted download to `target` has left, from which the next one resumes."""
    return PartialFile(target).size


def check_file(what: str, found: DownloadedFile, size: int | None, sha256: str | None, advice: str) -> None:
    """Raise PanformerError if size or hash are not as expected. `what` starts the message, `advice` ends it."""
    if size is not None and found.size != size:
        raise _size_error(what, found.size, size, advice)
    if sha256 is not None and not found.sha256.startswith(sha256):
        expected = sha256 if len(sha256) == len(found.sha256) else f"one that starts with {sha256}"
        raise PanformerError(f"{what} has the SHA-256 {found.sha256}, expected {expected}; {advice}")


@dataclass(frozen=True)
class _Source:
    """What to download, where to, and its size if known."""

    url: str
    target: Path
    size: int | None

    def error(self, reason: str) -> DownloadError:
        return DownloadError(
            f"cannot download {self.url}: {reason}; try again later, or put the file at {self.target} yourself"
        )


class _AttemptFailed(Exception):
    """An attempt that ended early. `temporary` means that a retry may succeed."""

    def __init__(self, reason: str, temporary: bool = True) -> None:
        super().__init__(reason)
        self.temporary = temporary


def _run_check(
    found: DownloadedFile, partial: PartialFile, source: _Source, check: Callable[[Path, DownloadedFile], None]
) -> None:
    try:
        check(partial.path, found)
    except PanformerError as error:
        raise source.error(f"{error}, and was deleted") from error


def _how_to_resume(source: _Source, partial: PartialFile) -> str:
    if not partial.can_resume(source.url):
        return f"Interrupted; rerun the same command to download {source.target.name} from the start."
    kept = f"{megabytes(partial.size)} MB of {source.target.name} are kept"
    return f"Interrupted; {kept}; rerun the same command to resume."


def _fetch(source: _Source, partial: PartialFile, reporter: Reporter, waits: Sequence[float]) -> None:
    """Fill `partial`, with retries for as long as it makes progress."""
    furthest, moved, left = partial.size, False, list(waits)
    while not partial.is_whole(source.url):
        try:
            _attempt(source, partial, reporter)
            return
        except _AttemptFailed as problem:
            if partial.size > furthest:
                furthest, moved, left = partial.size, True, list(waits)
            if not left or not (problem.temporary or moved):
                raise source.error(str(problem)) from problem
            wait = left.pop(0)
            reporter.message(f"{source.target.name}: {problem}; retrying in {wait:g} s")
            time.sleep(wait)


def _attempt(source: _Source, partial: PartialFile, reporter: Reporter) -> None:
    """Send one request for all missing bytes."""
    with _connect(source, partial) as response:
        if response.headers.get_content_type() == "text/html" and source.target.suffix != ".html":
            raise source.error("the server sent a web page instead of the file, possibly a login page of the network")
        total = _start_or_resume(source, partial, response)
        _check_space(partial, (total or 0) - partial.size)
        with megabyte_bar("Download, MB", total or 0, partial.size, reporter) as bar:
            partial.append(_pieces(response), bar.advance)
    if total is not None and partial.size < total:
        raise _AttemptFailed(f"the connection was lost after {megabytes(partial.size)} of {megabytes(total)} MB")


def _connect(source: _Source, partial: PartialFile) -> HTTPResponse:
    headers = {"User-Agent": f"panformer/{__version__}", **partial.range_headers(source.url)}
    try:
        if urlsplit(source.url).scheme not in ("http", "https"):
            raise InvalidURL
        request = urllib.request.Request(source.url, headers=headers)
        response: HTTPResponse = urllib.request.build_opener(_Redirects).open(request, timeout=TIMEOUT)
        return response
    except (InvalidURL, ValueError) as error:
        example = f"https://host/{source.target.name}"
        raise PanformerError(f"{source.url!r} cannot be downloaded: expected an address such as {example}") from error
    except HTTPError as error:
        error.close()
        reason = f"the server responded {error.code} {error.reason}"
        if error.code == 416:  # the partial file is longer than the file on the server
            partial.discard()
        elif error.code not in (408, 429) and error.code < 500:
            raise source.error(reason) from error
        raise _AttemptFailed(reason) from error
    except (OSError, HTTPException) as error:
        # A retry helps if the server hangs or closes the connection; an unknown host or a refused connection mostly
        # means that there is no network.
        cause = error.reason if isinstance(error, URLError) and isinstance(error.reason, Exception) else error
        temporary = isinstance(cause, (TimeoutError, ConnectionResetError, HTTPException))
        raise _AttemptFailed(_reason(cause), temporary) from error


def _start_or_resume(source: _Source, partial: PartialFile, response: HTTPResponse) -> int | None:
    """Prepare `partial` for the body of `response`. Return the bytes of the complete file, None if unknown."""
    headers = response.headers
    if response.status == 206:
        origin, span = partial.origin, re.fullmatch(r"bytes (\d+)-\d+/(\d+)", headers.get("Content-Range", ""))
        fits = origin is not None and span is not None and (int(span[1]), int(span[2])) == (partial.size, origin.size)
        if origin is None or not fits or _version(headers) not in (None, origin.version):
            partial.discard()
            raise _AttemptFailed("the file on the server has changed")
        return origin.size
    length = headers.get("Content-Length", "")
    total = int(length) if length.isdecimal() else source.size
    if source.size is not None and total != source.size:
        partial.discard()
        raise _size_error(source.url, total, source.size, f"put the correct file at {source.target}")
    partial.start(Origin(source.url, total, _version(headers)))
    return total


def _version(headers: Message) -> str | None:
    tag: str = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified")  # a weak tag does not guarantee equal bytes


def _pieces(response: HTTPResponse) -> Iterator[bytes]:
    """Yield the body as it arrives; it ends early if the server closes the connection."""
    try:
        while piece := response.read1(_PIECE):
            yield piece
    except (OSError, HTTPException) as error:
        raise _AttemptFailed(f"the connection was lost ({_reason(error)})") from error


def _check_space(partial: PartialFile, needed: int) -> None:
    free = shutil.disk_usage(partial.path.parent).free
    if free < needed:
        raise PanformerError(
            f"not enough disk space for {partial.target}: {megabytes(needed)} MB are needed and {free // MEGABYTE} MB "
            "are free; free some space and try again"
        )


def _size_error(what: str, found: int | None, expected: int, advice: str) -> PanformerError:
    return PanformerError(f"{what} has {found} bytes, expected {expected}; {advice}")


@contextmanager
def _locked(target: Path, reporter: Reporter) -> Iterator[None]:
    """Hold `<target>.lock`, waiting for another process that holds it."""
    lock = FileLock(f"{target}.lock")
    with writing(target, KEPT):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            reporter.message(f"Another process is downloading {target}; waiting for it")
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https only, and never from https to http."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme not in ("https", req.type):
            raise HTTPError(newurl, code, f"and redirected to {newurl}, which is not followed", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
