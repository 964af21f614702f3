"""Write predictions in COCO's panoptic format, with any number of processes; other outputs are in `outputs/`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.json_stream import read_members
from panformer_cli.data.coco.panoptic_png import write_panoptic_png
from panformer_cli.data.coco.panoptic_writer import annotation_row, panoptic_json
from panformer_cli.data.disk_list import DiskList
from panformer_cli.data.result_folders import LINES, PANOPTIC
from panformer_cli.data.structures import PanopticMap
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.outputs.file_list import complete_list, discard_list, is_listed, listed_files, paths_of
from panformer_cli.errors import DataError, PanformerError
from panformer_cli.pages.replacing import discard_page
from panformer_cli.storage.files import atomic_write, is_file, name_inside
from panformer_cli.storage.plain_json import parse as parse_json
from panformer_cli.storage.result_log import Line, ResultLog

RECORDS, METRICS, ANALYSIS = "records.jsonl", "metrics.json", "analysis.json"
"""Files that are written at the end, from all images, besides `PANOPTIC`."""
MANIFEST = "predict.json"
"""What `predict` did: its settings, and the images that failed."""
LABEL_ERRORS, LABEL_ERRORS_PAGE = "label_errors.json", "label_errors"
"""File and folder that `evaluate --label-errors` adds."""
_KEYS = {
    METRICS: {"images", "panoptic"},
    ANALYSIS: {"causes", "confusion"},
    RECORDS: {"image_id", "overlap"},
    LABEL_ERRORS: {"kinds", "suspects"},
    MANIFEST: {"settings", "failures"},
}
"""Some keys of these files, which show that panformer wrote them."""


_LOG_FILE = re.compile(r"settings\.json|[0-9]+\.(jsonl|lock)|\..*\.tmp")
"""The files in the folder of a log."""


class PanopticResults:
    """Writes `OUT/panoptic/<name>.png` per image and, at the end, `OUT/panoptic.json` and `OUT/records.jsonl`.

    Every process writes the PNGs and the result log of its own images; rank 0 merges the logs.
    """

    def __init__(self, out: Path, categories: CategoryTable, process: Process, has_json: bool = True) -> None:
        self.out = out
        self.has_json = has_json
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
        ResultLog.check_is_free(out / LINES)
        if not (resume and PanopticResults.is_begun(out)):
            _delete(out, _earlier_images(out))
            discard_list(out)
        ResultLog.start(out / LINES, settings, resume)
        discard_label_errors(out)
        replaced = [PANOPTIC, *([ANALYSIS, RECORDS, METRICS] if _metrics(out) else [])]
        for name in [*replaced, *([MANIFEST] if _content(out / MANIFEST) else [])]:
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
        """Return the lines of this process's images in the result log whose files exist, too."""
        return (line for line in self.log.own_lines() if all(map(is_file, _files_of_line(self.out, line))))

    def add(
        self,
        index: int,
        image_id: int | str,
        names: tuple[str, str],
        panoptic: PanopticMap,
        more: Line | None = None,
    ) -> None:
        """Write the line of an image in the result log, and its PNG after that, so that the log knows every PNG.

        Args:
            index: Position of the image in the JSON.
            image_id: Id of the image in the JSON.
            names: File names of the image and of its PNG in the JSON; relative paths.
            panoptic: The prediction.
            more: More keys for the line; `record` is written to records.jsonl, and `files`, the image's files, to the
                list of files.
        """
        path = name_inside(self.pngs, names[1], "the list of images")
        self.append(index, image_id, names, panoptic, more)
        write_panoptic_png(path, panoptic.ids)

    def append(
        self,
        index: int,
        image_id: int | str,
        names: tuple[str, str],
        panoptic: PanopticMap,
        more: Line | None = None,
        inference: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the line of an image in the result log; arguments as `add`.

        `inference` is how the image was run, for its row in the JSON; empty if once and whole.
        """
        file_name, png_name = names
        height, width = panoptic.ids.shape
        image = {"id": image_id, "file_name": file_name, "height": height, "width": width}
        if inference:
            image["inference"] = dict(inference)
        annotation = annotation_row(image_id, png_name, panoptic, self.categories)
        self.log.append(index, {"image": image, "annotation": annotation, **(more or {})})

    def finish(self) -> dict[str, Any] | None:
        """Merge the result logs of all processes into the final files, and delete them; return as `merge`."""
        content = self.merge()
        self.process.on_first(self.log.remove)
        return content

    def merge(self) -> dict[str, Any] | None:
        """Merge the result logs of all processes into the final files; return the JSON's content if it has no file."""
        self.log.close()
        wait_for_lines(self.log, self.process)
        return self.process.on_first(self._merge)

    def _merge(self) -> dict[str, Any] | None:
        content = None
        if self.has_json:
            self._write_json()
        else:
            lines = list(self.log.lines())
            images, annotations = ([line[key] for line in lines] for key in ("image", "annotation"))
            content = panoptic_json(images, annotations, self.categories)
        if "record" in next(self.log.lines(), {}):
            write_overlaps(self.out / RECORDS, self.log)
        complete_list(self.out, (line.get("files", ()) for line in self.log.lines()))
        return content

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


def check_images_are_free(out: Path, in_the_way: Iterable[Path]) -> None:
    """Raise PanformerError if a file in the way of a result is not one that an earlier run here wrote.

    Args:
        out: Folder of results.
        in_the_way: Existing files that would be replaced.
    """
    if not out.is_dir():
        return
    earlier = DiskList(map(str, _earlier_images(out)), key=str)  # a set of a million paths takes a lot of memory
    for path in in_the_way:
        if earlier.first(str(path)) is None:
            raise PanformerError(
                f"{path} is not a result of panformer and would be replaced; choose another folder with --out, or "
                "move the file"
            )


def _is_predictions(out: Path) -> bool:
    """Return whether the panoptic JSON is certainly of a prediction or an evaluation.

    In their segments, `category_name` repeats the name of the category. Without any segment, the JSON has exactly their
    members, and either no images (all of them failed) or other results of the same images, or there is a list of files.
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
    if is_listed(out):
        return True
    return not any(rows.values()) or "checkpoint" in _metrics(out) or (bool(overlays) and all(map(is_file, overlays)))


def _earlier_images(out: Path) -> Iterator[Path]:
    """Yield the files of each image of an earlier run, by its list of files or panoptic JSON, and, if it was
    interrupted, its log.

    The evaluation of a checkpoint has no overlays.
    """
    for line in ResultLog(out / LINES).lines():
        yield from _files_of_line(out, line)
    if is_listed(out):
        yield from listed_files(out)
        return
    with suppress(DataError):
        has_overlays = "checkpoint" not in _metrics(out)
        for row in rows_of(out / PANOPTIC, "annotations"):
            yield from _usual_files(out, row, has_overlays)


def _files_of_line(out: Path, line: Line) -> Iterator[Path]:
    """Yield the files of the image of a line in the result log."""
    if "files" in line:
        yield from paths_of(out, line["files"])
    else:
        yield from _usual_files(out, line.get("annotation"), "record" not in line)


def _usual_files(out: Path, row: Any, has_overlay: bool) -> Iterator[Path]:
    """Yield the PNG in a row of `annotations`, and the overlay of the same name if there is one."""
    with suppress(DataError):  # a name that leads out of the folder
        if name := _png_name(row):
            yield name_inside(out / "panoptic", name, str(out / PANOPTIC))
            if has_overlay:
                yield _overlay(out, name)


def _delete(out: Path, paths: Iterable[Path]) -> None:
    """Delete files of an earlier run, and the folders in `out` that are empty then."""
    folders: set[Path] = set()
    for path in paths:
        path.unlink(missing_ok=True)
        folders.update(folder for folder in path.parents if folder != out and folder.is_relative_to(out))
    for folder in sorted(folders, reverse=True):  # inner folders first
        with suppress(OSError):  # it is not empty, or a link
            folder.rmdir()


def _png_name(row: Any) -> str:
    """Return the name of the PNG in a row of `annotations`; "" if it has none."""
    name = row.get("file_name") if isinstance(row, dict) else None
    return name if isinstance(name, str) else ""


def _overlay(out: Path, png_name: str) -> Path:
    return name_inside(out / "overlays", png_name, str(out / PANOPTIC)).with_suffix(".jpg")


def rows_of(json_path: Path, key: str) -> Iterator[dict[str, Any]]:
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
