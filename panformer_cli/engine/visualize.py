"""Show ground truth, predictions on disk and training curves on an HTML page."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.coco.panoptic_png import expect_reads
from panformer_cli.data.layout import default_split
from panformer_cli.data.result_folders import PANOPTIC
from panformer_cli.engine.annotated_images import AnnotatedImage, GroundTruth, Predictions
from panformer_cli.engine.curves import curves, read_metrics
from panformer_cli.engine.gallery import shown_maps
from panformer_cli.engine.results import METRICS
from panformer_cli.engine.runs import RunFolder
from panformer_cli.errors import DataError, PanformerError
from panformer_cli.metrics.quality import shown
from panformer_cli.pages.base import Table, end_of_path
from panformer_cli.pages.gallery.images import GalleryImage, write_image
from panformer_cli.pages.gallery.page import GalleryPage, write_gallery
from panformer_cli.pages.replacing import replaced_page
from panformer_cli.reporting import Reporter
from panformer_cli.settings import DataSettings
from panformer_cli.storage.files import name_inside
from panformer_cli.storage.plain_json import parse as parse_json
from panformer_cli.visualization.colors import Palette
from panformer_cli.visualization.drawing import DrawOptions, draw_panoptic, save_image, side_by_side


@dataclass(frozen=True)
class VisualizeRequest:
    """What to draw, and where to write it.

    At least one of `data_root`, `predictions` and `run` must be given. Predictions need images, from the data set or
    from the folder `images`.
    """

    out: Path
    """Folder for index.html with its images, and overlays/."""
    data_root: Path | None = None
    """A data set in COCO's layout, whose ground truth is drawn."""
    split: str | None = None
    """None for `default_split`."""
    predictions: Path | None = None
    """A panoptic JSON from `evaluate` or `predict`, with its PNGs in a folder of the same name beside it."""
    images: Path | None = None
    """The folder of the predicted images."""
    run: Path | None = None
    """The folder of a training run, or its metrics.jsonl."""
    limit: int | None = None
    """Draw at most this many images."""
    draw: DrawOptions = field(default_factory=DrawOptions)
    palette: Palette = "standard"
    """Colors of the categories."""

    def __post_init__(self) -> None:
        if self.data_root is None and self.predictions is None and self.run is None:
            raise PanformerError(
                "nothing to draw; give a data set, predictions or a run (--data, --predictions, --run)"
            )
        if self.predictions is not None and (self.data_root is None) == (self.images is None):
            raise PanformerError(
                f"{self.predictions} needs its images from a data set or from a folder; give one of --data and --images"
            )
        if self.predictions is None and self.images is not None:
            raise PanformerError(f"--images {self.images} needs predictions to draw; add --predictions")
        if self.limit is not None and self.limit < 1:
            raise PanformerError(f"the limit is {self.limit} images; expected 1 or more")


@dataclass(frozen=True)
class VisualizeResult:
    """The files that were written."""

    page: Path
    overlays: tuple[Path, ...]


def checkpoint_of(request: VisualizeRequest) -> str | None:
    """Return the path of the checkpoint whose predictions or run are drawn; None if it is unknown."""
    if request.predictions is not None:
        metrics = _read_metrics(request.predictions)
        return str(metrics["checkpoint"]) if metrics and "checkpoint" in metrics else None
    if request.run is not None:
        found = RunFolder(request.run).checkpoint
        return str(found) if found else None
    return None


def visualize(request: VisualizeRequest, reporter: Reporter) -> VisualizeResult:
    """Draw the requested images to `out/overlays/<name>.jpg`, and write `out/index.html`.

    They replace an earlier page in `out` and its images as a whole.

    Raises:
        PanformerError: An input is missing or corrupt, `out` has results of another command, or a file cannot be
            written.
    """
    if (request.out / PANOPTIC).exists():
        raise PanformerError(f"--out {request.out} has predictions, and their overlays; choose another folder")
    with replaced_page(request.out) as folder:
        result = _visualize(replace(request, out=folder), reporter)
        moved = tuple(request.out / path.relative_to(folder) for path in (result.page, *result.overlays))
    return VisualizeResult(moved[0], moved[1:])


