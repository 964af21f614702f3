"""Options of models that transformers saved, such as `--checkpoint hf:OWNER/NAME`, and the sides of their input."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from panformer_cli.cli.option_group import option_group

_JSON = click.Path(path_type=Path, dir_okay=False)

categories_option = click.option(
    "--categories",
    type=_JSON,
    metavar="JSON",
    help="Panoptic JSON with the categories of the results, for hf: models. [default: those of the model]",
)


@dataclass(frozen=True)
class SavedModelOptions:
    """The sides of the input, and what is particular to models that transformers saved.

    Attributes:
        short_side: Short side of the input in pixels; None for that of the checkpoint.
        long_side: Maximum long side of the input in pixels; None for that of the checkpoint.
        label_map: JSON with the category id of each label; None to match them by name.
        hf_post_processing: Whether the masks are merged as transformers does.
    """

    short_side: int | None
    long_side: int | None
    label_map: Path | None
    hf_post_processing: bool


@option_group(
    "saved_model",
    click.option(
        "--short-side",
        type=click.IntRange(min=32),
        metavar="PIXELS",
        help="Short side of the image that the network sees. [default: the checkpoint's]",
    ),
    click.option(
        "--long-side",
        type=click.IntRange(min=32),
        metavar="PIXELS",
        help="Maximum long side of the image that the network sees. [default: the checkpoint's]",
    ),
    click.option(
        "--label-map",
        type=_JSON,
        metavar="JSON",
        help="Category ids by label or name, for hf: models. [default: matched by name]",
    ),
    click.option(
        "--hf-post-processing",
        is_flag=True,
        help="Merge the masks of hf: models as transformers does, not as the original project does; evaluate reports "
        "both.",
    ),
)
def saved_model_options(
    short_side: int | None, long_side: int | None, label_map: Path | None, hf_post_processing: bool
) -> SavedModelOptions:
    """Add the sides of the input and what is for hf: models only; the command receives `saved_model`."""
    return SavedModelOptions(short_side, long_side, label_map, hf_post_processing)
