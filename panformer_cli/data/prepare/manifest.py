"""What a prepared folder was made of, and how: `manifest.json`, with `summary.json` and `summary.html`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from panformer_cli.data.prepare.summary import SplitSummary
from panformer_cli.data.prepare.summary_page import summary_page
from panformer_cli.errors import DataError
from panformer_cli.files import atomic_write, write_json

if TYPE_CHECKING:
    from panformer_cli.data.prepare.source import Source

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
            "root": str(source.root.resolve()),
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

    def finish(self, annotation: Path) -> SplitManifest:
        """Take in the JSON that was written."""
        digest = hashlib.sha256()
        with annotation.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
        self._annotation = {"name": annotation.name, "bytes": annotation.stat().st_size, "sha256": digest.hexdigest()}
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
        DataError: `out` holds another split of this name.
    """
    if not annotation.exists():
        return None
    record = _read(out / MANIFEST).get(manifest.split)
    summary = _read(out / SUMMARY).get(manifest.split)
    if (
        isinstance(record, dict)
        and isinstance(summary, dict)
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

    Raises:
        PanformerError: a file cannot be written.
    """
    records, summaries = _read(out / MANIFEST), _read(out / SUMMARY)
    summaries[summary.split] = summary.to_json()
    records[manifest.split] = manifest.to_json()
    write_json(out / SUMMARY, summaries)
    with atomic_write(out / PAGE) as temporary:
        temporary.write_text(summary_page(out.resolve().name, summaries), encoding="utf-8")
    write_json(out / MANIFEST, records)


def _read(path: Path) -> dict[str, Any]:
    """The object in a file of ours; empty where there is none, or none that can be used."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
