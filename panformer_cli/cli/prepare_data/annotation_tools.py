"""`panformer prepare-data labelme`, `yolo` and `cvat`: exports of annotation tools."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from panformer_cli.cli.prepare_data.options import (
    Conversion,
    annotation_options,
    conversion_options,
    encoding_option,
    overlap_option,
    run_conversion,
    stuff_option,
)

if TYPE_CHECKING:
    from panformer_cli.prepare.overlap import OverlapRule

Command = TypeVar("Command", bound=Callable[..., Any])


def _class_options(classes_default: str) -> Callable[[Command], Command]:
    """Return a decorator that adds `--classes`, `--stuff`, `--overlap` and `--encoding`.

    Args:
        classes_default: The default of `--classes`, in words.
    """

    def decorate(command: Command) -> Command:
        classes_option = click.option(
            "--classes",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help=f"CSV, YAML or text file with the classes. [default: {classes_default}]",
        )
        return classes_option(stuff_option(overlap_option(encoding_option(command))))

    return decorate


@click.command()
@_class_options("all labels in use")
@annotation_options
@conversion_options
def labelme(
    root: Path,
    classes: Path | None,
    stuff: tuple[str, ...],
    overlap: OverlapRule,
    encoding: str | None,
    **conversion: Any,
) -> None:
    """Convert labelme JSON files in the folder DIR.

    The folders train, val and test are the splits. Without them, all files form the split `train`. Classes are things
    unless --stuff or the class file says otherwise. Shapes labeled __ignore__ or _background_ become void.

    \b
    panformer prepare-data labelme --root photos --out data/mine --stuff sky --stuff road
    """
    from panformer_cli.prepare.annotation_tools.labelme import open_labelme

    run_conversion(open_labelme(root, classes, stuff, overlap, encoding), Conversion(**conversion))


@click.command()
@_class_options("data.yaml in DIR, or its classes.txt")
@click.option("--accept-oriented-boxes", is_flag=True, help="Use oriented boxes (OBB) as the masks of their objects.")
@annotation_options
@conversion_options
def yolo(
    root: Path,
    classes: Path | None,
    stuff: tuple[str, ...],
    overlap: OverlapRule,
    encoding: str | None,
    accept_oriented_boxes: bool,
    **conversion: Any,
) -> None:
    """Convert a YOLO segmentation data set in the folder DIR.

    The splits are those of data.yaml, or the folders images/<split> and labels/<split>, or <split>/images and
    <split>/labels. A data set without splits becomes the split `train`. An image without a text file has no objects.

    \b
    panformer prepare-data yolo --root data/coco8-seg --out data/mine
    panformer prepare-data yolo --root data/set --classes data/set/my.yaml --out data/mine
    """
    from panformer_cli.prepare.annotation_tools.yolo import open_yolo

    source = open_yolo(root, classes, stuff, overlap, accept_oriented_boxes, encoding)
    run_conversion(source, Conversion(**conversion))


@click.command()
@_class_options("the task's labels")
@annotation_options
@conversion_options
def cvat(
    root: Path,
    classes: Path | None,
    stuff: tuple[str, ...],
    overlap: OverlapRule,
    encoding: str | None,
    **conversion: Any,
) -> None:
    """Convert an unpacked CVAT export, for images or video.

    The format is `CVAT for images 1.1`, `CVAT for video 1.1` or `Segmentation mask 1.1`. DIR contains annotations.xml
    and images/, or labelmap.txt. Subsets are the splits. Images without a subset become the split `train`. Shapes with
    a higher z_order are drawn on top.

    \b
    panformer prepare-data cvat --root export --out data/mine --stuff road
    """
    from panformer_cli.prepare.annotation_tools.cvat import open_cvat_export

    run_conversion(open_cvat_export(root, classes, stuff, overlap, encoding), Conversion(**conversion))
