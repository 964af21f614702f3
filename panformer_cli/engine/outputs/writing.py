"""Writes the results of images: the files of an image appear together, or none of them does."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from panformer_cli.data.categories import CategoryTable
from panformer_cli.engine.outputs.names import result_path
from panformer_cli.engine.outputs.registry import ResultFile, Saving, SegmentedImage
from panformer_cli.engine.results import PanopticResults
from panformer_cli.storage.files import atomic_write, writing


class OutputWriter:
    """Writes the chosen outputs of images, and their lines in the result log. Thread-safe for different images.

    Attributes:
        results: The folder of results and its log.
        saving: The outputs.
        categories: The categories, with the colors of the drawings.
    """

    def __init__(self, results: PanopticResults, saving: Saving, categories: CategoryTable) -> None:
        self.results = results
        self.saving = saving
        self.categories = categories

    def write(self, index: int, segmented: SegmentedImage, name: str) -> None:
        """Write all files of an image.

        The line of the log that lists them is written before they appear. So if the process is killed at any time, the
        next call in the folder knows them, and takes the image for finished only if all of them exist.

        Args:
            index: Position of the image in the JSON.
            segmented: The image and its segmentation.
            name: Name of its results, a relative path with any suffix.

        Raises:
            DataError: An output cannot represent the segmentation; nothing is written.
            WriteError: A file cannot be written; none remains.
        """
        files = (file for output in self.saving.outputs for file in output.files(segmented, name))
        with written_together(self.results.out, files, self.results.log.folder / f".{index}") as names:
            more = {} if self.saving.is_usual else {"files": names}
            png_name = PurePosixPath(name).with_suffix(".png").as_posix()
            file_names = segmented.file_name, png_name
            self.results.append(index, segmented.id, file_names, segmented.panoptic, more, segmented.inference)


@contextmanager
def written_together(out: Path, files: Iterable[ResultFile], staging: Path) -> Iterator[list[str]]:
    """Write files to temporary paths, yield their names, and move them into `out` after the block.

    If anything fails, in the block too, none of the files is in `out`.

    Args:
        out: Folder of the results.
        files: The files.
        staging: Path with which the names of the temporary files begin.

    Raises:
        DataError: A path leads out of `out`.
        WriteError: A file cannot be written.
    """
    staged: dict[str, Path] = {}
    moved: list[Path] = []
    try:
        for file in files:
            temporary = staging.with_name(f"{staging.name}-{len(staged)}.tmp")
            with writing(result_path(out, file.name, "the list of images")):
                staged[file.name] = temporary
                _write(temporary, file)
        yield list(staged)
        for name, temporary in staged.items():
            path = result_path(out, name, "the list of images")
            with writing(path):
                _move(temporary, path)
            moved.append(path)
    except BaseException:
        for path in moved:
            with suppress(OSError):
                path.unlink()
        raise
    finally:
        for temporary in staged.values():
            with suppress(OSError):
                temporary.unlink()


def _write(path: Path, file: ResultFile) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as opened:
        opened.write(file.content)
        if file.waits_for_disk:
            opened.flush()
            os.fsync(opened.fileno())


def _move(temporary: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.replace(temporary, path)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with atomic_write(path) as copy:  # the output's folder is a link to another disk
            shutil.copyfile(temporary, copy)
