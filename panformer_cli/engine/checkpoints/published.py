"""Download published checkpoints by name into a cache.

Panoptic SegFormer's reference implementation publishes no hashes. So the hash of a file is recorded when it is first
seen, and a warning is printed if the file differs from its record later.
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
    """Return the path of `weights` in the cache; download the file if it is not there yet.

    Raises:
        DownloadError: The file cannot be downloaded, or the download is not a complete checkpoint.
        PanformerError: The file cannot be written, or the cached file is incomplete or differs from the size or hash in
            `weights`.
    """
    if weights.path.is_file():
        _check_cached(weights, reporter)
    else:
        reporter.message(f"Downloading {weights.address} to {weights.path}")
        _download(weights, reporter)
    return weights.path


def published_at(path: Path) -> PublishedWeights | None:
    """Return the published weights whose cached file is `path`; None if there are none."""
    return next((weights for weights in PUBLISHED.values() if weights.path == path), None)


def _download(weights: PublishedWeights, reporter: Reporter) -> None:
    url = weights.address

    def check(path: Path, found: DownloadedFile) -> None:
        """Write the record before the file becomes visible, so that no other process writes a different record."""
        if not _is_complete(path):
            raise PanformerError("the download is not a complete checkpoint")
        record = WeightsRecord(url, found.size, found.sha256, _today(), path.stat().st_mtime_ns)
        _compare_with_record(weights, record, reporter)

    try:
        download(url, weights.path, reporter=reporter, size=weights.size, sha256=weights.sha256, check=check)
    except DownloadError as error:
        raise DownloadError(f"{error}, or set PANFORMER_WEIGHTS_URL to the address of a folder that has it") from error


def _check_cached(weights: PublishedWeights, reporter: Reporter) -> None:
    """Check the cached file; compute its hash only if its size or modification time differs from its record."""
    record, now = weights.record, weights.path.stat()
    advice = "delete it to download it again"
    if record is None or (record.size, record.mtime_ns) != (now.st_size, now.st_mtime_ns):
        if not _is_complete(weights.path):
            raise CheckpointError(f"{weights.path} is not a complete checkpoint; {advice}")
        record = WeightsRecord(None, now.st_size, sha256_of(weights.path, reporter), _today(), now.st_mtime_ns)
    check_file(str(weights.path), DownloadedFile(record.size, record.sha256), weights.size, weights.sha256, advice)
    _compare_with_record(weights, record, reporter)


def _is_complete(path: Path) -> bool:
    from panformer_cli.storage.tensor_files import check_whole  # imports torch, which listing the weights does not need

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
            f"{record.first_seen}; find out why before you use it; delete {weights.record_path} to accept it"
        )
        return
    kept = found if record is None else replace(record, mtime_ns=found.mtime_ns)
    if kept == record:
        return
    try:
        write_json(weights.record_path, asdict(kept))
    except PanformerError as error:  # a shared cache that is read-only for this user
        reporter.warn(str(error))


def _today() -> str:
    return date.today().isoformat()