def _visualize(request: VisualizeRequest, reporter: Reporter) -> VisualizeResult:
    if request.data_root is not None and request.split is None:
        request = replace(request, split=default_split(request.data_root, DataSettings().val_split))
    tables = _evaluation_tables(request.predictions) if request.predictions else []
    charts = curves(read_metrics(_metrics_path(request.run))) if request.run else []
    images = _open_images(request)
    if images is not None and images.note:
        reporter.message(images.note)
    drawn = _draw_all(images, request, reporter) if images is not None else []
    page = GalleryPage(
        "panformer visualize",
        _facts(request),
        tables,
        charts,
        drawn,
        has_pairs=images is not None and images.has_pairs,
        hidden_layers=("errors",) if request.draw.labels else ("errors", "labels"),
    )
    path = request.out / "index.html"
    write_gallery(path, page)
    return VisualizeResult(path, tuple(request.out / image.drawing for image in drawn))


def _open_images(request: VisualizeRequest) -> GroundTruth | Predictions | None:
    data = CocoPanoptic(request.data_root, request.split) if request.data_root and request.split else None
    if request.predictions is not None:
        return Predictions(request.predictions, request.images, data, request.palette)
    return GroundTruth(data, request.palette) if data is not None else None


def _draw_all(images: GroundTruth | Predictions, request: VisualizeRequest, reporter: Reporter) -> list[GalleryImage]:
    drawn: list[GalleryImage] = []
    taken: set[Path] = set()
    total = min(len(images), request.limit or len(images))
    expect_reads(2 * total if images.has_pairs else total)
    with reporter.progress("Drawing", total) as progress:
        for number, annotated in enumerate(map(images.__getitem__, range(total))):
            path = _free_path(request.out, annotated.name, taken)
            _draw(annotated, path, request.draw)
            shown = write_image(request.out, f"{number:06}", annotated.name, annotated.image, shown_maps(annotated))
            drawn.append(replace(shown, drawing=path.relative_to(request.out).as_posix()))
            progress.advance(status=annotated.name)
    return drawn


def _draw(annotated: AnnotatedImage, path: Path, options: DrawOptions) -> None:
    """Write the overlay of an image, or those of a pair side by side."""
    overlays = [draw_panoptic(annotated.image, panoptic, table, options) for _, panoptic, table in annotated.maps]
    captions = [caption for caption, _, _ in annotated.maps]
    save_image(path, side_by_side(overlays, captions) if len(overlays) > 1 else overlays[0])


def _free_path(out: Path, name: str, taken: set[Path]) -> Path:
    """Return `out/overlays/<name>.jpg`, with a number if that name is already taken."""
    first = name_inside(out / "overlays", name, "the list of images").with_suffix(".jpg")
    path, number = first, 1
    while path in taken:
        number += 1
        path = first.with_stem(f"{first.stem}_{number}")
    taken.add(path)
    return path


def _evaluation_tables(predictions: Path) -> list[Table]:
    """Return tables of the metrics.json beside the predictions; none if the file is missing."""
    metrics = _read_metrics(predictions)
    return _quality_tables(metrics["panoptic"]) if metrics else []


def _read_metrics(predictions: Path) -> dict[str, Any] | None:
    """Return the content of the metrics.json beside the predictions; None if the file is missing."""
    path = predictions.with_name(METRICS)
    if not path.is_file():
        return None
    try:
        content: dict[str, Any] = parse_json(path.read_text(encoding="utf-8"))
        _quality_tables(content["panoptic"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is not a metrics.json of `panformer evaluate` ({error!r}); move it away") from error
    return content


def _quality_tables(panoptic: dict[str, Any]) -> list[Table]:
    groups = [(name, shown(dict(panoptic[name]))) for name in ("all", "things", "stuff")]
    quality = [(name, row["pq"], row["sq"], row["rq"], row["n"]) for name, row in groups]
    classes = [
        (row["name"], "thing" if row["is_thing"] else "stuff", row["pq"], row["sq"], row["rq"])
        for row in panoptic["per_class"].values()
    ]
    return [
        Table("Mean over classes", ("Group", "PQ", "SQ", "RQ", "Classes"), quality),
        Table("Classes", ("Class", "Type", "PQ", "SQ", "RQ"), classes),
    ]


def _metrics_path(run: Path) -> Path:
    return run / "metrics.jsonl" if run.is_dir() else run


def _facts(request: VisualizeRequest) -> list[tuple[str, str]]:
    """Return what is drawn, without the folders above, which mean nothing to others who see the page."""
    data = f"{end_of_path(request.data_root.absolute())}, {request.split}" if request.data_root else None
    predictions, run = (path and end_of_path(path.absolute()) for path in (request.predictions, request.run))
    return [(name, text) for name, text in (("Data set", data), ("Predictions", predictions), ("Run", run)) if text]
