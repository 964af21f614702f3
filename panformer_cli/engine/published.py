"""The checkpoints that the authors published (spec, sections 1 and 10), by name: fetched once, kept in a cache.

The authors publish no hashes. So the hash of a file is recorded when it is first seen, and a file that differs from
its record later is told of.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path

from panformer_cli.download import DownloadedFile, DownloadError, check_file, download, sha256_of
from panformer_cli.errors import CheckpointError, PanformerError
from panformer_cli.files import cache_folder, write_json
from panformer_cli.plain_json import parse as parse_json
from panformer_cli.reporting import Reporter

RELEASE = "https://github.com/zhiqi-li/Panoptic-SegFormer/releases/download/v1.0"


@dataclass(frozen=True)
class PublishedWeights:
    """One checkpoint of the authors' release, trained on COCO train2017.

    name: what the command line accepts where it wants a checkpoint; the recipe of the same name describes the model.
    file: its name in the release. pq, pq_things, pq_stuff: published, COCO val2017, percent.
    size, sha256: bytes and hash that the file must have; None as long as the authors publish none.
    """

    name: str
    file: str
    backbone: str
    pq: float
    pq_things: float
    pq_stuff: float
    size: int | None = None
    sha256: str | None = None

    @property
    def address(self) -> str:
        """Where it is fetched from."""
        return f"{release_folder()}/{self.file}"

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


PUBLISHED = {
    row.name: row
    for row in (
        PublishedWeights("r50_1x", "panoptic_segformer_r50_1x.pth", "ResNet-50", 48.0, 52.3, 41.5),
        PublishedWeights("r50", "panoptic_segformer_r50_2x.pth", "ResNet-50", 49.6, 54.4, 42.4),
        PublishedWeights("r101", "panoptic_segformer_r101_2x.pth", "ResNet-101", 50.6, 55.5, 43.2),
        PublishedWeights("pvtv2b5", "panoptic_segformer_pvtv2b5_2x.pth", "PVTv2-B5", 55.6, 61.2, 46.6),
        PublishedWeights("swinl", "panoptic_segformer_swinl_2x.pth", "Swin-L", 55.8, 61.7, 46.9),
    )
}


def release_folder() -> str:
    """The address that the files are fetched from: PANFORMER_WEIGHTS_URL, else the authors' release."""
    return (os.environ.get("PANFORMER_WEIGHTS_URL") or RELEASE).rstrip("/")


def weights_folder() -> Path:
    """The cache: `weights` in PANFORMER_HOME, or in the user's cache folder for panformer."""
    return cache_folder() / "weights"


def fetch_published(weights: PublishedWeights, reporter: Reporter) -> Path:
    """The file of `weights` in the cache, downloaded where it is not there yet.

    Raises:
        DownloadError: it is not there and cannot be fetched, or what came is no whole file of weights.
        PanformerError: no room, no permission, no whole file of weights, or one of another size or hash than `weights`
            says.
    """
    if weights.path.is_file():
        _look_at(weights, reporter)
    else:
        reporter.message(f"Downloading {weights.address} to {weights.path}")
        _download(weights, reporter)
    return weights.path


def published_at(path: Path) -> PublishedWeights | None:
    """The weights that are kept at `path`; None where it is another file."""
    return next((weights for weights in PUBLISHED.values() if weights.path == path), None)


def _download(weights: PublishedWeights, reporter: Reporter) -> None:
    url = weights.address

    def check(path: Path, found: DownloadedFile) -> None:
        """The record is written before the file is to be seen, so that no other process can write another one."""
        if not _is_whole(path):
            raise PanformerError("what came is no whole file of weights")
        record = WeightsRecord(url, found.size, found.sha256, _today(), path.stat().st_mtime_ns)
        _compare_with_record(weights, record, reporter)

    try:
        download(url, weights.path, reporter=reporter, size=weights.size, sha256=weights.sha256, check=check)
    except DownloadError as error:
        raise DownloadError(f"{error}, or name the address of a folder that has it in PANFORMER_WEIGHTS_URL") from error


def _look_at(weights: PublishedWeights, reporter: Reporter) -> None:
    """Check the file that is there; hashed if it is not the one of its record, by size and time of change."""
    record, now = weights.record, weights.path.stat()
    advice = "delete it, and it will be downloaded again"
    if record is None or (record.size, record.mtime_ns) != (now.st_size, now.st_mtime_ns):
        if not _is_whole(weights.path):
            raise CheckpointError(f"{weights.path} is no whole file of weights; {advice}")
        record = WeightsRecord(None, now.st_size, sha256_of(weights.path, reporter), _today(), now.st_mtime_ns)
    check_file(str(weights.path), DownloadedFile(record.size, record.sha256), weights.size, weights.sha256, advice)
    _compare_with_record(weights, record, reporter)


def _is_whole(path: Path) -> bool:
    from panformer_cli.models.weight_files import check_whole  # torch; the list of weights does without it

    try:
        check_whole(path)
    except CheckpointError:
        return False
    return True


def _compare_with_record(weights: PublishedWeights, found: WeightsRecord, reporter: Reporter) -> None:
    record = weights.record
    if record is not None and record.sha256 != found.sha256:
        reporter.warn(
            f"{weights.path} has the SHA-256 {found.sha256}, but had {record.sha256} when it was first seen on "
            f"{record.first_seen}; find out why before you trust it, and delete {weights.record_path} to accept it"
        )
        return
    kept = found if record is None else replace(record, mtime_ns=found.mtime_ns)
    if kept == record:
        return
    try:
        write_json(weights.record_path, asdict(kept))
    except PanformerError as error:  # a cache that others fill and that we only read
        reporter.warn(str(error))


def _today() -> str:
    return date.today().isoformat()
