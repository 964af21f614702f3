"""Weights that can be downloaded: published results, addresses and cached files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from panformer_cli.storage.files import weights_folder
from panformer_cli.storage.plain_json import parse as parse_json


@dataclass(frozen=True)
class PublishedRobustness:
    """Published PQ on clean and corrupted images, in percent.

    Attributes:
        clean: PQ on the original images.
        mean: mean PQ over the sixteen corruptions, as printed.
        pq: PQ on each corruption, in the order of `data.corruptions.CORRUPTIONS`.
    """

    clean: float
    mean: float
    pq: tuple[float, ...]


@dataclass(frozen=True)
class PublishedWeights:
    """One published checkpoint, trained on COCO train2017.

    Attributes:
        name: name that the command line accepts as a checkpoint. The recipe of the same name describes the model.
        file: name of the published file.
        folder: URL of the folder that contains it.
        backbone: display name of the backbone.
        pq: published PQ on COCO val2017, in percent.
        pq_things: published PQ of things; None if it is not published.
        pq_stuff: published PQ of stuff; None if it is not published.
        size: expected size in bytes; None if it is not published.
        sha256: expected SHA-256 as hexadecimal digits, or the first digits of it; None if it is not published.
        robustness: published PQ on corrupted images.
    """

    name: str
    file: str
    folder: str
    backbone: str
    pq: float
    pq_things: float | None = None
    pq_stuff: float | None = None
    size: int | None = None
    sha256: str | None = None
    robustness: PublishedRobustness | None = None

    @property
    def address(self) -> str:
        """The URL of the file, in PANFORMER_WEIGHTS_URL if it is set, otherwise in `folder`."""
        folder = (os.environ.get("PANFORMER_WEIGHTS_URL") or self.folder).rstrip("/")
        return f"{folder}/{self.file}"

    @property
    def path(self) -> Path:
        """The path of the file in the cache, whether it exists or not."""
        return weights_folder() / self.file

    @property
    def record_path(self) -> Path:
        """The path of the file's record."""
        return self.path.with_name(f"{self.file}.json")

    @property
    def record(self) -> WeightsRecord | None:
        """The record of the file when it was first seen; None before that, or if the record cannot be read."""
        try:
            return WeightsRecord(**parse_json(self.record_path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    @property
    def known_size(self) -> int | None:
        """The size in bytes, published or recorded; None if neither is known."""
        record = self.record
        return self.size if self.size is not None or record is None else record.size


@dataclass(frozen=True)
class WeightsRecord:
    """The state of a file when it was first seen, stored as JSON beside the file.

    Attributes:
        url: URL that it was downloaded from; None if the user put it there.
        size: size in bytes.
        sha256: 64 hexadecimal digits.
        first_seen: date, such as 2030-01-31.
        mtime_ns: modification time of the file that was hashed last. With `size` it shows whether the file was
            replaced.
    """

    url: str | None
    size: int
    sha256: str
    first_seen: str
    mtime_ns: int
