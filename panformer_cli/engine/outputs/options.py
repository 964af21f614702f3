"""The options of a prediction that concern its results."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from panformer_cli.engine.outputs.names import GALLERY, USUAL
from panformer_cli.pages.replacing import PAGE

if TYPE_CHECKING:
    from panformer_cli.data.categories import CategoryTable
    from panformer_cli.engine.outputs.registry import Saving
    from panformer_cli.engine.outputs.selection import SegmentSelection
    from panformer_cli.visualization.colors import Palette


@dataclass(frozen=True)
class OutputOptions:
    """What is written, and of which segments.

    Attributes:
        save: Names of the outputs, see `registry.NAMES`.
        classes: Names or ids of the categories to keep, see `selection.find_categories`; empty for all.
        min_area: Minimum area of a segment in pixels.
        palette: Colors of the overlays and the gallery.
        gallery: Whether `gallery/index.html` is written, a page of all images.
    """

    save: tuple[str, ...] = USUAL
    classes: tuple[str, ...] = ()
    min_area: int = 0
    palette: Palette = "standard"
    gallery: bool = False

    def page_in(self, out: Path) -> Path | None:
        """Return the path of the gallery's page in a folder of results; None without a gallery."""
        return out / GALLERY / PAGE if self.gallery else None

    @property
    def saving(self) -> Saving:
        """The outputs; errors as `Saving.of`."""
        from panformer_cli.engine.outputs.registry import Saving  # imports OpenCV

        return Saving.of(self.save, self.gallery)

    def selection(self, categories: CategoryTable) -> SegmentSelection:
        """Return the segments to keep; errors as `find_categories`."""
        from panformer_cli.engine.outputs.selection import SegmentSelection, find_categories  # imports OpenCV

        ids = find_categories(self.classes, categories) if self.classes else None
        return SegmentSelection(ids, self.min_area)

    def colored(self, categories: CategoryTable) -> CategoryTable:
        """Return the table with the colors of the overlays."""
        from panformer_cli.visualization.colors import with_colors  # imports NumPy

        return with_colors(categories, palette=self.palette)[0]
