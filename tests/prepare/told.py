"""A reporter that keeps what it is told."""

from __future__ import annotations

from panformer_cli.reporting import SilentReporter


class Told(SilentReporter):
    """Keeps warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)
