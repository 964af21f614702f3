"""`panformer prepare-data`: one subcommand for each source of data."""

from __future__ import annotations

import json
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from panformer_cli.cli import SuggestingGroup
from panformer_cli.cli.prepare_coco import coco, custom
from panformer_cli.cli.prepare_masks import coco_instances, masks, png_pairs
from panformer_cli.cli.prepare_options import splits_option, workers_option
from panformer_cli.cli.prepare_sets import merge, remap, split, subset
from panformer_cli.cli.prepare_street import ade20k, cityscapes, mapillary
from panformer_cli.cli.prepare_tools import cvat, labelme, yolo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from panformer_cli.data.verify.check import SplitReport

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
        from panformer_cli.data.scene_options import SceneOptions

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
    from panformer_cli.data.scene_options import SceneOptions
    from panformer_cli.data.scenes import write_scenes

    write_scenes(out, SceneOptions(**settings), RichReporter())
    click.echo(f"Next: panformer train tiny --set data.root={out}")


@click.command()
@click.argument("root", type=click.Path(path_type=Path))
@splits_option
@click.option("--fix", is_flag=True, help="Repair what has one right answer; the old JSON is kept.")
@click.option("--decode-images", is_flag=True, help="Decode the images too, not only their headers.")
@workers_option
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def verify(
    root: Path, splits: tuple[str, ...], fix: bool, decode_images: bool, workers: int | None, as_json: bool
) -> int:
    """Find what is wrong in a data set, and repair it.

    Every image, PNG and annotation of the folder ROOT is checked. docs/data.md lists what is checked and what --fix
    repairs. The exit code is 1 where an error is left; warnings do not count.

    \b
    panformer prepare-data verify /data/coco
    panformer prepare-data verify data/mine --split val --fix
    """
    from panformer_cli.console import RichReporter
    from panformer_cli.data.parallel import available_cores
    from panformer_cli.data.verify.check import VerifyOptions
    from panformer_cli.data.verify.check import verify as check

    options = VerifyOptions(workers or available_cores(), decode_images, fix)
    reports = check(root, splits, options, RichReporter())
    if as_json:
        click.echo(json.dumps({"root": str(root), "splits": [report.to_json() for report in reports]}, indent=2))
    else:
        _print_findings(root, reports)
    return 0 if all(report.is_good for report in reports) else 1


def _print_findings(root: Path, reports: Sequence[SplitReport]) -> None:
    """A table of what was found, the first examples of it, and what became of it."""
    from panformer_cli.console import print_table

    found = [(report, problem) for report in reports for problem in report.problems]
    if found:
        columns = ("split", "severity", "count", "can be fixed", "problem")
        rows = [(r.split, p.problem.severity, p.count, p.fixable, p.problem.value) for r, p in found]
        print_table(f"Findings in {root}", columns, rows)
        for _, problem in found:
            click.echo(f"{problem.problem.value}:")
            for sentence in problem.examples[:3]:
                click.echo(f"  {sentence}")
        click.echo()
    for report in reports:
        errors = "no error" if report.is_good else "errors"
        state = "left" if report.fixed else "found"
        click.echo(f"{report.split}: {report.images} images, {report.segments} segments, {errors} {state}")
        if report.fixed:
            changes = "1 change" if report.fixed.changes == 1 else f"{report.fixed.changes} changes"
            click.echo(f"  {changes}, listed in {report.fixed.listed_in}; the old JSON is {report.fixed.backup}")


class OrderedGroup(SuggestingGroup):
    """A group that lists its commands in the order in which they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names."""
        del ctx
        return list(self.commands)


@click.group(cls=OrderedGroup)
def prepare_data() -> None:
    """Bring a data set into the form that panformer reads, check it, reshape it.

    docs/data.md shows the folder that each source expects.
    """


PUBLISHED = (coco, custom, cityscapes, ade20k, mapillary)
DRAWN = (coco_instances, png_pairs, masks, labelme, yolo, cvat)
RESHAPING = (subset, split, merge, remap)

for command in (*PUBLISHED, *DRAWN, scenes, verify, *RESHAPING):
    prepare_data.add_command(command)
