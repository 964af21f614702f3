"""`panformer prepare-data scenes`."""

from __future__ import annotations

from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any

import click

from panformer_cli.cli.options import hint, json_option
from panformer_cli.cli.prepare_data.options import print_json

SCENE_HELP = {
    "train_images": "Number of training images.",
    "val_images": "Number of validation images.",
    "height": "Image height in pixels.",
    "width": "Image width in pixels.",
    "seed": "Random seed. The same seed gives the same scenes.",
    "image_format": "Image format: jpg or png.",
    "min_objects": "Minimum number of objects to place per image.",
    "max_objects": "Maximum number of objects to place per image.",
    "smallest_object": "Minimum object diameter, as a fraction of the short side.",
    "largest_object": "Maximum object diameter, as a fraction of the short side.",
    "min_visible_pixels": "Minimum visible area of an object in pixels.",
    "min_visible_share": "Minimum visible fraction of an object.",
    "min_stuff": "Minimum number of textured regions per image.",
    "max_stuff": "Maximum number of textured regions per image.",
    "hue_spread": "Standard deviation of object hues within a class, in degrees.",
    "void_probability": "Probability that a region is not annotated.",
    "crowd_probability": "Probability that an image has a crowd segment.",
    "min_crowd": "Minimum number of objects in a crowd.",
    "max_crowd": "Maximum number of objects in a crowd.",
}


class SceneCommand(click.Command):
    """A command with one option per field of `SceneOptions`.

    The options are created lazily because `SceneOptions` imports NumPy, which would slow down `panformer prepare-data
    --help`.
    """

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return click's parameters with the scene options inserted before `--help`."""
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
@click.option("--out", "-o", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Output folder.")
@json_option
def scenes(out: Path, as_json: bool, **settings: Any) -> None:
    """Generate a synthetic data set.

    It has the splits `train` and `val`. The same options give the same images.

    \b
    panformer prepare-data scenes --out data/scenes
    """
    from panformer_cli.console import RichReporter
    from panformer_cli.data.scenes.generator import write_scenes
    from panformer_cli.data.scenes.options import SceneOptions

    options = SceneOptions(**settings)
    write_scenes(out, options, RichReporter())
    if as_json:
        splits = {"train": {"images": options.train_images}, "val": {"images": options.val_images}}
        print_json({"out": str(out), "splits": splits})
        return
    hint(f"Next: panformer train tiny --set data.root={out}")
