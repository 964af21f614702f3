"""Weights that can be downloaded: what is published about them, and where they are kept."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from panformer_cli.storage.files import cache_folder
from panformer_cli.storage.plain_json import parse as parse_json


@dataclass(frozen=True)
class PublishedRobustness:
    """Published PQ in percent on clean and corrupted images.

    Attributes:
        clean: on the images as they are.
        mean: of the sixteen corruptions, as printed.
        pq: of each corruption, in the order of `data.corruptions.CORRUPTIONS`.
    """

    clean: float
    mean: float
    pq: tuple[float, ...]


@dataclass(frozen=True)
class PublishedWeights:
    """One published checkpoint, trained on COCO train2017.

    Attributes:
        name: what the command line accepts as a checkpoint; the recipe of the same name describes the model.
        file: its name where it is published.
        folder: the address of the folder it is published in.
        backbone: for people.
        pq, pq_things, pq_stuff: published, COCO val2017, percent.
        size, sha256: bytes and hash that the file must have; None where none are published.
        robustness: published PQ on corrupted images.
    """

    name: str
    file: str
    folder: str
    backbone: str
    pq: float
    pq_things: float
    pq_stuff: float
    size: int | None = None
    sha256: str | None = None
    robustness: PublishedRobustness | None = None

    @property
    def address(self) -> str:
        """Where it is downloaded from: PANFORMER_WEIGHTS_URL, else the folder it is published in."""
        folder = (os.environ.get("PANFORMER_WEIGHTS_URL") or self.folder).rstrip("/")
        return f"{folder}/{self.file}"

    @property
    def path(self) -> Path:
        """Where it is kept, be it there or not."""
        return weights_folder() / self.file

    @property
    def record_path(self) -> Path:
        """Where the record of the file lies."""
        return self.path.with_name(f"{self.file}.json")

    @property
    def record(self) -> WeightsRecord | None:
        """What is known of the file as it was first seen; None before that, or where the record cannot be read."""
        try:
            return WeightsRecord(**parse_json(self.record_path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    @property
    def known_size(self) -> int | None:
        """Bytes, as published or else as recorded; None before the file was first seen."""
        record = self.record
        return self.size if self.size is not None or record is None else record.size


@dataclass(frozen=True)
class WeightsRecord:
    """A file as it was first seen; it lies as JSON beside the file.

    url: where it came from; None where the user put it in place. size: bytes. sha256: 64 hexadecimal digits.
    first_seen: date, as 2030-01-31. mtime_ns: time of change of the file that was hashed last; with `size` it tells
        whether the file has been exchanged.
    """

    url: str | None
    size: int
    sha256: str
    first_seen: str
    mtime_ns: int


def weights_folder() -> Path:
    """The cache: `weights` in PANFORMER_HOME, or in the user's cache folder for panformer."""
    return cache_folder() / "weights"
