"""The list of a prediction's files, from which the next prediction in the same folder knows what to delete.

A prediction with the usual outputs has none: its panoptic JSON names the files. All others have
`OUT/.panformer_outputs.jsonl`: a header with the folders of the outputs, then a line for each image with the list of
its files, paths relative to `OUT` with `/`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from panformer_cli.data.result_folders import FILES, output_folders
from panformer_cli.engine.outputs.names import result_path
from panformer_cli.errors import DataError
from panformer_cli.storage.files import atomic_write, writing


def is_listed(out: Path) -> bool:
    """Return whether a folder has a list of files."""
    return output_folders(out) is not None


def write_list(out: Path, folders: Sequence[str], images: Iterable[Sequence[str]] = ()) -> None:
    """Write the list: at the beginning without images, so that the folder is recognized, and at the end with all.

    Raises:
        WriteError: As `files.atomic_write`.
    """
    with atomic_write(out / FILES) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(json.dumps({"folders": list(folders)}) + "\n")
        file.writelines(json.dumps(list(files)) + "\n" for files in images)


def complete_list(out: Path, images: Iterable[Sequence[str]]) -> None:
    """Add the files of all images to the list that the beginning of the prediction wrote, if it did."""
    folders = output_folders(out)
    if folders is not None:
        write_list(out, folders, images)


def add_file(out: Path, name: str) -> None:
    """Add a file that belongs to no image to the list."""
    with writing(out / FILES), (out / FILES).open("a", encoding="utf-8") as file:
        file.write(json.dumps([name]) + "\n")


def discard_list(out: Path) -> None:
    """Delete the list, if there is one."""
    if is_listed(out):
        (out / FILES).unlink()


def listed_files(out: Path) -> Iterator[Path]:
    """Yield the files in the list; names that lead out of the folder are skipped."""
    if not is_listed(out):
        return
    with (out / FILES).open("rb") as file:
        file.readline()
        for line in file:
            with suppress(ValueError):  # a list that was edited
                yield from paths_of(out, json.loads(line))


def paths_of(out: Path, files: object) -> Iterator[Path]:
    """Yield the paths of listed files; those that lead out of the folder, or are not text, are skipped."""
    for name in files if isinstance(files, list) else ():
        with suppress(DataError):
            if isinstance(name, str):
                yield result_path(out, name, str(out / FILES))
