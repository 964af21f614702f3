"""The segmentation of one image: its segments, and the forms in which other programs need them.

Letters in shapes: H x W image, h x w box of a segment, N segments.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from panformer_cli.api.saving import DEFAULT_OUTPUTS, save
from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.structures import IdMap, ImageArray, PanopticMap
from panformer_cli.data.structures import Segment as PlainSegment
from panformer_cli.engine.outputs import views
from panformer_cli.visualization.colors import Palette, with_colors
from panformer_cli.visualization.drawing import DrawOptions, draw_panoptic, encoded_image
from panformer_cli.wording import counted

if TYPE_CHECKING:
    import pandas
    import supervision


@dataclass(frozen=True)
class Segment:
    """One segment of an image: an object, or all stuff of one class.

    Attributes:
        id: Its value in `Result.segment_ids`, 1 or more.
        name: Name of its category, such as `person`.
        category_id: Id of its category in the data set, as in COCO's files. It is not a position in a list.
        is_thing: True for a countable object, False for stuff such as sky.
        score: Confidence, 0 or more and rarely above 1: the mask quality that it contains has no upper bound.
        area: Number of its pixels.
        box: x1, y1, x2, y2 in pixels: `image[y1:y2, x1:x2]` is the smallest crop with all of it.
    """

    id: int
    name: str
    category_id: int
    is_thing: bool
    score: float
    area: int
    box: tuple[int, int, int, int]
    _ids: IdMap = field(repr=False, compare=False)

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """Its pixels, (H, W) bool. It is computed at each access, so that results stay small."""
        mask: npt.NDArray[np.bool_] = self._ids == self.id
        return mask


@dataclass(frozen=True, eq=False)
class Result:
    """The segmentation of one image.

    All arrays are in the main memory and belong to this result: they share nothing with the input, the model or other
    results. It can be pickled. `len(result)` is the number of segments, and iterating yields them.

    Attributes:
        image: The image, (H, W, 3) uint8 RGB, with its EXIF orientation applied.
        segment_ids: (H, W) int32, the id of the segment of each pixel; 0 is void, where nothing was recognized.
        segments: The segments, in ascending id. Every object is one, and all stuff of one class is one.
        source: The path or URL as it was passed; None for arrays, tensors and images in memory.
        categories: The category table of the model.
        frame: Number of the frame in its video, from 0, for results of `Model.track`; None for images.

    Examples:
        >>> import panformer
        >>> result = panformer.load("runs/colors", device="cpu")("street.png")
        >>> result
        Result(street.png, 64 x 48 pixels, 2 segments: red, sky)
        >>> result.segment_ids.shape, result.segment_ids.dtype.name
        ((48, 64), 'int32')
        >>> [(segment.name, segment.area, segment.box) for segment in result.segments]
        [('red', 768, (16, 24, 48, 48)), ('sky', 2304, (0, 0, 64, 48))]
        >>> int(result.segments[0].mask.sum())
        768
    """

    image: ImageArray
    segment_ids: IdMap
    segments: tuple[Segment, ...]
    source: str | None
    categories: CategoryTable
    frame: int | None = None
    _shades: tuple[int, ...] | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls,
        image: ImageArray,
        panoptic: PanopticMap,
        categories: CategoryTable,
        source: str | None,
        frame: int | None = None,
        shades: tuple[int, ...] | None = None,
    ) -> Result:
        """Return the result for a panoptic map; the arrays are not copied.

        Args:
            image: The image.
            panoptic: Its segmentation.
            categories: The category table.
            source: The path or URL as it was passed; None for an image in memory.
            frame: Number of the frame in its video; None for an image.
            shades: The shade of each segment in overlays, for a frame of a tracked video; None to count from 0.
        """
        rows = ((segment, categories.by_id(segment.category_id)) for segment in panoptic.segments)
        segments = tuple(
            Segment(
                segment.id,
                category.name,
                category.id,
                category.is_thing,
                segment.score or 0.0,
                segment.area,
                _corners(segment),
                panoptic.ids,
            )
            for segment, category in rows
        )
        return cls(image, panoptic.ids, segments, source, categories, frame, shades)

    @property
    def things(self) -> tuple[Segment, ...]:
        """The segments that are things, such as persons and cars."""
        return tuple(segment for segment in self.segments if segment.is_thing)

    @property
    def stuff(self) -> tuple[Segment, ...]:
        """The segments that are stuff, such as sky and road; one for each class."""
        return tuple(segment for segment in self.segments if not segment.is_thing)

    @property
    def size(self) -> tuple[int, int]:
        """Height H and width W in pixels."""
        height, width = self.segment_ids.shape
        return height, width

    def __len__(self) -> int:
        return len(self.segments)

    def __iter__(self) -> Iterator[Segment]:
        return iter(self.segments)

    def __repr__(self) -> str:
        names = Counter(segment.name for segment in self.segments)
        listed = ", ".join(name if count == 1 else f"{count} {name}" for name, count in names.most_common())
        height, width = self.size
        found = f"{counted(len(self), 'segment')}{f': {listed}' if listed else ''}"
        return f"Result({self.source or 'array'}, {width} x {height} pixels, {found})"

    def _repr_png_(self) -> bytes:
        """Show the overlay in a notebook."""
        return encoded_image(self.plot(), ".png", "the overlay")

    @property
    def panoptic(self) -> PanopticMap:
        """The same as the engine's panoptic map, for functions of `panformer_cli`; it shares `segment_ids`."""
        return PanopticMap(self.segment_ids, tuple(map(_plain, self.segments)))

    def plot(
        self,
        *,
        opacity: float = 0.5,
        contours: bool = True,
        labels: bool = True,
        scores: bool = True,
        colors: Palette = "standard",
    ) -> ImageArray:
        """Return the image with colored, outlined and labeled segments, as a new array, (H, W, 3) uint8 RGB.

        Args:
            opacity: Opacity of the colors, 0..1.
            contours: Whether to outline segments.
            labels: Whether to write class names.
            scores: Whether to write scores after the names.
            colors: `standard`, or `safe` for colors that differ with red-green color blindness, too.

        Examples:
            >>> import panformer
            >>> overlay = panformer.load("runs/colors", device="cpu")("street.png").plot(labels=False)
            >>> overlay.shape, overlay.dtype.name
            ((48, 64, 3), 'uint8')
        """
        is_tracked = self._shades is not None
        options = DrawOptions(opacity=opacity, contours=contours, labels=labels, scores=scores, ids=is_tracked)
        categories = with_colors(self.categories, palette=colors)[0]
        return draw_panoptic(self.image, self.panoptic, categories, options, self._shades)

    def show(self) -> None:
        """Show the overlay: in a notebook below the cell, else in the program for images of the desktop.

        Raises:
            PanformerError: No program shows images, for example on a server.
        """
        from panformer_cli.api.display import show

        show(self.plot(), self.source or "panformer")

    def save(
        self,
        folder: str | PathLike[str],
        outputs: str | Sequence[str] = DEFAULT_OUTPUTS,
        *,
        name: str | None = None,
    ) -> list[Path]:
        """Write the result to a folder, as `panformer predict --save` does. Either all files are written or none.

        Args:
            folder: The folder, which is created if it is missing.
            outputs: A list, or a text with commas such as `"masks,segments"`, of some of
                - `overlay`: `overlays/<name>.jpg`, what `plot` returns,
                - `panoptic`: `panoptic/<name>.png`, the segment ids, encoded as in COCO,
                - `segments`: `segments/<name>.json`, every segment with category, score, area, box and mask,
                - `instances` and `semantic`: 16-bit PNGs of `instances` and `semantic`,
                - `masks` and `cutouts`: `<name>/<segment id>-<category>.png`,
                - `polygons`: `polygons/<name>.geojson`.
            name: Name of the files without suffix; their earlier version is replaced. None for the name of the source,
                or `image` for an image in memory, with the number of a frame. If another image has files of this name,
                a number follows. Saving the same source again replaces its files if `segments` is among them.

        Returns:
            The paths of the files.

        Raises:
            PanformerError: An output does not exist, or a file cannot be written.

        Examples:
            >>> import panformer
            >>> paths = panformer.load("runs/colors", device="cpu")("street.png").save("out")
            >>> [path.as_posix() for path in paths]
            ['out/overlays/street.jpg', 'out/panoptic/street.png', 'out/segments/street.json']
        """
        return save(self, Path(folder), outputs, name)

    def semantic(self) -> views.Map16:
        """Return the category id of every pixel, (H, W) uint16; 65535 is void.

        Examples:
            >>> import panformer
            >>> model = panformer.load("runs/colors", device="cpu")
            >>> semantic = model("street.png").semantic()
            >>> [model.names[number] for number in sorted(set(semantic.ravel().tolist()))]
            ['red', 'sky']
        """
        return views.semantic_map(self.panoptic, self.categories)

    def instances(self) -> views.Map16:
        """Return the thing of every pixel, (H, W) uint16: its segment id; 0 is stuff or void."""
        return views.instance_map(self.panoptic, self.categories)

    def crops(self, *, things_only: bool = False) -> list[npt.NDArray[np.uint8]]:
        """Return each segment on a transparent background, cropped to its box.

        Args:
            things_only: Whether to leave out stuff.

        Returns:
            In the order of `segments` or `things`, each (h, w, 4) uint8 RGBA. Alpha is 255 on exactly the pixels of the
            segment and 0 elsewhere; transparent pixels are black.

        Examples:
            >>> import panformer
            >>> result = panformer.load("runs/colors", device="cpu")("street.png")
            >>> [crop.shape for crop in result.crops(things_only=True)]
            [(24, 32, 4)]
        """
        chosen = self.things if things_only else self.segments
        panoptic = self.panoptic
        return [views.cut_out(self.image, panoptic, _plain(segment)) for segment in chosen]

    def to_coco(self, image_id: int | str = 0) -> list[dict[str, Any]]:
        """Return the segments as annotations in COCO's format, ready for JSON.

        Args:
            image_id: Id of the image.

        Returns:
            For each segment `id` (its segment id, unique in this image), `image_id`, `category_id`, `category_name`,
            `isthing`, `score`, `area` in pixels, `bbox` (x, y, width, height in pixels), `iscrowd` (0) and
            `segmentation` (compressed run lengths). `pycocotools.coco.COCO.loadRes` reads such a list.

        Examples:
            >>> import panformer
            >>> rows = panformer.load("runs/colors", device="cpu")("street.png").to_coco(image_id=7)
            >>> rows[0]["image_id"], rows[0]["category_name"], rows[0]["bbox"], rows[0]["segmentation"]["size"]
            (7, 'red', [16, 24, 32, 24], [48, 64])
        """
        record = views.image_record(image_id, self.source or "", self.panoptic, self.categories)
        return [{**row, "image_id": image_id} for row in record["segments"]]

    def to_df(self) -> pandas.DataFrame:
        """Return a table with a row for each segment; needs pandas, `pip install 'panformer[pandas]'`.

        Columns: `source`, `id`, `name`, `category_id`, `is_thing`, `score`, `area`, `x1`, `y1`, `x2`, `y2` (pixels).

        Raises:
            PanformerError: pandas is not installed.
        """
        from panformer_cli.api.exchange import to_df

        return to_df(self)

    def to_supervision(self, *, things_only: bool = False) -> supervision.Detections:
        """Return the segments for `supervision`; needs `pip install 'panformer[supervision]'`.

        Each has its box, mask, score and category id, and in `data` the name, the segment id and whether it is a thing.

        Args:
            things_only: Whether to leave out stuff.

        Raises:
            PanformerError: supervision is not installed.
        """
        from panformer_cli.api.exchange import to_supervision

        return to_supervision(self, things_only)

    def to_fiftyone(self, filepath: str | Path | None = None) -> Any:
        """Return a `fiftyone.Sample`; needs `pip install 'panformer[fiftyone]'`.

        Its field `segments` is a `fiftyone.Detections` with a label, a score and a mask for each segment, and
        `semantic` a `fiftyone.Segmentation` of category ids, in which 65535 is void.

        Args:
            filepath: The image file; None for `source`, if that is a file.

        Raises:
            PanformerError: fiftyone is not installed, or there is no image file.
        """
        from panformer_cli.api.exchange import to_fiftyone

        return to_fiftyone(self, filepath)


def _corners(segment: PlainSegment) -> tuple[int, int, int, int]:
    x, y, width, height = map(int, segment.bbox)
    return x, y, x + width, y + height


def _plain(segment: Segment) -> PlainSegment:
    """Return a segment as the engine's functions expect it."""
    x1, y1, x2, y2 = segment.box
    box = (x1, y1, x2 - x1, y2 - y1)
    return PlainSegment(segment.id, segment.category_id, segment.area, box, score=segment.score)
