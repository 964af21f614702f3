"""How much a command prints, and what its log file gets: `--quiet`, `--verbose` and `--log-file` of every command.

The engine reports to a `reporting.Reporter`. What only debugging needs, it logs with Python's `logging` at level DEBUG,
which is shown with `--verbose` and written to a log file. A setting of the process, since `logging`, warnings and
stdout are, too.
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO, cast

from panformer_cli.errors import PanformerError
from panformer_cli.log_file import LogFile, LoggedStream

_START = time.monotonic()
_LOGGER = "panformer_cli"
_HIDDEN = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)
"""Warnings that Python hides by default."""


@dataclass(frozen=True)
class Verbosity:
    """How much a command prints.

    Attributes:
        quiet: Print only errors, warnings and results.
        verbose: Also print what debugging needs, and all warnings of libraries.
        log: Gets everything that `verbose` prints; None for no log file.
    """

    quiet: bool = False
    verbose: bool = False
    log: LogFile | None = None

    def __post_init__(self) -> None:
        if self.quiet and self.verbose:
            raise PanformerError("--quiet and --verbose cannot be used together: use one of them")

    def record(self, level: str, text: str) -> None:
        """Write text to the log file, if there is one."""
        if self.log is not None:
            self.log.write(level, text)


_current = Verbosity()
_undo = ExitStack()


def current() -> Verbosity:
    """Return the verbosity of this process."""
    return _current


def seconds() -> float:
    """Return the time since the program started, in seconds."""
    return time.monotonic() - _START


@contextmanager
def restored() -> Iterator[None]:
    """Begin with the default verbosity, and undo at the end what `configure` has changed."""
    global _current
    _current = Verbosity()
    try:
        yield
    finally:
        _undo.close()
        _current = Verbosity()


def configure(quiet: bool = False, verbose: bool = False, log_file: Path | None = None) -> None:
    """Change the verbosity of this process; what is not given stays.

    Raises:
        PanformerError: `quiet` and `verbose` contradict each other, or the log file cannot be written.
    """
    global _current
    had_debugging = _current.verbose or _current.log is not None
    log = _current.log if log_file is None else LogFile(log_file)
    _current = replace(_current, quiet=_current.quiet or quiet, verbose=_current.verbose or verbose, log=log)
    if log_file is not None and log is not None:
        _undo.callback(log.close)
        _log_results(log)
    if (verbose or log_file is not None) and not had_debugging:
        _show_debugging()


def _log_results(log: LogFile) -> None:
    """Write to the log what is printed on stdout."""
    before, stream = sys.stdout, LoggedStream(sys.stdout, log)
    sys.stdout = cast("TextIO", stream)

    def undo() -> None:
        stream.finish()
        if sys.stdout is cast("TextIO", stream):
            sys.stdout = before

    _undo.callback(undo)


def _show_debugging() -> None:
    """Handle log records of all libraries, and DEBUG of panformer; show warnings that Python hides."""
    logger, handler, filters, show = logging.getLogger(_LOGGER), _Handler(), warnings.filters[:], warnings.showwarning
    level = logger.level
    logging.getLogger().addHandler(handler)
    logger.setLevel(logging.DEBUG)
    warnings.showwarning = _warned
    if not sys.warnoptions:  # otherwise the user has chosen which ones are shown
        warnings.simplefilter("default")

    def undo() -> None:
        logging.getLogger().removeHandler(handler)
        logger.setLevel(level)
        warnings.filters[:] = filters  # type: ignore[index]
        warnings.showwarning = show

    _undo.callback(undo)


class _Handler(logging.Handler):
    """Writes records to the log file, and to stderr with the seconds since the program started."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record. Without `--verbose`, stderr gets what Python writes without any handler: warnings."""
        text = self.format(record)
        if not record.name.startswith(_LOGGER):
            text = f"{record.name}: {text}"
        _current.record(record.levelname, text)
        if _current.verbose or record.levelno >= logging.WARNING:
            print(f"[{seconds():.2f} s] {text}", file=sys.stderr)


def _warned(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Report a warning of a library; the arguments are those of `warnings.showwarning`."""
    del file
    text = warnings.formatwarning(message, category, filename, lineno, line).rstrip()
    _current.record("WARNING", text)
    if _current.verbose or not issubclass(category, _HIDDEN):
        print(text, file=sys.stderr)
