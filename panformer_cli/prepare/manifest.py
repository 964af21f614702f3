"""What a prepared folder was made of, and how: `manifest.json`, with `summary.json` and `summary.html`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from panformer_cli.errors import DataError
from panformer_cli.pages.summary import write_summary
from panformer_cli.prepare.summary import SplitSummary
from panformer_cli.storage.files import locked_folder, resolve_links, sha256_of, write_json
from panformer_cli.storage.plain_json import parse as parse_json

if TYPE_CHECKING:
    from panformer_cli.prepare.source import Source

IN_PLACE = "in place"
"""The source of a split that was not converted but checked where it lies."""

MANIFEST, SUMMARY, PAGE = "manifest.json", "summary.json", "summary.html"


class SplitManifest:
    """The record of one split, taken down while its images go by.

    setting: source, root, and everything else that decides the result, as JSON.
    """

    def __init__(self, split: str, setting: dict[str, Any]) -> None:
        self.split = split
        self.setting = setting
        self._images = 0
        self._annotation: dict[str, Any] = {}
        self._inputs, self._pictures, self._pngs = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()

    @classmethod
    def of_source(cls, source: Source, split: str, skips_bad_images: bool) -> SplitManifest:
        """For a split of `source`."""
        setting = {
            "source": source.name,
            "root": str(resolve_links(source.root)),
            "skip_bad_images": skips_bad_images,
            **source.settings,
            "categories": source.categories.to_coco(),
        }
        return cls(split, setting)

    def add_stamp(self, stamp: Any) -> None:
        """What tells that the files of the next image are those of before."""
        self._inputs.update(json.dumps(stamp).encode())

    def add(self, picture: str, png: str) -> None:
        """The next image's sha256, and that of its PNG, in hexadecimal."""
        self._images += 1
        self._pictures.update(picture.encode())
        self._pngs.update(png.encode())

    def finish(self, annotation: Path, name: str) -> SplitManifest:
        """Take in the JSON that was written, and its name."""
        self._annotation = {"name": name, "bytes": annotation.stat().st_size, "sha256": sha256_of(annotation)}
        return self

    def to_json(self) -> dict[str, Any]:
        """Setting; the sha256 of all stamps, of the JSON, and of the sha256 of all images and of all PNGs in order."""
        return {
            "setting": self.setting,
            "inputs_sha256": self._inputs.hexdigest(),
            "images": self._images,
            "annotation": self._annotation,
            "images_sha256": self._pictures.hexdigest(),
            "pngs_sha256": self._pngs.hexdigest(),
        }


def finished_split(out: Path, manifest: SplitManifest, annotation: Path) -> SplitSummary | None:
    """The summary of a split that `out` holds already, made of the same files in the same way; None without one.

    Raises:
        DataError: `out` holds another split of this name, one with other categories, or files of our names that are
            not ours.
    """
    check_folder(out)
    records = _records(out)
    for split, other in records.items():
        is_there = split != manifest.split and annotation.with_name(other["annotation"]["name"]).exists()
        if is_there and other["setting"].get("categories", categories := manifest.setting["categories"]) != categories:
            raise DataError(
                f"{out} holds the split {split} with other categories than {manifest.split} would have; expected one "
                "table in all splits of a folder; choose another --out"
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
        f"{annotation} is there already, and was not made of these files in this way; expected a folder without the "
        f"split {manifest.split}; choose another --out, or delete that file"
    )


def write_split(out: Path, manifest: SplitManifest, summary: SplitSummary) -> None:
    """Add a split to the manifest and the summaries in `out`; those of other splits stay.

    A check in place leaves the record of the conversion that made the same files, by which that one knows them.

    Raises:
        PanformerError: a file cannot be written.
    """
    check_folder(out)
    with locked_folder(out):  # another process may add another split
        records, summaries = _records(out), _summaries(out)
        if _is_known(manifest, records.get(manifest.split)):
            return
        summaries[summary.split] = summary.to_json()
        records[manifest.split] = manifest.to_json()
        write_json(out / SUMMARY, summaries)
        write_summary(out / PAGE, resolve_links(out).name, summaries)
        write_json(out / MANIFEST, records)


def _is_known(manifest: SplitManifest, record: dict[str, Any] | None) -> bool:
    """Whether a split that was checked where it lies is just what a conversion has written, as its record says."""
    if record is None or manifest.setting["source"] != IN_PLACE or record["setting"].get("source") == IN_PLACE:
        return False
    new, made = manifest.to_json(), ("annotation", "images", "images_sha256", "pngs_sha256")
    return all(record.get(key) == new[key] for key in made)


def check_folder(out: Path) -> None:
    """DataError where a file in `out` has one of our names and is not ours: it would be overwritten."""
    _records(out)
    _summaries(out)
    if (out / PAGE).exists() and not (out / SUMMARY).exists():
        raise _not_ours(out / PAGE)


def _records(out: Path) -> dict[str, dict[str, Any]]:
    """The manifest by split."""
    return _read(out / MANIFEST, "inputs_sha256")


def _summaries(out: Path) -> dict[str, dict[str, Any]]:
    return _read(out / SUMMARY, "void_share")


def _read(path: Path, key: str) -> dict[str, dict[str, Any]]:
    """The object in a file of ours, whose members are objects that have `key`; empty where there is no such file."""
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
        f"{path} was not written by prepare-data, which writes a file of this name; expected none; move it away, or "
        "choose another folder with --out"
    )
