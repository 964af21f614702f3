"""A reporter that records warnings and messages."""

from __future__ import annotations

from panformer_cli.reporting import SilentReporter


class RecordingReporter(SilentReporter):
    """Records warnings and messages."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)
