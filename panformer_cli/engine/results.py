"""Predictions on disk in COCO's panoptic form, written by any number of processes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.panoptic_png import write_panoptic_png
from panformer_cli.data.coco.panoptic_writer import annotation_row
from panformer_cli.data.structures import PanopticMap
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.errors import PanformerError
from panformer_cli.storage.files import atomic_write, name_inside
from panformer_cli.storage.plain_json import parse as parse_json
from panformer_cli.storage.result_log import Line, ResultLog

LINES = ".parts"
"""The folder of what is not yet joined, inside the folder of results."""
PANOPTIC, RECORDS, METRICS, ANALYSIS = "panoptic.json", "records.jsonl", "metrics.json", "analysis.json"
"""Files that are made of all images, at the end."""


class PanopticResults:
    """`OUT/panoptic/<name>.png` as they come and, at the end, `OUT/panoptic.json` and `OUT/records.jsonl`.

    Every process writes the PNGs and the lines of its own images; the first process joins the lines.
    """

    def __init__(self, out: Path, categories: CategoryTable, process: Process) -> None:
        self.out = out
        self.categories = categories
        self.process = process
        self.log = ResultLog(out / LINES, process.rank, process.world_size)

    @staticmethod
    def begin(out: Path, settings: dict[str, Any], resume: bool = False) -> None:
        """Forget what was left there without an end, or keep it for `resume`; as `ResultLog.start`.

        What an earlier use of the folder made of all its images goes before the first PNG of another comes.
        """
        ResultLog.start(out / LINES, settings, resume)
        for name in (ANALYSIS, RECORDS, PANOPTIC, METRICS) if _has_figures(out) else (PANOPTIC,):
            (out / name).unlink(missing_ok=True)

    @staticmethod
    def is_begun(out: Path) -> bool:
        """Whether there is something without an end, that can be gone on from."""
        return (out / LINES).is_dir()

    @property
    def pngs(self) -> Path:
        return self.out / "panoptic"

    @property
    def json(self) -> Path:
        return self.out / PANOPTIC

    def done(self) -> Iterator[Line]:
        """The lines from before that are this process's and whose PNG is there too."""
        return (line for line in self.log.own_lines() if (self.pngs / line["annotation"]["file_name"]).is_file())

    def add(
        self,
        index: int,
        image_id: int | str,
        names: tuple[str, str],
        panoptic: PanopticMap,
        more: Line | None = None,
    ) -> None:
        """Write the PNG of an image, and its line.

        index: the image's place in the JSON. names: of the image and of its PNG, relative, as the JSON will say.
        more: what else the line says; a `record` gets into records.jsonl.
        """
        file_name, png_name = names
        write_panoptic_png(name_inside(self.pngs, png_name, "the list of images"), panoptic.ids)
        height, width = panoptic.ids.shape
        image = {"id": image_id, "file_name": file_name, "height": height, "width": width}
        annotation = annotation_row(image_id, png_name, panoptic, self.categories)
        self.log.append(index, {"image": image, "annotation": annotation, **(more or {})})

    def finish(self) -> None:
        """Join what all processes wrote."""
        self.log.close()
        wait_for_lines(self.log, self.process)
        self.process.on_first(self._join)

    def _join(self) -> None:
        self._write_json()
        if "record" in next(self.log.lines(), {}):
            write_records(self.out / RECORDS, self.log)
        self.log.remove()

    def _write_json(self) -> None:
        """As `panoptic_writer.panoptic_json`, one row in memory at a time."""
        with atomic_write(self.json) as temporary, temporary.open("w", encoding="utf-8") as file:
            for key in ("image", "annotation"):
                file.write('{"images": [' if key == "image" else '], "annotations": [')
                file.writelines(_joined(json.dumps(line[key]) for line in self.log.lines()))
            file.write(f'], "categories": {json.dumps(self.categories.to_coco())}}}')


def _has_figures(out: Path) -> bool:
    """Whether there are figures of an evaluation; a metrics.json of another program is not ours to delete."""
    try:
        content = parse_json((out / METRICS).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and {"images", "panoptic"} <= content.keys()


def wait_for_lines(log: ResultLog, process: Process) -> None:
    """Wait until every process has written its lines.

    Raises:
        PanformerError: in the first process, if it does not see the lines of another one.
    """
    written = process.gather(log.path.name if log.path.is_file() else None)
    if process.is_first and (lost := [name for name in written if name and not (log.folder / name).is_file()]):
        raise PanformerError(
            f"{log.folder}: the first process does not see {lost[0]}, which a process of another machine wrote; "
            "expected a folder that all machines share; choose one with --out, and with TMPDIR for --predictions"
        )


def write_records(path: Path, log: ResultLog) -> None:
    """Write the records of all lines, a line each, in the order of the images; errors as `atomic_write`."""
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line["record"]) + "\n" for line in log.lines())


def _joined(texts: Iterable[str]) -> Iterator[str]:
    """The texts with commas between them."""
    for number, text in enumerate(texts):
        yield f"{', ' if number else ''}{text}"
