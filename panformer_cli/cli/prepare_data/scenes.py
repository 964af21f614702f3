"""`panformer prepare-data scenes`."""

from __future__ import annotations

from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any

import click

SCENE_HELP = {
    "train_images": "Images to train on.",
    "val_images": "Images held out.",
    "height": "Height of an image, pixels.",
    "width": "Width of an image, pixels.",
    "seed": "Equal seeds give equal scenes.",
    "image_format": "jpg or png.",
    "min_objects": "Fewest objects tried in an image.",
    "max_objects": "Most objects tried in an image.",
    "smallest_object": "Diameter, share of the short side.",
    "largest_object": "Diameter, share of the short side.",
    "min_visible_pixels": "Least that shows of an object, pixels.",
    "min_visible_share": "Least that shows of an object, share of it.",
    "min_stuff": "Fewest textured regions in an image.",
    "max_stuff": "Most textured regions in an image.",
    "hue_spread": "How far an object's hue strays from its class's, degrees.",
    "void_probability": "How often a region is not annotated.",
    "crowd_probability": "How often there is a crowd segment.",
    "min_crowd": "Fewest objects in a crowd.",
    "max_crowd": "Most objects in a crowd.",
}


class SceneCommand(click.Command):
    """A command with an option for every field of `SceneOptions`.

    They are made when they are needed, because that class imports NumPy, and `panformer prepare-data --help` should not
    wait for it.
    """

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """As click's, with the options of the scenes before `--help`."""
        *own, help_option = super().get_params(ctx)
        return [*own, *self._scene_options, help_option]

    @cached_property
    def _scene_options(self) -> list[click.Option]:
        from panformer_cli.data.scenes.options import SceneOptions

        return [
            click.Option(
                [f"--{field.name.replace('_', '-')}"],
                type=type(field.default),
                default=field.default,
                show_default=True,
                help=SCENE_HELP[field.name],
            )
            for field in fields(SceneOptions)
        ]


@click.command(cls=SceneCommand)
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Folder of the data set.")
def scenes(out: Path, **settings: Any) -> None:
    """Write a data set of generated scenes.

    It has the splits `train` and `val`. Equal options give equal scenes.

    \b
    panformer prepare-data scenes --out data/scenes
    """
    from panformer_cli.console import RichReporter
    from panformer_cli.data.scenes.generator import write_scenes
    from panformer_cli.data.scenes.options import SceneOptions

    write_scenes(out, SceneOptions(**settings), RichReporter())
    click.echo(f"Next: panformer train tiny --set data.root={out}")
