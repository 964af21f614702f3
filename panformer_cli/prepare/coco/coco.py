"""`prepare-data coco` and `custom`: unpack, check, and write the annotations in detection format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from panformer_cli.data.layout import check_root, check_split_name, find_image_zip, find_images, find_splits
from panformer_cli.errors import DataError
from panformer_cli.prepare.coco.in_place import Detection, Prepared, prepare_in_place
from panformer_cli.prepare.coco.zips import packed_splits, unpack_split
from panformer_cli.prepare.convert import ConvertOptions
from panformer_cli.reporting import Reporter


def prepare_coco(
    root: Path,
    splits: Sequence[str],
    options: ConvertOptions,
    reporter: Reporter,
    detection: Detection = "all",
    out: Path | None = None,
) -> list[Prepared]:
    """Unpack the zips in the COCO folder `root`, check all images and write the detection JSON.

    Args:
        root: The COCO folder.
        splits: Names such as `val2017`; if empty, all splits with both annotations and images.
        options: How to process the images.
        reporter: Receives progress and warnings.
        detection: As in `in_place.prepare_in_place`.
        out: As in `in_place.prepare_in_place`.

    Raises:
        DataError: A split, an image or a PNG is missing or corrupt, image, PNG and JSON disagree, or a zip is unsafe
            or corrupt. The detection JSON of such a split is not written.
        PanformerError: The disk is full, or a folder cannot be written.
    """
    check_root(root)
    for split in splits:
        check_split_name(split)
    prepared = []
    for split in splits or _splits_with_images(root, reporter):
        unpack_split(root, split, reporter)
        prepared.append(prepare_in_place(root, split, options, reporter, detection, out))
    return prepared


def prepare_custom(
    root: Path, splits: Sequence[str], options: ConvertOptions, reporter: Reporter, out: Path | None = None
) -> list[Prepared]:
    """Check a data set with any categories in COCO panoptic format. Arguments and errors as in `prepare_coco`."""
    return prepare_coco(root, splits, options, reporter, "none", out)


def _splits_with_images(root: Path, reporter: Reporter) -> list[str]:
    known = sorted(packed_splits(root).union(find_splits(root)))
    complete = [split for split in known if find_images(root, split) or find_image_zip(root, split)]
    if not complete:
        annotated = f"annotations of {', '.join(known)} but no images" if known else "neither annotations nor images"
        raise DataError(
            f"{root} contains {annotated} of a COCO panoptic data set; expected images in images/<split>/, <split>/ or "
            "<split>.zip, and annotations/panoptic_<split>.json or COCO's panoptic_annotations_trainval2017.zip"
        )
    for split in known:
        if split not in complete:
            reporter.warn(f"skipping {split}: {root} has its annotations but not its images")
    return complete
