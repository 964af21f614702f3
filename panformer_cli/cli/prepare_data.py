"""`panformer prepare-data`: one subcommand for each source of data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from panformer_cli.cli import SuggestingGroup

# Field, default and help of every `SceneOptions` field: stated again here because that class imports NumPy, which
# `--help` should not wait for; a test holds the two equal.
SCENE_OPTIONS: tuple[tuple[str, int | float | str, str], ...] = (
    ("train_images", 2000, "Images to train on."),
    ("val_images", 100, "Images held out."),
    ("height", 128, "Height of an image, pixels."),
    ("width", 128, "Width of an image, pixels."),
    ("seed", 0, "Equal seeds give equal scenes."),
    ("image_format", "jpg", "jpg or png."),
    ("min_objects", 2, "Fewest objects tried in an image."),
    ("max_objects", 7, "Most objects tried in an image."),
    ("smallest_object", 0.1, "Diameter, share of the short side."),
    ("largest_object", 0.55, "Diameter, share of the short side."),
    ("min_visible_pixels", 40, "Least that shows of an object, pixels."),
    ("min_visible_share", 0.25, "Least that shows of an object, share of it."),
    ("min_stuff", 2, "Fewest textured regions in an image."),
    ("max_stuff", 4, "Most textured regions in an image."),
    ("hue_spread", 35.0, "How far an object's hue strays from its class's, degrees."),
    ("void_probability", 0.35, "How often a region is not annotated."),
    ("crowd_probability", 0.15, "How often there is a crowd segment."),
    ("min_crowd", 8, "Fewest objects in a crowd."),
    ("max_crowd", 14, "Most objects in a crowd."),
)


def _scene_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for name, default, text in reversed(SCENE_OPTIONS):
        flag = f"--{name.replace('_', '-')}"
        function = click.option(flag, type=type(default), default=default, show_default=True, help=text)(function)
    return function


@click.group(cls=SuggestingGroup)
def prepare_data() -> None:
    """Bring a data set into the form that panformer reads."""


@prepare_data.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Folder of the data set.")
@_scene_options
def scenes(out: Path, **settings: Any) -> None:
    """Write a data set of generated scenes to DIR, with the splits `train` and `val`.

    \b
    panformer prepare-data scenes --out data/scenes
    """
    from panformer_cli.console import RichReporter
    from panformer_cli.data.scene_options import SceneOptions
    from panformer_cli.data.scenes import write_scenes

    write_scenes(out, SceneOptions(**settings), RichReporter())
    click.echo(f"Next: panformer train tiny --set data.root={out}")


@prepare_data.command()
@click.option("--root", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Folder of COCO.")
@click.option("--split", "splits", multiple=True, metavar="S", help="Only this split; may be repeated [all].")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder of the JSON [beside the panoptic one]."
)
def coco(root: Path, splits: tuple[str, ...], out: Path | None) -> None:
    """Check the COCO folder DIR, unpack its zips, and write panoptic_<split>_detection_format.json.

    docs/data.md shows the layouts that are understood.

    \b
    panformer prepare-data coco --root /data/coco
    """
    from panformer_cli.console import RichReporter, print_table
    from panformer_cli.data.prepare.coco import prepare_coco

    summaries = prepare_coco(root, splits or None, RichReporter(), out)
    columns = ("split", "images", "segments", "things", "stuff", "crowd", "void %", "written")
    rows = [
        (s.split, s.images, s.segments, s.things, s.stuff, s.crowd, 100 * s.void_share, str(s.written))
        for s in summaries
    ]
    print_table(f"COCO in {root}", columns, rows)
