"""Images with their panoptic maps, from a data set or from predictions on disk."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.coco.image_pairing import Pairing, pair_images
from panformer_cli.data.coco.panoptic_json import read_annotation
from panformer_cli.data.coco.panoptic_png import read_panoptic_png
from panformer_cli.data.images import read_image
from panformer_cli.data.layout import predicted_image
from panformer_cli.data.structures import ImageArray, PanopticMap
from panformer_cli.errors import DataError
from panformer_cli.storage.files import name_inside
from panformer_cli.visualization.colors import Palette, with_colors


@dataclass(frozen=True)
class AnnotatedImage:
    """An image with one or two maps of the same size; each is a caption, the map, and its category table.

    The tables have a color for every category, the same in both.
    """

    name: str
    image: ImageArray
    maps: tuple[tuple[str, PanopticMap, CategoryTable], ...]


class GroundTruth:
    """The images of a data set with their annotation."""

    has_pairs = False
    note = ""

    def __init__(self, data: CocoPanoptic, palette: Palette = "standard") -> None:
        self.data = data
        (self._categories,) = with_colors(data.categories, palette=palette)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> AnnotatedImage:
        sample = self.data[index]
        truth = ("ground truth", sample.annotation, self._categories)
        return AnnotatedImage(sample.file_name, sample.image, (truth,))


class Predictions:
    """The images of a panoptic JSON with their predicted maps, and with the ground truth if a data set is given.

    Attributes:
        note: `Pairing.note`, to be reported.

    Raises:
        DataError: The JSON has no images, PNGs are missing, an image is not in the data set, or an image and its
            prediction differ in size.
    """

    def __init__(
        self, predictions: Path, images: Path | None, data: CocoPanoptic | None, palette: Palette = "standard"
    ) -> None:
        """Open the JSON. Its images are in the folder `images` or in `data`."""
        self.saved = read_annotation(predictions)
        if not self.saved.images:
            raise DataError(f"{predictions} has no predictions; expected at least one annotated image")
        self.pngs = predictions.with_suffix("")
        if not self.pngs.is_dir():
            raise DataError(
                f"the folder of panoptic PNGs {self.pngs} is missing; expected it beside {predictions.name}"
            )
        self.images = images
        self.data = data
        self.has_pairs = data is not None
        self._base_names = Counter(PurePosixPath(info.file_name).name for info in self.saved.images)
        pairing = pair_images(self.saved, data.listed) if data else Pairing(())
        self._positions, self.note = pairing.positions, pairing.note
        tables = (data.categories, self.saved.categories) if data else (self.saved.categories,)
        self._tables = with_colors(*tables, palette=palette)

    def __len__(self) -> int:
        return len(self.saved.images)

    def __getitem__(self, index: int) -> AnnotatedImage:
        panoptic, name = self._map(index), self.saved.images[index].file_name
        predicted = ("prediction", panoptic, self._tables[-1])
        if self.data is None:
            annotated = AnnotatedImage(name, read_image(self._image_path(name)), (predicted,))
        else:
            sample = self.data[self._positions[index]]
            truth = ("ground truth", sample.annotation, self._tables[0])
            annotated = AnnotatedImage(name, sample.image, (truth, predicted))
        if annotated.image.shape[:2] != panoptic.ids.shape:
            raise DataError(
                f"the prediction for {name} in {self.pngs} has the size {panoptic.ids.shape} and its image "
                f"{annotated.image.shape[:2]} (height, width); expected the image that was predicted"
            )
        return annotated

    def _map(self, index: int) -> PanopticMap:
        path = name_inside(self.pngs, self.saved.images[index].png_name, str(self.saved.path))
        return PanopticMap(read_panoptic_png(path), self.saved.segments(index))

    def _image_path(self, name: str) -> Path:
        assert self.images is not None, "without a data set the images are in a folder"
        where = str(self.saved.path)
        path = name_inside(self.images, name, where)
        is_unique = self._base_names[path.name] == 1  # otherwise another image would be drawn
        return predicted_image(self.images, name, where) if is_unique else path
