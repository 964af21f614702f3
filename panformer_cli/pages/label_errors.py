"""The page of `evaluate --label-errors`: probable label errors with thumbnails, the most certain first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from panformer_cli.metrics.analysis.label_errors import Kind, Suspect
from panformer_cli.pages.base import write_page


@dataclass(frozen=True)
class SuspectFigure:
    """A suspect on the page.

    Attributes:
        path: Path of the thumbnail relative to the page, with `/`.
        size: Height and width of the thumbnail, pixels.
        rank: Position in the list, from 1.
        suspect: The suspect.
    """

    path: str
    size: tuple[int, int]
    rank: int
    suspect: Suspect

    @property
    def title(self) -> str:
        """Rank, kind and file name."""
        return f"{self.rank}. {self.suspect.kind.title}: {self.suspect.file_name}"

    @property
    def detail(self) -> str:
        """Score and segment ids."""
        truth, predictions = (
            ", ".join(str(segment.id) for segment in segments) or "none"
            for segments in (self.suspect.truth, self.suspect.predictions)
        )
        return f"Score {self.suspect.score:.2f}. Segments in the annotation: {truth}; in the prediction: {predictions}"


@dataclass(frozen=True)
class LabelErrorPage:
    """Content of the page.

    Attributes:
        facts: Name and value of what was evaluated.
        counts: Number of suspects of each kind, by `Kind.value`.
        figures: The first suspects of the list, the most certain first.
    """

    facts: Sequence[tuple[str, str]]
    counts: Mapping[str, int]
    figures: Sequence[SuspectFigure]

    @property
    def kinds(self) -> list[tuple[str, str, int]]:
        """Name, title and number of suspects of each kind."""
        return [(kind.value, kind.title, self.counts[kind.value]) for kind in Kind]

    @property
    def total(self) -> int:
        """Number of suspects in the whole list."""
        return sum(self.counts.values())


def write_label_error_page(path: Path, page: LabelErrorPage) -> None:
    """Write the page, atomically.

    Raises:
        PanformerError: The file cannot be written.
    """
    write_page(path, "label_errors.html", "Probable label errors", page.facts, page=page)
