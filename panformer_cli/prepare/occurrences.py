"""Files and annotations that are left out or changed, counted by reason."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Occurrences:
    """How often something happened for one reason, and descriptions of the first times."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, description: str, described: int) -> None:
        """Count one more; its description is kept if there are fewer than `described`."""
        self.count += 1
        if len(self.first) < described:
            self.first.append(description)
