"""One image of a data set: its file, its PNG and its rows in the JSON against each other."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from panformer_cli.data.coco.json_values import is_count, is_text
from panformer_cli.data.coco.panoptic_png import read_panoptic_png
from panformer_cli.data.image_header import ImageHeader, read_header
from panformer_cli.data.images import read_bytes, read_image
from panformer_cli.data.layout import SplitLayout
from panformer_cli.data.structures import IdMap
from panformer_cli.errors import DataError
from panformer_cli.storage.files import is_file, name_inside
from panformer_cli.verify.findings import Change, Finding, Problem
from panformer_cli.verify.outline import ImageId, ListedImage
from panformer_cli.verify.segments import SegmentChecks
from panformer_cli.wording import short

MAX_PIXELS = 2**28
"""A PNG that declares more is not decoded: it would take gigabytes."""

_PNG_START = b"\x89PNG\r\n\x1a\n"
_RGB_8 = (8, 2)  # bit depth and colour type in a PNG's header
_Size = tuple[int, int]


@dataclass(frozen=True)
class Setting:
    """What is the same for all images of a split.

    is_thing: as `Outline.is_thing`.
    decodes_images: read the pixels of the images, not only their headers.
    hashes_images: images may have to be compared with those of another split.
    """

    layout: SplitLayout
    is_thing: dict[int, bool | None] | None
    decodes_images: bool = False
    hashes_images: bool = False


@dataclass(frozen=True)
class AnnotationRow:
    """A row of `annotations` whose keys are of the right kind; `index` is its position in the list."""

    index: int
    png_name: str
    segments: list[Any]


@dataclass(frozen=True)
class ImageTask:
    """An image to check: its rows in the JSON, one of which may be missing."""

    image_id: ImageId
    listed: ListedImage | None
    annotation: AnnotationRow | None


@dataclass
class ImageResult:
    """What was found in one image.

    file_name: as the JSON lists it; None where it lists none.
    segments: how many the JSON has of it.
    digest: of the bytes of the image file; None where they were not read.
    """

    file_name: str | None
    segments: int
    findings: list[Finding] = field(default_factory=list)
    digest: bytes | None = None


def check_image(setting: Setting, task: ImageTask) -> ImageResult:
    """Check one image; whatever is wrong becomes a finding."""
    listed, annotation = task.listed, task.annotation
    result = ImageResult(listed.file_name if listed else None, len(annotation.segments) if annotation else 0)
    _ImageChecks(setting, task, result).run()
    return result


class _ImageChecks:
    def __init__(self, setting: Setting, task: ImageTask, result: ImageResult) -> None:
        self._setting = setting
        self._task = task
        self._result = result
        self._where = f"{setting.layout.annotation.name}: image {short(task.image_id)}"

    def run(self) -> None:
        header = self._check_image_file()
        png_size, ids = self._check_png()
        shown = header.shown if header else None
        self._check_listed_size(shown, png_size)
        if header and png_size:
            self._check_sizes(header, png_size)
        row = self._task.annotation
        if row is not None:
            expected = shown or self._listed_size()
            is_sized = expected is None or expected == png_size
            checks = SegmentChecks(self._task.image_id, row.index, self._where, self._setting.is_thing)
            self._result.findings += checks.run(row.segments, ids, is_sized)

    def _add(self, problem: Problem, sentence: str, *changes: Change) -> None:
        self._result.findings.append(Finding(problem, sentence, changes))

    def _check_image_file(self) -> ImageHeader | None:
        """The header of the image, where it has a name and can be read."""
        listed = self._task.listed
        if listed is None:
            return None
        path = self._find(self._setting.layout.images, listed.file_name, "images", listed.index)
        if path is None:
            return None
        try:
            header = read_header(path)
            if self._setting.decodes_images:
                read_image(path)
            if self._setting.hashes_images:
                self._result.digest = hashlib.blake2b(read_bytes(path, "image"), digest_size=16).digest()
        except DataError as error:
            self._add(Problem.IMAGE_DAMAGED if is_file(path) else Problem.IMAGE_MISSING, str(error))
            return None
        return header

    def _check_png(self) -> tuple[_Size | None, IdMap | None]:
        """Size and ids of the PNG, as far as it can be read."""
        row = self._task.annotation
        path = row and self._find(self._setting.layout.pngs, row.png_name, "annotations", row.index)
        if not path:
            return None, None
        size, is_rgb = _read_png_header(path)
        if size and size[0] * size[1] > MAX_PIXELS:
            self._add(
                Problem.PNG_DAMAGED, f"{path} declares {_words(size)} pixels; expected at most {MAX_PIXELS} in all"
            )
            return size, None
        try:
            return size, read_panoptic_png(path)
        except DataError as error:
            kind = Problem.PNG_DAMAGED if is_rgb else Problem.PNG_FORMAT
            self._add(kind if is_file(path) else Problem.PNG_MISSING, str(error))
        return size, None

    def _find(self, folder: Path, name: str, place: Literal["images", "annotations"], index: int) -> Path | None:
        """The path of a file that the JSON names; None where the name cannot be used."""
        try:
            path = name_inside(folder, name, self._where)
            is_usable = is_text(name)
        except DataError as error:
            self._add(Problem.NAME_UNUSABLE, str(error))
            return None
        except OSError:
            is_usable = False
        if not is_usable:
            self._add(
                Problem.NAME_UNUSABLE,
                f"{self._where}: no file of a data set can have the name {short(name)}; expected another",
            )
            return None
        if "\\" in name:
            change = Change(self._task.image_id, place, index, None, "file_name", name, name.replace("\\", "/"))
            sentence = f"{self._where}: the file name {short(name)} has backslashes; expected / between folders"
            # Where there is no such file, a backslash may be a part of a name.
            self._add(Problem.NAME_BACKSLASH, sentence, *([change] if is_file(path) else []))
        if not name.isascii():
            sentence = f"{self._where}: the file name {short(name)} is not ASCII; some tools and systems cannot read it"
            self._add(Problem.NAME_NOT_ASCII, sentence)
        return path

    def _check_sizes(self, header: ImageHeader, png: _Size) -> None:
        name = self._task.listed.file_name if self._task.listed else ""
        turned = f"{self._where}: {short(name)} has EXIF orientation {header.orientation}"
        if header.shown == png:
            if header.orientation != 1 and header.stored == png:
                sentence = f"{turned}, with which sizes do not change; see that the PNG is of the image as it is shown"
                self._add(Problem.IMAGE_ORIENTATION, sentence)
        elif header.stored == png:
            sentence = f"{turned} and is shown as {_words(header.shown)}, but its PNG is {_words(png)}, as it is stored"
            self._add(Problem.IMAGE_ROTATED, f"{sentence}; turn the PNG, or take the EXIF data out of the image")
        else:
            sentence = f"{self._where}: {short(name)} is {_words(header.shown)} but its PNG is {_words(png)}"
            self._add(Problem.IMAGE_SIZE, f"{sentence} (width x height); expected equal sizes")

    def _listed_size(self) -> _Size | None:
        listed = self._task.listed
        if listed is None or not is_count(listed.height, 1) or not is_count(listed.width, 1):
            return None
        return listed.height, listed.width

    def _check_listed_size(self, shown: _Size | None, png: _Size | None) -> None:
        """The size in the JSON may agree with the image or with the PNG: which of these is wrong is another finding."""
        listed, files = self._task.listed, [size for size in (shown, png) if size]
        if listed is None or not files:
            return
        given = {"height": listed.height, "width": listed.width}
        if any(all(given[side] in (None, size[i]) for i, side in enumerate(given)) for size in files):
            return
        changes = []
        if shown is not None and shown == png:
            new = dict(zip(given, shown, strict=True))
            changes = [
                Change(self._task.image_id, "images", listed.index, None, side, given[side], new[side])
                for side in given
                if given[side] not in (None, new[side])
            ]
        found = " and ".join(dict.fromkeys(_words(size) for size in files))
        sentence = (
            f"{self._where} is listed with width {short(listed.width)} and height {short(listed.height)} but its files "
            f"are {found} (width x height); expected the same"
        )
        self._add(Problem.SIZE_LISTED, sentence, *changes)


def _read_png_header(path: Path) -> tuple[_Size | None, bool]:
    """Height and width of a PNG, None where it is none; and whether it is 8-bit RGB."""
    try:
        with path.open("rb") as file:
            head = file.read(33)
    except OSError:
        return None, True
    if not head.startswith(_PNG_START) or len(head) < 33:
        return None, False
    width, height = (int.from_bytes(head[start : start + 4], "big") for start in (16, 20))
    return (height, width), (head[24], head[25]) == _RGB_8


def _words(size: _Size) -> str:
    return f"{size[1]}x{size[0]}"
