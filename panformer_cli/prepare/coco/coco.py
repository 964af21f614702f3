"""`prepare-data coco`: download and unpack COCO, check it, and write the annotation in detection form."""

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
    """Make the COCO folder `root` ready: unpack zips, check all images, write `panoptic_<split>_detection_format.json`.

    splits: names such as `val2017`; none takes every split that has both annotations and images.
    detection, out: as `in_place.prepare_in_place`.

    Raises:
        DataError: a split, an image or a PNG is missing or damaged, or image, PNG and JSON disagree; a zip is unsafe
            or damaged. The detection JSON of such a split is not written.
        PanformerError: no disk space, or a folder that cannot be written.
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
    """Check a data set of any categories in COCO's panoptic form; arguments and errors as `prepare_coco`."""
    return prepare_coco(root, splits, options, reporter, "none", out)


def _splits_with_images(root: Path, reporter: Reporter) -> list[str]:
    known = sorted(packed_splits(root).union(find_splits(root)))
    wanted = [split for split in known if find_images(root, split) or find_image_zip(root, split)]
    if not wanted:
        annotated = f"annotations of {', '.join(known)} but no images" if known else "neither annotations nor images"
        raise DataError(
            f"{root} holds {annotated} of a COCO panoptic data set; expected images in images/<split>/, <split>/ or "
            "<split>.zip, and annotations/panoptic_<split>.json or COCO's panoptic_annotations_trainval2017.zip"
        )
    for split in known:
        if split not in wanted:
            reporter.warn(f"{split} is left out: {root} has its annotations but not its images")
    return wanted
