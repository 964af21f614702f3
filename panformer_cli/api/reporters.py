"""Where the functions of the Python interface report to."""

from __future__ import annotations

import logging

from panformer_cli.reporting import Reporter, SilentReporter

LOGGER = logging.getLogger("panformer")
"""Receives messages (level INFO) and warnings (level WARNING) of quiet calls."""


class LoggingReporter(SilentReporter):
    """Reports messages and warnings to `LOGGER`, and no progress. Python prints warnings by default."""

    def message(self, text: str) -> None:
        """Log one line."""
        LOGGER.info("%s", text)

    def warn(self, text: str) -> None:
        """Log a warning."""
        LOGGER.warning("%s", text)


def reporter_of(verbose: bool) -> Reporter:
    """Return a reporter: with `verbose` messages and progress bars on stderr, as on the command line; else the log."""
    if not verbose:
        return LoggingReporter()
    from panformer_cli.console import RichReporter

    return RichReporter()
