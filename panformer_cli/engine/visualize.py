"""Pictures of a data set's ground truth and of saved predictions, and a run's curves, on one HTML page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco_panoptic import CocoPanoptic
from panformer_cli.data.images import read_image
from panformer_cli.data.panoptic_annotation import PanopticAnnotation
from panformer_cli.data.panoptic_json import read_annotation
from panformer_cli.data.panoptic_png import read_panoptic_png
from panformer_cli.data.structures import ImageArray, PanopticMap
from panformer_cli.engine.curves import curves, read_metrics
from panformer_cli.errors import DataError, PanformerError
from panformer_cli.files import name_inside
from panformer_cli.panoptic.drawing import DrawOptions, category_colors, draw_panoptic, save_picture, side_by_side
from panformer_cli.panoptic.page import Gallery, Legend, LegendEntry, Picture, Section, Table, Text, write_page
from panformer_cli.plain_json import parse as parse_json
from panformer_cli.reporting import Reporter


@dataclass(frozen=True)
class VisualizeRequest:
    """What to draw, and where to.

    At least one of `data_root`, `predictions` and `run` is given. Predictions need images: those of the data set, or
    of the folder `images`.
    """

    out: Path
    """Gets index.html and overlays/."""
    data_root: Path | None = None
    """A data set in COCO's layout; its ground truth is drawn."""
    split: str = "val2017"
    predictions: Path | None = None
    """A panoptic JSON as `evaluate` and `predict` write it, with its PNGs in a folder of the same name beside it."""
    images: Path | None = None
    """The folder of the images that were predicted on."""
    run: Path | None = None
    """A folder of `train`, or its metrics.jsonl."""
    limit: int | None = None
    """Draw at most this many images."""
    draw: DrawOptions = field(default_factory=DrawOptions)

    def __post_init__(self) -> None:
        if self.data_root is None and self.predictions is None and self.run is None:
            raise PanformerError(
                "nothing to draw: give a data set, predictions or a run (--data, --predictions, --run)"
            )
        if self.predictions is not None and (self.data_root is None) == (self.images is None):
            raise PanformerError(
                f"the images of {self.predictions} are in a data set or in a folder: give one of --data and --images"
            )
        if self.predictions is None and self.images is not None:
            raise PanformerError(f"{self.images} is given without predictions to draw on its images: add --predictions")
        if self.limit is not None and self.limit < 1:
            raise PanformerError(f"the limit is {self.limit} images: expected 1 or more")


@dataclass(frozen=True)
class VisualizeResult:
    """What was written."""

    page: Path
    pictures: tuple[Path, ...]


@dataclass(frozen=True)
class _Scene:
    """One image with the maps to draw over it: captions and maps, with the table that their categories are from."""

    name: str
    image: ImageArray
    maps: tuple[tuple[str, PanopticMap, CategoryTable], ...]


def visualize(request: VisualizeRequest, reporter: Reporter) -> VisualizeResult:
    """Draw what is asked for to `out/overlays/<name>.jpg` and `out/index.html`.

    Raises:
        PanformerError: an input is missing or damaged, or something cannot be written.
    """
    sections: list[Section] = _figures(request.predictions) if request.predictions else []
    sections += list(curves(read_metrics(_metrics(request.run)))) if request.run else []
    paths: list[Path] = []
    if request.data_root is not None or request.predictions is not None:
        source = _Predictions(request) if request.predictions is not None else _GroundTruth(request)
        pictures, legend = _draw_all(source, request, reporter)
        sections += [legend, Gallery(pictures, "Images", column_width=680 if source.is_pair else 380)]
        paths = [request.out / picture.path for picture in pictures]
    page = request.out / "index.html"
    write_page(page, "panformer visualize", Text(_subject(request)), *sections)
    return VisualizeResult(page, tuple(paths))


class _GroundTruth:
    """The images of a data set with their annotation."""

    is_pair = False

    def __init__(self, request: VisualizeRequest) -> None:
        assert request.data_root is not None
        self.data = CocoPanoptic(request.data_root, request.split)
        self.total = min(len(self.data), request.limit or len(self.data))

    def __iter__(self) -> Iterator[_Scene]:
        for index in range(self.total):
            sample = self.data[index]
            yield _Scene(sample.file_name, sample.image, (("ground truth", sample.annotation, self.data.categories),))


class _Predictions:
    """The images of a panoptic JSON with their predicted maps, and with the ground truth where a data set is given."""

    def __init__(self, request: VisualizeRequest) -> None:
        assert request.predictions is not None
        self.saved = read_annotation(request.predictions)
        if not self.saved.images:
            raise DataError(f"{request.predictions} holds no prediction; expected at least one annotated image")
        self.pngs = _png_folder(request.predictions)
        self.images = request.images
        self.data = CocoPanoptic(request.data_root, request.split) if request.data_root is not None else None
        self.is_pair = self.data is not None
        self.total = min(len(self.saved.images), request.limit or len(self.saved.images))
        self._index_of_name = {
            _stem(self.data.image_info(index).file_name): index for index in range(len(self.data or ())) if self.data
        }

    def __iter__(self) -> Iterator[_Scene]:
        for index in range(self.total):
            predicted = ("prediction", _saved_map(self.saved, index, self.pngs), self.saved.categories)
            name = self.saved.images[index].file_name
            if self.data is None:
                scene = _Scene(name, read_image(self._image_path(name)), (predicted,))
            else:
                sample = self.data[self._index_in_data(name)]
                scene = _Scene(
                    name, sample.image, (("ground truth", sample.annotation, self.data.categories), predicted)
                )
            if scene.image.shape[:2] != predicted[1].ids.shape:
                raise DataError(
                    f"the prediction for {name} in {self.pngs} is {predicted[1].ids.shape} and its image "
                    f"{scene.image.shape[:2]} (height, width): expected the image that was predicted on"
                )
            yield scene

    def _image_path(self, name: str) -> Path:
        assert self.images is not None
        path = name_inside(self.images, name, str(self.saved.path))
        return path if path.exists() else self.images / path.name

    def _index_in_data(self, name: str) -> int:
        assert self.data is not None
        if _stem(name) not in self._index_of_name:
            raise DataError(
                f"{self.saved.path} predicts on {name}, which {self.data.layout.annotation} does not list: "
                "give the data set and split that were predicted on, or a folder of images"
            )
        return self._index_of_name[_stem(name)]


