"""Check that an image, its PNG and its rows in the JSON agree."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from panformer_cli.data.coco.json_values import is_count, is_text
from panformer_cli.data.coco.panoptic_png import read_panoptic_png, read_png_header
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
"""Larger PNGs are not decoded, because they would take gigabytes."""

_Size = tuple[int, int]


@dataclass(frozen=True)
class Setting:
    """Settings that all images of a split share.

    Attributes:
        layout: Folders of the split.
        is_thing: See `Outline.is_thing`.
        decodes_images: Decode images instead of reading only their headers.
        hashes_images: Hash image files, to compare them between splits.
    """

    layout: SplitLayout
    is_thing: dict[int, bool | None] | None
    decodes_images: bool = False
    hashes_images: bool = False


@dataclass(frozen=True)
class AnnotationRow:
    """A row of `annotations` whose keys have the right types; `index` is its index in the list."""

    index: int
    png_name: str
    segments: list[Any]


@dataclass(frozen=True)
class ImageTask:
    """An image to check, with its rows in the JSON. One of them may be missing."""

    image_id: ImageId
    listed: ListedImage | None
    annotation: AnnotationRow | None

    @property
    def name(self) -> str:
        """File name of the image, or of its PNG if it is not listed."""
        if self.listed is not None:
            return self.listed.file_name
        return self.annotation.png_name if self.annotation is not None else str(self.image_id)


@dataclass
class ImageResult:
    """The result of checking one image.

    Attributes:
        file_name: File name in the JSON; None if not listed.
        segments: Number of segments in the JSON.
        findings: Problems of the image.
        digest: Hash of the image file; None if it was not read.
        pixels: Number of pixels of the PNG; 0 if it cannot be read.
        void: Number of pixels that are void.
    """

    file_name: str | None
    segments: int
    findings: list[Finding] = field(default_factory=list)
    digest: bytes | None = None
    pixels: int = 0
    void: int = 0


def check_image(setting: Setting, task: ImageTask) -> ImageResult:
    """Check one image and report all problems as findings."""
    listed, annotation = task.listed, task.annotation
    result = ImageResult(listed.file_name if listed else None, len(annotation.segments) if annotation else 0)
    _ImageChecks(setting, task, result).run()
    return result


class _ImageChecks:
    def __init__(self, setting: Setting, task: ImageTask, result: ImageResult) -> None:
        self._setting = setting
        self._task = task
        self._result = result
        self._json = setting.layout.annotation.name
        self._where = f"{self._json}: {short(task.name)}"

    def run(self) -> None:
        header = self._check_image_file()
        png_size, ids = self._check_png()
        if ids is not None:
            self._result.pixels, self._result.void = ids.size, int((ids == 0).sum())
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
        """Return the header of the image, or None if it has no name or cannot be read."""
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
        """Return size and ids of the PNG, each None if it cannot be read."""
        row = self._task.annotation
        path = row and self._find(self._setting.layout.pngs, row.png_name, "annotations", row.index)
        if not path:
            return None, None
        size, is_rgb = _read_png_header(path)
        if size and size[0] * size[1] > MAX_PIXELS:
            self._add(
                Problem.PNG_DAMAGED, f"{path} declares {_words(size)} pixels; expected at most {MAX_PIXELS} in total"
            )
            return size, None
        try:
            return size, read_panoptic_png(path)
        except DataError as error:
            kind = Problem.PNG_DAMAGED if is_rgb else Problem.PNG_FORMAT
            self._add(kind if is_file(path) else Problem.PNG_MISSING, str(error))
        return size, None

    def _find(self, folder: Path, name: str, place: Literal["images", "annotations"], index: int) -> Path | None:
        """Return the path of a file named in the JSON, or None if the name cannot be used."""
        try:
            path = name_inside(folder, name, self._json)
            is_usable = is_text(name)
        except DataError as error:
            self._add(Problem.NAME_UNUSABLE, str(error))
            return None
        except OSError:
            is_usable = False
        if not is_usable:
            self._add(
                Problem.NAME_UNUSABLE,
                f"{self._json}: the file name {short(name)} is invalid; rename the file",
            )
            return None
        if "\\" in name:
            change = Change(self._task.image_id, place, index, None, "file_name", name, name.replace("\\", "/"))
            sentence = f"{self._json}: the file name {short(name)} has backslashes; expected / between folders"
            # If there is no such file, the backslash may be part of a name.
            self._add(Problem.NAME_BACKSLASH, sentence, *([change] if is_file(path) else []))
        if not name.isascii():
            sentence = f"{self._json}: the file name {short(name)} is not ASCII; some tools and systems cannot read it"
            self._add(Problem.NAME_NOT_ASCII, sentence)
        return path

    def _check_sizes(self, header: ImageHeader, png: _Size) -> None:
        exif = f"{self._where} has EXIF orientation {header.orientation}"
        if header.shown == png:
            if header.orientation != 1 and header.stored == png:
                sentence = f"{exif}, which does not change its size; check that the PNG matches the displayed image"
                self._add(Problem.IMAGE_ORIENTATION, sentence)
        elif header.stored == png:
            sentence = f"{exif} and is displayed as {_words(header.shown)}, but its PNG is {_words(png)}, as stored"
            self._add(Problem.IMAGE_ROTATED, f"{sentence}; rotate the PNG, or remove the EXIF data from the image")
        else:
            sentence = f"{self._where} is {_words(header.shown)} but its PNG is {_words(png)}"
            self._add(Problem.IMAGE_SIZE, f"{sentence} (width x height); expected equal sizes")

    def _listed_size(self) -> _Size | None:
        listed = self._task.listed
        if listed is None or not is_count(listed.height, 1) or not is_count(listed.width, 1):
            return None
        return listed.height, listed.width

    def _check_listed_size(self, shown: _Size | None, png: _Size | None) -> None:
        """Report a listed size that matches neither the image nor the PNG. `_check_sizes` compares these two."""
        listed, files = self._task.listed, [size for size in (shown, png) if size]
        if listed is None or not files:
            return
        old = {"height": listed.height, "width": listed.width}
        if any(all(old[side] in (None, size[i]) for i, side in enumerate(old)) for size in files):
            return
        changes = []
        if shown is not None and shown == png:
            new = dict(zip(old, shown, strict=True))
            changes = [
                Change(self._task.image_id, "images", listed.index, None, side, old[side], new[side])
                for side in old
                if old[side] not in (None, new[side])
            ]
        found = " and ".join(dict.fromkeys(_words(size) for size in files))
        sentence = (
            f"{self._where} is listed with width {short(listed.width)} and height {short(listed.height)} but its files "
            f"are {found} (width x height); expected equal sizes"
        )
        self._add(Problem.SIZE_LISTED, sentence, *changes)


def _read_png_header(path: Path) -> tuple[_Size | None, bool]:
    """Return height and width of a PNG (None if it is not a PNG), and whether it is 8-bit RGB."""
    try:
        with path.open("rb") as file:
            header = read_png_header(file.read(33))
    except OSError:
        return None, True
    return ((header.height, header.width), header.is_rgb8) if header else (None, False)


def _words(size: _Size) -> str:
    return f"{size[1]}x{size[0]}"
