"""Pack results for a test server (`--submission`)."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from panformer_cli.data.coco.panoptic_annotation import PanopticAnnotation
from panformer_cli.data.coco.panoptic_json import read_annotation
from panformer_cli.data.images import read_bytes
from panformer_cli.errors import DataError
from panformer_cli.reporting import Reporter
from panformer_cli.storage.files import atomic_write, name_inside
from panformer_cli.submission.forms import Form

_FIRST_DATE = (1980, 1, 1, 0, 0, 0)
"""The earliest date that a zip supports. A fixed date makes equal results give equal bytes."""


def write_submission(results: Path, target: Path, form: Form, reporter: Reporter) -> int:
    """Pack predictions into a submission zip and return the number of images.

    The zip `NAME.zip` contains `NAME.json` (image_id, file_name, segments_info with id and category_id) and the
    unchanged PNGs in `NAME/`. One PNG is in memory at a time. `target` is written atomically.

    Args:
        results: Output folder of `evaluate` or `predict`, with `panoptic.json` and `panoptic/*.png`.
        target: The zip. Its name is checked by `Form.check_name`, which can also be called before predicting.
        form: The rules of the benchmark.
        reporter: Receives progress.

    Raises:
        PanformerError: The name does not match the form, the results are missing or corrupt, two images share an id or
            a PNG, or the zip cannot be written.
    """
    form.check_name(target)
    annotation = read_annotation(results / "panoptic.json")
    rows = _rows(annotation, form)
    with atomic_write(target) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        _write_json(archive, f"{target.stem}.json", rows, annotation)
        with reporter.progress("Packing", len(rows)) as progress:
            for image, row in zip(annotation.images, rows, strict=True):
                png = name_inside(results / "panoptic", image.png_name, str(annotation.path))
                archive.writestr(_entry(f"{target.stem}/{row['file_name']}"), read_bytes(png, "panoptic PNG"))
                progress.advance()
    return len(rows)


def _rows(annotation: PanopticAnnotation, form: Form) -> list[dict[str, Any]]:
    """Return the benchmark's id and the flat PNG name of each image."""
    rows = [
        {"image_id": form.server_id(image.id, image.file_name), "file_name": PurePosixPath(image.png_name).name}
        for image in annotation.images
    ]
    for key in ("image_id", "file_name"):
        seen = set()
        for row in rows:
            if row[key] in seen:
                raise DataError(
                    f"{annotation.path}: two images have the {key} {row[key]!r} in the submission; "
                    "expected unique values; predict only the images of the test set"
                )
            seen.add(row[key])
    return rows


def _write_json(
    archive: zipfile.ZipFile, name: str, rows: list[dict[str, Any]], annotation: PanopticAnnotation
) -> None:
    with archive.open(_entry(name, zipfile.ZIP_DEFLATED), "w") as file:
        for piece in _json_pieces(rows, annotation):
            file.write(piece.encode("utf-8"))


def _json_pieces(rows: list[dict[str, Any]], annotation: PanopticAnnotation) -> Iterator[str]:
    """Yield the JSON image by image."""
    yield '{"annotations": ['
    for index, row in enumerate(rows):
        segments = [{"id": segment.id, "category_id": segment.category_id} for segment in annotation.segments(index)]
        yield (",\n" if index else "\n") + json.dumps({**row, "segments_info": segments})
    yield "\n]}\n"


def _entry(name: str, method: int = zipfile.ZIP_STORED) -> zipfile.ZipInfo:
    """Return a zip entry that is identical on all systems. PNGs are stored, being compressed already."""
    entry = zipfile.ZipInfo(name, _FIRST_DATE)
    entry.compress_type = method
    entry.create_system = 3
    entry.external_attr = 0o100644 << 16
    return entry
