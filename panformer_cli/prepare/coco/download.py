"""Download COCO, resuming partial files and checking size and SHA-256."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from panformer_cli.data.layout import find_annotation, find_images
from panformer_cli.errors import DataError, PanformerError
from panformer_cli.prepare.coco.unlabeled_images import is_unlabeled_split
from panformer_cli.reporting import Reporter
from panformer_cli.storage.download import download
from panformer_cli.storage.partial_file import PartialFile

URL = "http://images.cocodataset.org"
"""https fails because the host's certificate does not match its name; the hashes verify the downloads instead."""
URL_VARIABLE = "PANFORMER_COCO_URL"
"""Environment variable with the URL of a mirror that has the same paths."""

DEFAULT_SPLITS = ("train2017", "val2017")

UNPACKED = 1.2
"""Ratio of unpacked to zipped bytes. Images hardly compress; annotations compress a little."""


class Archive(NamedTuple):
    """A COCO zip: path on the server, size in bytes, and SHA-256 as recorded by TensorFlow Datasets."""

    path: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]


IMAGES = {
    "train2017": Archive(
        "zips/train2017.zip", 19_336_861_798, "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929"
    ),
    "val2017": Archive(
        "zips/val2017.zip", 815_585_330, "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05"
    ),
    "test2017": Archive(
        "zips/test2017.zip", 6_646_970_404, "c7908c3c9f94ba2f3340ebbeec58c25db6be8774f18d68c2f15d0e369d95baba"
    ),
}
PANOPTIC = Archive(
    "annotations/panoptic_annotations_trainval2017.zip",
    860_725_834,
    "c05f76d2129b6b561eb70efe16e7006df62f73fb92889132d373b9d90e31a370",
)
TEST_INFO = Archive(
    "annotations/image_info_test2017.zip",
    1_144_034,
    "e52f412dd7195ac8f98d782b44c6dd30ea10241e9f42521f67610fbe055a74f8",
)


def download_coco(root: Path, splits: Sequence[str], reporter: Reporter) -> None:
    """Download into `root` the missing zips of `splits` (if empty, train2017 and val2017).

    Splits whose images and annotations are already unpacked are not downloaded.

    Raises:
        DataError: COCO has no such split.
        PanformerError: There is not enough disk space for the zips and their contents; or as in `download.download`.
    """
    archives = [archive for archive in needed(root, splits or DEFAULT_SPLITS) if not (root / archive.name).is_file()]
    _check_space(root, archives)
    base = os.environ.get(URL_VARIABLE, URL)
    for archive in archives:
        download(
            f"{base}/{archive.path}", root / archive.name, reporter=reporter, size=archive.size, sha256=archive.sha256
        )


def needed(root: Path, splits: Sequence[str]) -> list[Archive]:
    """Return the zips with the parts of `splits` that are not unpacked in `root`, without duplicates."""
    archives: list[Archive] = []
    for split in splits:
        pool = f"test{split[-4:]}" if is_unlabeled_split(split) else split
        if pool not in IMAGES:
            raise DataError(
                f"no download is available for the split {split!r}; expected train2017, val2017, test2017, "
                "test-dev2017 or test-challenge2017"
            )
        if find_images(root, pool) is None:
            archives.append(IMAGES[pool])
        if is_unlabeled_split(split):
            archives += [] if (root / "annotations" / f"image_info_{split}.json").is_file() else [TEST_INFO]
        elif (annotation := find_annotation(root, split)) is None or not annotation.with_suffix("").is_dir():
            archives.append(PANOPTIC)
    return list(dict.fromkeys(archives))


def _check_space(root: Path, archives: Sequence[Archive]) -> None:
    """Raise a PanformerError if the disk of `root` has no space for the zips and their contents."""
    folder = next(path for path in (root, *root.absolute().parents) if path.exists())
    partials = [PartialFile(root / archive.name) for archive in archives]
    downloaded = sum(partial.size for partial in partials)
    size = sum(archive.size for archive in archives)
    required, free = int(size * (1 + UNPACKED)) - downloaded, shutil.disk_usage(folder).free
    if required > free:
        names = ", ".join(archive.name for archive in archives)
        raise PanformerError(
            f"{names} need {required / 1e9:.1f} GB in {root}, zips and unpacked, but only {free / 1e9:.1f} GB are "
            "free; free some space, or choose another --root or fewer splits"
        )
