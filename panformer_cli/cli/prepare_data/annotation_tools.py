"""`panformer prepare-data labelme`, `yolo` and `cvat`: what people draw with annotation tools."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from panformer_cli.cli.prepare_data.options import Conversion, conversion_options, overlap_option, run_conversion

if TYPE_CHECKING:
    from panformer_cli.prepare.overlap import OverlapRule

Command = TypeVar("Command", bound=Callable[..., Any])


def _class_options(classes_default: str) -> Callable[[Command], Command]:
    """`--classes`, `--stuff` and `--overlap`, with what is taken where `--classes` is not given."""

    def decorate(command: Command) -> Command:
        classes_option = click.option(
            "--classes",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help=f"CSV or YAML of the classes [{classes_default}].",
        )
        stuff_option = click.option(
            "--stuff", multiple=True, metavar="NAME", help="A class that is stuff, not things; may be repeated."
        )
        return classes_option(stuff_option(overlap_option(command)))

    return decorate


@click.command()
@_class_options("all labels that are drawn")
@conversion_options
def labelme(root: Path, classes: Path | None, stuff: tuple[str, ...], overlap: OverlapRule, **conversion: Any) -> None:
    """Convert the JSON files of labelme in the folder DIR.

    The folders train, val and test are the splits; without such folders all files are the split `train`. Classes are
    things unless --stuff or the class file says otherwise; what is labelled __ignore__ or _background_ becomes void.

    \b
    panformer prepare-data labelme --root photos --out data/mine --stuff sky --stuff road
    """
    from panformer_cli.prepare.annotation_tools.labelme import open_labelme

    run_conversion(open_labelme(root, classes, stuff, overlap), Conversion(**conversion))


@click.command()
@_class_options("data.yaml in DIR")
@conversion_options
def yolo(root: Path, classes: Path | None, stuff: tuple[str, ...], overlap: OverlapRule, **conversion: Any) -> None:
    """Convert the YOLO segmentation data set in the folder DIR.

    Pictures and text files lie in images/<split> and labels/<split>, or in <split>/images and <split>/labels. A picture
    without a text file has no object.

    \b
    panformer prepare-data yolo --root data/coco8-seg --out data/mine
    panformer prepare-data yolo --root data/set --classes data/set/my.yaml --out data/mine
    """
    from panformer_cli.prepare.annotation_tools.yolo import open_yolo

    run_conversion(open_yolo(root, classes, stuff, overlap), Conversion(**conversion))


@click.command()
@_class_options("the labels of the task")
@conversion_options
def cvat(root: Path, classes: Path | None, stuff: tuple[str, ...], overlap: OverlapRule, **conversion: Any) -> None:
    """Convert an export `CVAT for images 1.1`, unpacked.

    DIR holds annotations.xml and images/. The subsets of a project are the splits; a task is the split `train`. Shapes
    with a greater z_order lie above the others.

    \b
    panformer prepare-data cvat --root export --out data/mine --stuff road
    """
    from panformer_cli.prepare.annotation_tools.cvat import open_cvat

    run_conversion(open_cvat(root, classes, stuff, overlap), Conversion(**conversion))
