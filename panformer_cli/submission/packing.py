"""Results packed for a test server: `evaluate --submission`."""

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
"""The earliest that a zip can hold: with it, equal results give equal bytes."""


def write_submission(results: Path, target: Path, form: Form, reporter: Reporter) -> int:
    """Pack predictions into the zip that a benchmark takes, and return how many images it holds.

    results: folder of `evaluate` or `predict`, with `panoptic.json` and `panoptic/*.png`.
    target: the zip; its name is checked by `Form.check_name`, which can be asked before predicting, too.

    The zip `NAME.zip` holds `NAME.json` (image_id, file_name, segments_info of id and category_id) and the PNGs as
    they are, in `NAME/`. One PNG is held at a time, and `target` appears whole or not at all.

    Raises:
        PanformerError: the name does not fit the form, the results are missing or damaged, two images would share an
            id or a PNG, or the zip cannot be written.
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
    """Image id and PNG name of every image, as the benchmark wants them: all PNGs lie in one folder."""
    rows = [
        {"image_id": form.server_id(image.id, image.file_name), "file_name": PurePosixPath(image.png_name).name}
        for image in annotation.images
    ]
    for key in ("image_id", "file_name"):
        seen = set()
        for row in rows:
            if row[key] in seen:
                raise DataError(
                    f"{annotation.path}: two images have the {key} {row[key]!r} in a submission; "
                    "expected another for each: predict the images of the test set alone"
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
    """The JSON, an image at a time."""
    yield '{"annotations": ['
    for index, row in enumerate(rows):
        segments = [{"id": segment.id, "category_id": segment.category_id} for segment in annotation.segments(index)]
        yield (",\n" if index else "\n") + json.dumps({**row, "segments_info": segments})
    yield "\n]}\n"


def _entry(name: str, method: int = zipfile.ZIP_STORED) -> zipfile.ZipInfo:
    """A file of a zip, the same on every system. PNGs are compressed already, so they are stored."""
    entry = zipfile.ZipInfo(name, _FIRST_DATE)
    entry.compress_type = method
    entry.create_system = 3
    entry.external_attr = 0o100644 << 16
    return entry
