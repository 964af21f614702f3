"""Write predictions in COCO's panoptic format, with any number of processes."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.json_stream import read_members
from panformer_cli.data.coco.panoptic_png import write_panoptic_png
from panformer_cli.data.coco.panoptic_writer import annotation_row
from panformer_cli.data.result_folders import LINES, PANOPTIC
from panformer_cli.data.structures import PanopticMap
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.errors import DataError, PanformerError
from panformer_cli.pages.replacing import discard_page
from panformer_cli.storage.files import atomic_write, is_file, name_inside
from panformer_cli.storage.plain_json import parse as parse_json
from panformer_cli.storage.result_log import Line, ResultLog

RECORDS, METRICS, ANALYSIS = "records.jsonl", "metrics.json", "analysis.json"
"""Files that are written at the end, from all images, besides `PANOPTIC`."""
LABEL_ERRORS, LABEL_ERRORS_PAGE = "label_errors.json", "label_errors"
"""File and folder that `evaluate --label-errors` adds."""
_KEYS = {
    METRICS: {"images", "panoptic"},
    ANALYSIS: {"causes", "confusion"},
    RECORDS: {"image_id", "overlap"},
    LABEL_ERRORS: {"kinds", "suspects"},
}
"""Some keys of these files, which show that panformer wrote them."""


_LOG_FILE = re.compile(r"settings\.json|[0-9]+\.(jsonl|lock)|\..*\.tmp")
"""The files in the folder of a log."""


class PanopticResults:
    """Writes `OUT/panoptic/<name>.png` per image and, at the end, `OUT/panoptic.json` and `OUT/records.jsonl`.

    Every process writes the PNGs and the result log of its own images; rank 0 merges the logs.
    """

    def __init__(self, out: Path, categories: CategoryTable, process: Process) -> None:
        self.out = out
        self.categories = categories
        self.process = process
        self.log = ResultLog(out / LINES, process.rank, process.world_size)

    @staticmethod
    def begin(out: Path, settings: dict[str, Any], resume: bool = False) -> None:
        """Discard the result log of an interrupted run, or keep it for `resume`; as `ResultLog.start`.

        Before the first new PNG is written, all files of an earlier run are deleted, unless it is resumed: the folder
        never has results of two runs. Other files are kept.

        Raises:
            PanformerError: `out` has a panoptic JSON that is not of predictions, or other files in the log's folder;
                and as `ResultLog.start`.
        """
        _check_is_predictions(out)
        _check_is_log(out / LINES)
        earlier = [] if resume and PanopticResults.is_begun(out) else list(_earlier_images(out))
        ResultLog.start(out / LINES, settings, resume)
        for path in earlier:
            path.unlink(missing_ok=True)
        discard_label_errors(out)
        for name in (ANALYSIS, RECORDS, PANOPTIC, METRICS) if _metrics(out) else (PANOPTIC,):
            (out / name).unlink(missing_ok=True)

    @staticmethod
    def is_begun(out: Path) -> bool:
        """Return whether there is an interrupted run that can be resumed."""
        return (out / LINES).is_dir()

    @property
    def pngs(self) -> Path:
        return self.out / "panoptic"

    @property
    def json(self) -> Path:
        return self.out / PANOPTIC

    def done(self) -> Iterator[Line]:
        """Return the lines of this process's images in the result log whose PNG exists, too."""
        return (line for line in self.log.own_lines() if (self.pngs / line["annotation"]["file_name"]).is_file())

    def add(
        self,
        index: int,
        image_id: int | str,
        names: tuple[str, str],
        panoptic: PanopticMap,
        more: Line | None = None,
        described: dict[str, Any] | None = None,
    ) -> None:
        """Write the PNG of an image, and its line in the result log.

        Args:
            index: Position of the image in the JSON.
            image_id: Id of the image in the JSON.
            names: File names of the image and of its PNG in the JSON; relative paths.
            panoptic: The prediction.
            more: More keys for the line; `record` is written to records.jsonl.
            described: How the image was run, if not once and whole: `inference` in its row of the JSON.
        """
        file_name, png_name = names
        write_panoptic_png(name_inside(self.pngs, png_name, "the list of images"), panoptic.ids)
        height, width = panoptic.ids.shape
        image = {"id": image_id, "file_name": file_name, "height": height, "width": width}
        if described:
            image["inference"] = described
        annotation = annotation_row(image_id, png_name, panoptic, self.categories)
        self.log.append(index, {"image": image, "annotation": annotation, **(more or {})})

    def finish(self) -> None:
        """Merge the result logs of all processes into the final files."""
        self.log.close()
        wait_for_lines(self.log, self.process)
        self.process.on_first(self._merge)

    def _merge(self) -> None:
        self._write_json()
        if "record" in next(self.log.lines(), {}):
            write_overlaps(self.out / RECORDS, self.log)
        self.log.remove()

    def _write_json(self) -> None:
        """Write the JSON of `panoptic_writer.panoptic_json` with one row in memory at a time."""
        with atomic_write(self.json) as temporary, temporary.open("w", encoding="utf-8") as file:
            for key in ("image", "annotation"):
                file.write('{"images": [' if key == "image" else '], "annotations": [')
                file.writelines(_with_commas(json.dumps(line[key]) for line in self.log.lines()))
            file.write(f'], "categories": {json.dumps(self.categories.to_coco())}}}')


