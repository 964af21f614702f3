"""Repair a panoptic JSON, keeping the old file and listing every change."""

from __future__ import annotations

import json
import os
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any, TextIO

from panformer_cli.data.coco.json_stream import read_panoptic_members
from panformer_cli.data.disk_list import DiskList
from panformer_cli.storage.files import atomic_write
from panformer_cli.verify.findings import Change


@dataclass(frozen=True)
class FixedFile:
    """A repaired JSON.

    Attributes:
        changes: Number of changes.
        listed_in: The file that lists them.
        backup: The old JSON.
    """

    changes: int
    listed_in: Path
    backup: Path

    def to_json(self) -> dict[str, Any]:
        """Return the same as JSON."""
        return {"changes": self.changes, "listed_in": str(self.listed_in), "backup": str(self.backup)}


class ChangeLog:
    """The changes of a JSON, collected during the check. Those of annotations are stored on disk: there may be many."""

    def __init__(self) -> None:
        self._of_images: dict[int, list[Change]] = defaultdict(list)
        self._of_annotations = DiskList[Change]()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, changes: Iterable[Change]) -> None:
        """Add changes. Those of annotations must be added in the order of the JSON."""
        for change in changes:
            self._count += 1
            if change.place == "images":
                self._of_images[change.index].append(change)
            else:
                self._of_annotations.append(change)

    def apply(self, annotation: Path) -> FixedFile:
        """Replace the JSON with one that has the changes.

        The old one is kept as `<name>.json.bak` and the changes are listed in `<name>.changes.json`, with a number if
        these files exist. Either all three files are written or none.

        Raises:
            PanformerError: The folder cannot be written, or the disk is full.
        """
        backup, listed_in = _free_names(annotation)
        old = annotation.stat()
        try:
            with atomic_write(annotation) as temporary:
                with temporary.open("w", encoding="utf-8") as file:
                    self._write_fixed(annotation, file)
                _copy(annotation, backup)
                with atomic_write(listed_in) as list_file, list_file.open("w", encoding="utf-8") as file:
                    self._write_changes(annotation, file)
        except BaseException:
            if os.path.samestat(old, annotation.stat()):  # not replaced: remove the other files
                backup.unlink(missing_ok=True)
                listed_in.unlink(missing_ok=True)
            raise
        return FixedFile(self._count, listed_in, backup)

    def _write_fixed(self, annotation: Path, file: TextIO) -> None:
        for number, (key, value) in enumerate(read_panoptic_members(annotation)):
            file.write(("{" if number == 0 else ", ") + json.dumps(key) + ": ")
            if not isinstance(value, Iterator):
                file.write(json.dumps(value))
                continue
            rows = self._fixed_rows(value) if key == "annotations" else value
            if key == "images":
                rows = (_changed(row, self._of_images.get(index, ())) for index, row in enumerate(value))
            _write_list(rows, ", ", file)
        file.write("}")

    def _fixed_rows(self, rows: Iterator[Any]) -> Iterator[Any]:
        """Yield the rows of `annotations` with their changes, which are in the same order."""
        saved = iter(self._of_annotations)
        waiting = next(saved, None)
        for index, row in enumerate(rows):
            changes = []
            while waiting is not None and waiting.index == index:
                changes.append(waiting)
                waiting = next(saved, None)
            yield _changed(row, changes)

    def _write_changes(self, annotation: Path, file: TextIO) -> None:
        of_images = chain.from_iterable(self._of_images.values())
        file.write(json.dumps({"file": annotation.name}).removesuffix("}") + ', "changes": ')
        _write_list(map(asdict, chain(of_images, self._of_annotations)), ",\n", file)
        file.write("}\n")


def _write_list(items: Iterable[Any], comma: str, file: TextIO) -> None:
    """Write a JSON list item by item."""
    file.write("[")
    for index, item in enumerate(items):
        file.write((comma if index else "") + json.dumps(item))
    file.write("]")


def _changed(row: Any, changes: Iterable[Change]) -> Any:
    """Return the row with its changes applied."""
    removed = set()
    for change in changes:
        if change.segment is not None and change.key is None:
            removed.add(change.segment)
        elif change.key is not None:
            target = row if change.segment is None else row["segments_info"][change.segment]
            target[change.key] = change.new
    if removed:
        kept = [segment for position, segment in enumerate(row["segments_info"]) if position not in removed]
        row["segments_info"] = kept
    return row


def _free_names(annotation: Path) -> tuple[Path, Path]:
    """Return unused paths for the backup and the list of changes, with the same number."""
    for number in count():
        suffix = f".{number}" if number else ""
        backup = annotation.with_name(f"{annotation.name}.bak{suffix}")
        listed_in = annotation.with_name(f"{annotation.stem}.changes{suffix}.json")
        if not os.path.lexists(backup) and not os.path.lexists(listed_in):
            return backup, listed_in
    raise AssertionError("unreachable: count() is infinite")


def _copy(source: Path, target: Path) -> None:
    """Copy a file and flush it to disk."""
    with source.open("rb") as old, target.open("xb") as new:
        shutil.copyfileobj(old, new)
        new.flush()
        os.fsync(new.fileno())
