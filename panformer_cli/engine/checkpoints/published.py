"""Published checkpoints by name: downloaded once, kept in a cache.

The authors publish no hashes. So the hash of a file is recorded when it is first seen, and a file that differs from
its record later is told of.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import date
from pathlib import Path

from panformer_cli.errors import CheckpointError, PanformerError
from panformer_cli.models.families import published_weights
from panformer_cli.models.published import PublishedWeights, WeightsRecord
from panformer_cli.reporting import Reporter
from panformer_cli.storage.download import DownloadedFile, DownloadError, check_file, download
from panformer_cli.storage.files import sha256_of, write_json

PUBLISHED = published_weights()
"""All weights that can be downloaded, by name."""


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
    from panformer_cli.storage.tensor_files import check_whole  # torch; the list of weights does without it

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