def discard_label_errors(out: Path) -> None:
    """Delete the list and the page of an earlier evaluation in this folder, which would not describe the new one."""
    has_list = bool(_content(out / LABEL_ERRORS))
    if has_list or _metrics(out):
        discard_page(out / LABEL_ERRORS_PAGE)
    if has_list:
        (out / LABEL_ERRORS).unlink()


def _check_is_predictions(out: Path) -> None:
    """Raise PanformerError if there is a panoptic JSON of another tool, such as ground truth: it would be replaced."""
    path = out / PANOPTIC
    if path.exists() and not _is_predictions(out):
        raise PanformerError(
            f"{path} is not a result of panformer and would be replaced; choose another folder with --out"
        )


def _check_is_log(folder: Path) -> None:
    """Raise PanformerError if there is a file or folder with the name of the log that is not one."""
    if not os.path.lexists(folder):
        return
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else [""]
    other = next((name for name in names if not _LOG_FILE.fullmatch(name)), None)
    if other is not None:
        raise PanformerError(
            f"{folder / other} is not a result of panformer and would be deleted; choose another folder with --out"
        )


def check_images_are_free(out: Path, names: Iterable[str]) -> None:
    """Raise PanformerError if an overlay or a PNG that will be written is a file that no earlier run here wrote.

    If a run was interrupted here, its last files are not in its log yet, and nothing is checked.

    Args:
        out: Folder of results.
        names: Names of the images' results, with any suffix.
    """
    if PanopticResults.is_begun(out) or not out.is_dir():
        return
    earlier = set(_earlier_images(out))
    for name in names:
        png = (out / "panoptic" / name).with_suffix(".png")
        for path in (_overlay(out, png.relative_to(out / "panoptic").as_posix()), png):
            if path not in earlier and os.path.lexists(path):
                raise PanformerError(
                    f"{path} is not a result of panformer and would be replaced; choose another folder with --out, or "
                    "move the file"
                )


