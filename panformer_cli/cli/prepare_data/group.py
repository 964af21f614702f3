"""The `panformer prepare-data` group with its subcommands."""

from __future__ import annotations

import click

from panformer_cli.cli.groups import OrderedGroup
from panformer_cli.cli.prepare_data.annotation_tools import cvat, labelme, yolo
from panformer_cli.cli.prepare_data.auto import auto
from panformer_cli.cli.prepare_data.coco import coco, custom
from panformer_cli.cli.prepare_data.export import export
from panformer_cli.cli.prepare_data.masks import coco_instances, masks, png_pairs
from panformer_cli.cli.prepare_data.scenes import scenes
from panformer_cli.cli.prepare_data.sets import merge, remap, split, subset
from panformer_cli.cli.prepare_data.street import ade20k, cityscapes, mapillary
from panformer_cli.cli.prepare_data.verify import verify


@click.group(cls=OrderedGroup)
def prepare_data() -> None:
    """Convert, check and reshape data sets.

    docs/data.md shows the folder layout of each source format.

    \b
    panformer prepare-data auto --root photos --out data/mine
    panformer prepare-data verify data/mine
    """


PUBLISHED = (coco, custom, cityscapes, ade20k, mapillary)
GENERIC = (coco_instances, png_pairs, masks, labelme, yolo, cvat)
RESHAPING = (subset, split, merge, remap)

for command in (auto, *PUBLISHED, *GENERIC, scenes, verify, *RESHAPING, export):
    prepare_data.add_command(command)