def _draw_all(
    source: _GroundTruth | _Predictions, request: VisualizeRequest, reporter: Reporter
) -> tuple[list[Picture], Legend]:
    pictures: list[Picture] = []
    seen: Counter[tuple[str, tuple[int, int, int]]] = Counter()
    taken: set[Path] = set()
    with reporter.progress("draw", source.total) as progress:
        for scene in source:
            drawn = [draw_panoptic(scene.image, panoptic, table, request.draw) for _, panoptic, table in scene.maps]
            picture = side_by_side(drawn, [caption for caption, _, _ in scene.maps]) if len(drawn) > 1 else drawn[0]
            path = _free_path(request.out, scene.name, taken)
            save_picture(path, picture)
            counts = ", ".join(f"{caption}: {_segments(panoptic)}" for caption, panoptic, _ in scene.maps)
            relative = path.relative_to(request.out).as_posix()
            pictures.append(Picture(relative, scene.name, counts, (picture.shape[0], picture.shape[1])))
            for _, panoptic, table in scene.maps:
                seen.update(_entries(panoptic, table))
            progress.advance(status=scene.name)
    entries = [LegendEntry(name, color, str(count)) for (name, color), count in seen.most_common()]
    return pictures, Legend(entries, "Categories, with their segments in these images")


def _entries(panoptic: PanopticMap, table: CategoryTable) -> list[tuple[str, tuple[int, int, int]]]:
    """Name and colour of the category of every segment."""
    colors = category_colors(table)
    labels = [table.label(segment.category_id) for segment in panoptic.segments]
    rgb = [(int(red), int(green), int(blue)) for red, green, blue in colors[labels]]
    return [(table.by_label(label).name, color) for label, color in zip(labels, rgb, strict=True)]


def _saved_map(saved: PanopticAnnotation, index: int, pngs: Path) -> PanopticMap:
    path = name_inside(pngs, saved.images[index].png_name, str(saved.path))
    return PanopticMap(read_panoptic_png(path), saved.segments(index))


def _png_folder(predictions: Path) -> Path:
    folder = predictions.with_suffix("")
    if not folder.is_dir():
        raise DataError(f"the folder of panoptic PNGs {folder} is missing; expected it beside {predictions.name}")
    return folder


def _free_path(out: Path, name: str, taken: set[Path]) -> Path:
    """`out/overlays/<name>.jpg`, with a number where another image of this call has that name."""
    wanted = name_inside(out / "overlays", name, "the list of images").with_suffix(".jpg")
    path, number = wanted, 1
    while path in taken:
        number += 1
        path = wanted.with_stem(f"{wanted.stem}_{number}")
    taken.add(path)
    return path


def _figures(predictions: Path) -> list[Section]:
    """Tables of the metrics.json that `evaluate` leaves beside its predictions; none for those of `predict`."""
    path = predictions.with_name("metrics.json")
    if not path.is_file():
        return []
    try:
        panoptic = parse_json(path.read_text(encoding="utf-8"))["panoptic"]
        return _tables(panoptic)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no metrics.json of `panformer evaluate` ({error!r}); move it away") from error


def _tables(panoptic: dict[str, Any]) -> list[Section]:
    groups = [(name, panoptic[name]) for name in ("all", "things", "stuff")]
    quality = [(name, row["pq"], row["sq"], row["rq"], row["n"]) for name, row in groups]
    classes = [
        (row["name"], "thing" if row["is_thing"] else "stuff", row["pq"], row["sq"], row["rq"])
        for row in panoptic["per_class"].values()
    ]
    return [
        Table(("", "PQ", "SQ", "RQ", "classes"), quality, "Panoptic quality, percent"),
        Table(("class", "kind", "PQ", "SQ", "RQ"), classes, "Per class"),
    ]


def _metrics(run: Path) -> Path:
    return run / "metrics.jsonl" if run.is_dir() else run


def _stem(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix()


def _segments(panoptic: PanopticMap) -> str:
    count = len(panoptic.segments)
    return f"{count} segment{'' if count == 1 else 's'}"


def _subject(request: VisualizeRequest) -> str:
    lines: Sequence[tuple[str, object]] = (
        ("Data set", f"{request.data_root}, {request.split}" if request.data_root else None),
        ("Predictions", request.predictions),
        ("Run", request.run),
    )
    return "\n".join(f"{what}: {value}" for what, value in lines if value)