def _is_predictions(out: Path) -> bool:
    """Return whether the panoptic JSON is certainly of a prediction or an evaluation.

    In their segments, `category_name` repeats the name of the category. Without any segment, the JSON has exactly their
    members, and either no images (all of them failed) or other results of the same images.
    """
    members: list[str] = []
    rows: dict[str, list[Any]] = {"images": [], "annotations": []}
    try:
        for key, value in read_members(out / PANOPTIC):
            members.append(key)
            for row in value if key in rows and isinstance(value, Iterator) else ():
                segments = row.get("segments_info") if isinstance(row, dict) else None
                if segments:
                    first = segments[0] if isinstance(segments, list) else None
                    return isinstance(first, dict) and "category_name" in first
                rows[key].append(row)
        overlays = [_overlay(out, name) for name in map(_png_name, rows["annotations"]) if name]
    except (DataError, ValueError):
        return False
    if members != ["images", "annotations", "categories"]:
        return False
    return not any(rows.values()) or "checkpoint" in _metrics(out) or (bool(overlays) and all(map(is_file, overlays)))


def _earlier_images(out: Path) -> Iterator[Path]:
    """Yield the PNGs and overlays of an earlier run, by its panoptic JSON and, if it was interrupted, its log.

    The evaluation of a checkpoint has no overlays.
    """
    rows = [(line.get("annotation"), "record" not in line) for line in ResultLog(out / LINES).lines()]
    with suppress(DataError):
        has_overlays = "checkpoint" not in _metrics(out)
        rows += [(row, has_overlays) for row in _rows(out / PANOPTIC, "annotations")]
    for row, has_overlay in rows:
        with suppress(DataError):  # a name that leads out of the folder
            if name := _png_name(row):
                yield name_inside(out / "panoptic", name, str(out / PANOPTIC))
                if has_overlay:
                    yield _overlay(out, name)


def _png_name(row: Any) -> str:
    """Return the name of the PNG in a row of `annotations`; "" if it has none."""
    name = row.get("file_name") if isinstance(row, dict) else None
    return name if isinstance(name, str) else ""


def _overlay(out: Path, png_name: str) -> Path:
    return name_inside(out / "overlays", png_name, str(out / PANOPTIC)).with_suffix(".jpg")


def _rows(json_path: Path, key: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a list of a panoptic JSON; none if the file is missing."""
    if json_path.is_file():
        for name, value in read_members(json_path):
            if name == key and isinstance(value, Iterator):
                yield from (row for row in value if isinstance(row, dict))


def check_are_results(out: Path, *names: str) -> None:
    """Raise PanformerError if one of these files in `out` is of another program and would be replaced."""
    for name in names:
        path = out / name
        if os.path.lexists(path) and not _content(path):
            raise PanformerError(
                f"{path} is not a result of panformer and would be replaced; choose another folder with --out"
            )


def _metrics(out: Path) -> dict[str, Any]:
    """Return the content of metrics.json if it is from an evaluation, else {}: that of another program is kept."""
    return _content(out / METRICS)


def _content(path: Path) -> dict[str, Any]:
    """Return the object in a file of results, or in its first line; {} if it is of another program or missing."""
    try:
        with path.open("rb") as file:
            content = parse_json(file.readline() if path.name == RECORDS else file.read())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) and content.keys() >= _KEYS[path.name] else {}


def wait_for_lines(log: ResultLog, process: Process) -> None:
    """Wait until every process has written its result log.

    Raises:
        PanformerError: On rank 0, if it does not find the log of another process.
    """
    written = process.gather(log.path.name if log.path.is_file() else None)
    if process.is_first and (missing := [name for name in written if name and not (log.folder / name).is_file()]):
        raise PanformerError(
            f"{log.folder}: rank 0 does not find {missing[0]}, which a process on another machine wrote; expected a "
            "folder that all machines share; choose one with --out, and with TMPDIR for --predictions"
        )


def write_overlaps(path: Path, log: ResultLog) -> None:
    """Write the image overlaps in the log, one per line, in the order of the images; errors as `atomic_write`."""
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line["record"]) + "\n" for line in log.lines())


def _with_commas(texts: Iterable[str]) -> Iterator[str]:
    """Yield the texts with commas between them."""
    for number, text in enumerate(texts):
        yield f"{', ' if number else ''}{text}"
