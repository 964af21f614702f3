"""A reporter that records warnings."""

from __future__ import annotations

from panformer_cli.reporting import SilentReporter


class RecordingReporter(SilentReporter):
    """Records warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)
