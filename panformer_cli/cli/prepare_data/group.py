"""`panformer prepare-data`: the group and its subcommands."""

from __future__ import annotations

import click

from panformer_cli.cli.groups import OrderedGroup
from panformer_cli.cli.prepare_data.annotation_tools import cvat, labelme, yolo
from panformer_cli.cli.prepare_data.coco import coco, custom
from panformer_cli.cli.prepare_data.masks import coco_instances, masks, png_pairs
from panformer_cli.cli.prepare_data.scenes import scenes
from panformer_cli.cli.prepare_data.sets import merge, remap, split, subset
from panformer_cli.cli.prepare_data.street import ade20k, cityscapes, mapillary
from panformer_cli.cli.prepare_data.verify import verify


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
