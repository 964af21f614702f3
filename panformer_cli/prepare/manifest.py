"""`manifest.json` (inputs and settings of a prepared folder), `summary.json` and `summary.html`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from panformer_cli.errors import DataError
from panformer_cli.pages.summary import write_summary
from panformer_cli.prepare.samples import Load, draw_samples
from panformer_cli.prepare.summary import SplitSummary
from panformer_cli.storage.files import locked_folder, resolve_links, sha256_of, write_json
from panformer_cli.storage.plain_json import parse as parse_json

if TYPE_CHECKING:
    from panformer_cli.prepare.source import Source

IN_PLACE = "in place"
"""The manifest's source for a split that was checked in place, not converted."""

MANIFEST, SUMMARY, PAGE = "manifest.json", "summary.json", "summary.html"


class SplitManifest:
    """The manifest entry of one split, built image by image.

    Attributes:
        setting: Source, root and all other settings that affect the result, as JSON.
    """

    def __init__(self, split: str, setting: dict[str, Any]) -> None:
        self.split = split
        self.setting = setting
        self._images = 0
        self._annotation: dict[str, Any] = {}
        self._inputs_hash, self._images_hash, self._pngs_hash = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()

    @classmethod
    def of_source(cls, source: Source, split: str, options: dict[str, Any]) -> SplitManifest:
        """Return an empty manifest for a split of `source`, converted with `options`."""
        setting = {
            "source": source.name,
            "root": str(resolve_links(source.root)),
            **options,
            **source.settings,
            "categories": source.categories.to_coco(),
        }
        return cls(split, setting)

    def add_stamp(self, stamp: Any) -> None:
        """Add the stamp (names, sizes, times) of the next image's input files."""
        self._inputs_hash.update(json.dumps(stamp).encode())

    def add(self, image: str, png: str) -> None:
        """Add the hexadecimal SHA-256 of the next image and of its PNG."""
        self._images += 1
        self._images_hash.update(image.encode())
        self._pngs_hash.update(png.encode())

    def finish(self, annotation: Path, name: str) -> SplitManifest:
        """Add the written JSON under `name` and return self."""
        self._annotation = {"name": name, "bytes": annotation.stat().st_size, "sha256": sha256_of(annotation)}
        return self

    def to_json(self) -> dict[str, Any]:
        """Return the settings and the SHA-256 of the stamps, the JSON, the image hashes and the PNG hashes."""
        return {
            "setting": self.setting,
            "inputs_sha256": self._inputs_hash.hexdigest(),
            "images": self._images,
            "annotation": self._annotation,
            "images_sha256": self._images_hash.hexdigest(),
            "pngs_sha256": self._pngs_hash.hexdigest(),
        }


def finished_split(out: Path, manifest: SplitManifest, annotation: Path) -> SplitSummary | None:
    """Return the summary of a split in `out` that was made from the same files with the same settings; None if missing.

    Raises:
        DataError: `out` contains a different split of this name, a split with different categories, or files with
            our names that were not written by us.
    """
    check_folder(out)
    records = _records(out)
    for split, other in records.items():
        is_there = split != manifest.split and annotation.with_name(other["annotation"]["name"]).exists()
        if is_there and other["setting"].get("categories", categories := manifest.setting["categories"]) != categories:
            raise DataError(
                f"{out} contains the split {split}, whose categories differ from those of {manifest.split}; expected "
                "the same categories in all splits of a folder; choose another --out"
            )
    if not annotation.exists():
        return None
    record, summary = records.get(manifest.split), _summaries(out).get(manifest.split)
    if (
        record is not None
        and summary is not None
        and all(record.get(key) == manifest.to_json()[key] for key in ("setting", "inputs_sha256"))
        and record["annotation"]["bytes"] == annotation.stat().st_size
    ):
        return SplitSummary.from_json(manifest.split, summary)
    raise DataError(
        f"{annotation} already exists and was made from other files or with other settings; expected a folder without "
        f"the split {manifest.split}; choose another --out, or delete that file"
    )


def write_split(
    out: Path, manifest: SplitManifest, summary: SplitSummary, samples: Iterable[tuple[str, Load]] = ()
) -> None:
    """Add a split to the manifest and the summaries in `out`, keeping the other splits, and draw its `samples`.

    A check in place keeps the record of the conversion that wrote the same files, so that the conversion still
    recognizes them.

    Raises:
        PanformerError: A file cannot be written.
    """
    check_folder(out)
    with locked_folder(out):  # another process may add another split
        records, summaries = _records(out), _summaries(out)
        if _is_known(manifest, records.get(manifest.split)):
            return
        summary.samples = draw_samples(out, summary.split, summary.categories, samples)
        summaries[summary.split] = summary.to_json()
        records[manifest.split] = manifest.to_json() | summary.labels
        write_json(out / SUMMARY, summaries)
        write_summary(out / PAGE, resolve_links(out).name, summaries)
        write_json(out / MANIFEST, records)


def _is_known(manifest: SplitManifest, record: dict[str, Any] | None) -> bool:
    """Return whether a split checked in place is unchanged since the conversion in `record` wrote it."""
    if record is None or manifest.setting["source"] != IN_PLACE or record["setting"].get("source") == IN_PLACE:
        return False
    new, made = manifest.to_json(), ("annotation", "images", "images_sha256", "pngs_sha256")
    return all(record.get(key) == new[key] for key in made)


def check_folder(out: Path) -> None:
    """Raise a DataError if `out` has a file with one of our names that we did not write and would overwrite."""
    _records(out)
    _summaries(out)
    if (out / PAGE).exists() and not (out / SUMMARY).exists():
        raise _not_ours(out / PAGE)


def _records(out: Path) -> dict[str, dict[str, Any]]:
    """Return the manifest by split."""
    return _read(out / MANIFEST, "inputs_sha256")


def _summaries(out: Path) -> dict[str, dict[str, Any]]:
    return _read(out / SUMMARY, "void_share")


def _read(path: Path, key: str) -> dict[str, dict[str, Any]]:
    """Return the JSON object in one of our files, whose members are objects with `key`; empty if there is no file."""
    try:
        content = parse_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; expected a readable file") from error
    except ValueError as error:
        raise _not_ours(path) from error
    if not isinstance(content, dict) or not all(isinstance(part, dict) and key in part for part in content.values()):
        raise _not_ours(path)
    return content


def _not_ours(path: Path) -> DataError:
    return DataError(
        f"{path} was not written by prepare-data and would be overwritten; expected no such file; move it, or choose "
        "another folder with --out"
    )
