"""Find the images and videos that `predict` segments: in files, folders, patterns, archives, lists and at addresses."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from panformer_cli.data.disk_list import DiskList, LazySequence
from panformer_cli.data.image_formats import counted_reason, is_clutter
from panformer_cli.data.images import IMAGE_SUFFIXES
from panformer_cli.engine.inputs import archives, cloud, image_info, lists, tables
from panformer_cli.engine.inputs.folders import Folders, LocalImage
from panformer_cli.engine.inputs.ids import ImageId, ids_of
from panformer_cli.engine.inputs.input_image import ImageSource, InputImage, LocalFile
from panformer_cli.engine.inputs.names import distinct_names
from panformer_cli.engine.inputs.video_sources import (
    CameraInput,
    CopiedVideo,
    InputVideo,
    LocalVideo,
    VideoSource,
    named_videos,
)
from panformer_cli.engine.inputs.videos import is_searched_video, is_video
from panformer_cli.engine.inputs.web import is_address, web_image
from panformer_cli.engine.outputs.names import is_portable
from panformer_cli.errors import DataError
from panformer_cli.storage.files import check_can_exist, leads_out, resolve_links
from panformer_cli.wording import counted, listing

_WILDCARDS = re.compile(r"[*?[]")


@dataclass(frozen=True)
class InputImages:
    """The images of all inputs.

    Attributes:
        images: In the order of the inputs; folders, patterns and archives are sorted. The sequence is on disk, so that
            a million images need no memory.
        notes: One line each: which files were left out, and which data set the ids are from.
        has_addresses: Whether some images are on the web, so that reading is mostly waiting.
    """

    images: Sequence[InputImage]
    notes: list[str] = field(default_factory=list)
    has_addresses: bool = False


@dataclass(frozen=True)
class FoundInputs:
    """The images of all inputs, which may be none, and the videos, in the order of the inputs."""

    images: InputImages
    videos: Sequence[InputVideo]


def find_images(
    inputs: Sequence[str], out: Path, ids_from: Path | None = None, images: Path | None = None
) -> InputImages:
    """Return the images of all inputs, as `find_inputs`. Videos in folders and archives are left out."""
    return find_inputs(inputs, out, ids_from, images, "an image is expected here").images


def find_inputs(
    inputs: Sequence[str],
    out: Path,
    ids_from: Path | None = None,
    images: Path | None = None,
    only_images: str | None = None,
) -> FoundInputs:
    """Return the images and videos of all inputs.

    Args:
        inputs: Image files, folders, which are searched recursively, glob patterns, zip archives, http and https
            addresses, text files with names, COCO JSONs, and `-` for standard input, which has an image or names. Video
            files are found in the same places, and a number is a camera, unless it is a file or folder.
        out: Folder of the results. What is in it is skipped, unless it is given by name. If it contains an input, only
            what is in its folders of results is skipped.
        ids_from: JSON with `images`, rows of id and file_name; None for the ids that `ids.ids_of` chooses.
        images: Folder of the images of COCO JSONs; None to look for it.
        only_images: Why videos cannot be used, such as "--resume is for images": those in folders, patterns and
            archives are left out, and counted in a note. None if they can be used.

    Raises:
        DataError: An input does not exist or has no images, or `ids_from` is corrupt or does not list an image; or a
            video is named that cannot be used.
    """
    if any(not given.strip() for given in inputs):
        raise DataError("an input is empty; expected images, folders or patterns; is a variable of the shell not set?")
    finder = _Finder(resolve_links(out), images, only_images)
    for given in inputs:
        finder.add(given)
    if images is not None and not finder.has_json:
        raise DataError("--images is the folder of the images that a COCO JSON lists: no input is one; omit it")
    found = _without_repeats(finder.found)
    if not found and not finder.videos:
        raise DataError(
            f"{listing(inputs)}: no images, only files of the operating system; give image files or folders"
        )
    ids, note = _ids_of(found, ids_from, finder.has_addresses) if found else ((), "")
    notes = [*finder.notes(), *([note] if note else [])]
    image_list = InputImages(DiskList(_named(found, ids)), notes, finder.has_addresses)
    return FoundInputs(image_list, named_videos(finder.videos.values()))


class _Found(NamedTuple):
    """An image that was found.

    Attributes:
        source: Where it is.
        name: Its name relative to its input.
        id: Its id in a COCO JSON; None if it is in none.
    """

    source: ImageSource
    name: str
    id: ImageId | None = None

    @property
    def identity(self) -> str:
        return self.source.identity


class _Finder:
    """Collects the images and videos of the inputs.

    Attributes:
        found: The images; one can be in several inputs.
        videos: The videos with their names relative to their inputs, by their identity.
        left_out: Number of other files by the reason why they are left out.
        has_addresses: Whether some of the images are on the web.
        has_json: Whether an input is a COCO JSON.
    """

    def __init__(self, out: Path, images: Path | None, only_images: str | None) -> None:
        self.found: DiskList[_Found] = DiskList(key=attrgetter("identity"))
        self.videos: dict[str, tuple[VideoSource, str]] = {}
        self.left_out: Counter[str] = Counter()
        self.has_addresses = False
        self.has_json = False
        self._folders = Folders(out)
        self._images = images
        self._only_images = only_images
        self._kept = 0  # images and videos, repeated ones included
        self._has_read_stdin = False

    def add(self, given: str) -> None:
        """Add the images and videos of one input."""
        if given == lists.STANDARD_INPUT:
            self._add_standard_input()
        elif is_address(given):
            self._add_address(given)
        elif _is_camera(given):
            self._add_video(CameraInput(int(given)), f"camera_{given}.mp4")
        else:
            self._add_path(Path(given), Path(given).name)

    def notes(self) -> list[str]:
        """Return which files are left out, and which folders cannot be read; one line each."""
        total = self.left_out.total()
        notes = [f"{counted(total, 'file')} left out: {self._reasons()}"] if total else []
        return [*notes, self._unreadable_folders()] if self._folders.unreadable else notes

    def _add_path(self, path: Path, name: str, folder: Path | None = None) -> None:
        """Add a folder, a file with its name, or a pattern, with names relative to the folder of a list, if any."""
        check_can_exist(path)
        if path.is_dir():
            if not self._add_local(self._folders.files_below(path)):
                suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
                raise DataError(
                    f"the folder {path} has no images{self._only()}; expected files with the suffixes {suffixes}"
                )
        elif path.is_file():
            self._add_file(path, name)
        elif not self._add_local(self._folders.matches(str(path), folder)):
            raise DataError(
                f"no such image, video, folder or pattern: {path}{self._only()}; give image files, folders or patterns "
                "such as 'photos/*.jpg'"
            )

    def _add_file(self, path: Path, name: str) -> None:
        """Add a file that was given by name: an image, whatever its suffix, or a file that lists or contains images."""
        containers: dict[str, Callable[[Path], None]] = {
            archives.SUFFIX: self._add_archive,
            lists.SUFFIX: self._add_list,
            image_info.SUFFIX: self._add_json,
            tables.SUFFIX: self._add_table,
        }
        if is_clutter(path.name):  # from a pattern that the shell expanded
            return
        if add := containers.get(path.suffix.lower()):
            add(path)
        else:
            self._add_named(path, name)

    def _add_named(self, path: Path, name: str) -> None:
        """Add an image or a video that was given by name."""
        if is_video(path.name):
            self._add_video(LocalVideo(path), name)
        else:
            self._keep(LocalFile(str(path)), name)

    def _add_video(self, source: VideoSource, name: str) -> None:
        """Add a video that was given by name."""
        if self._only_images is not None:
            raise DataError(
                f"{source} is a video, and {self._only_images}; predict it with a call of its own: `panformer predict "
                "VIDEO --out DIR`"
            )
        self._keep_video(source, name)

    def _add_archive(self, path: Path) -> None:
        before = self._kept
        for image, problem in archives.images_in(path):
            if problem:
                self.left_out[problem] += 1
            elif is_searched_video(image.name):
                self._keep_video(CopiedVideo(image, Path(image.name).suffix), image.name)
            else:
                self._keep(image, image.name)
        if self._kept == before:
            raise DataError(f"the archive {path} has no images{self._only()}; expected image files in it")

    def _add_json(self, path: Path) -> None:
        self.has_json = True
        for image in image_info.images_of(path, self._images):
            self.found.append(_Found(LocalFile(str(image.path)), image.name, image.id))

    def _add_table(self, path: Path) -> None:
        rows = tables.read_table(str(path))
        if names := [row for row in rows if isinstance(row, str)]:
            self._add_names(names, path.parent, str(path))
        self._keep_rows(rows)

    def _keep_rows(self, rows: Iterable[tables.TableImage | str]) -> None:
        for row in rows:
            if isinstance(row, tables.TableImage):
                self._keep(row, row.name)

    def _add_list(self, path: Path) -> None:
        self._add_names(lists.read_list(path), path.parent, str(path))

    def _add_standard_input(self) -> None:
        if self._has_read_stdin:
            raise DataError("the input - is given twice, but standard input can be read only once; give it once")
        self._has_read_stdin = True
        read = lists.read_standard_input()
        if isinstance(read, lists.StandardInput):
            self._keep(read, "stdin")
        else:
            self._add_names(read, Path(), "standard input")

    def _add_names(self, names: Sequence[str], folder: Path, where: str) -> None:
        """Add the inputs that a list names, relative to a folder.

        A file that is missing is reported when it is read, unless all of them are.
        """
        any_exists = False
        for name in names:
            if is_address(name):
                self._add_address(name)
                any_exists = True
                continue
            path = folder / name
            if path.suffix.lower() in (lists.SUFFIX, image_info.SUFFIX):
                raise DataError(f"{where} names {name}; expected images, not another list; give it to predict instead")
            check_can_exist(path)
            exists = path.exists()
            own = path.name if leads_out(name) else Path(name).as_posix()
            if exists or _WILDCARDS.search(name):
                self._add_path(path, own, None if leads_out(name) else folder)
            else:  # with the name that it has when it is there again, for --resume
                self._add_named(path, own)
            any_exists = any_exists or exists or bool(_WILDCARDS.search(name))
        if not any_exists:
            raise DataError(
                f"{where} has {counted(len(names), 'name')}, and none of them exists (first {folder / names[0]}); "
                f"expected one image per line, relative to {folder.absolute()}"
            )

    def _add_local(self, files: Iterable[LocalImage]) -> bool:
        """Add the files of a folder or pattern; return whether any is an image or a video."""
        before = self._kept
        for path, name, problem in files:
            if problem:
                self.left_out[problem] += 1
            elif is_searched_video(name):
                self._keep_video(LocalVideo(Path(path)), name)
            else:
                self._keep(LocalFile(path), name)
        return self._kept > before

    def _add_cloud(self, uri: str) -> None:
        """Add the images of an address in an object store: an image, a folder, or a Parquet file."""
        if is_video(uri):
            raise DataError(f"{uri}: videos in object stores cannot be read; download it and give the file")
        before, self.has_addresses = self._kept, True
        if uri.lower().endswith(tables.SUFFIX):
            rows = tables.read_table(uri)
            folder = uri.rpartition("/")[0]
            for name in (row for row in rows if isinstance(row, str)):
                self._add_address(name if is_address(name) else f"{folder}/{name}")
            self._keep_rows(rows)
        else:
            for image, name, problem in cloud.images_at(uri):
                if problem:
                    self.left_out[problem] += 1
                else:
                    self._keep(image, name)
        if self._kept == before:
            raise DataError(f"{uri} has no images{self._only()}; expected image files in it")

    def _add_address(self, url: str) -> None:
        if cloud.is_cloud(url):
            self._add_cloud(url)
            return
        image = web_image(url)
        if is_video(image.name):
            self._add_video(CopiedVideo(image, Path(image.name).suffix), image.name)
            return
        self.has_addresses = True
        self._keep(image, image.name)

    def _keep(self, source: ImageSource, name: str) -> None:
        self.found.append(_Found(source, name))
        self._kept += 1

    def _keep_video(self, source: VideoSource, name: str) -> None:
        """Add a video that was found, or count it among the files that are left out."""
        if self._only_images is None:
            self.videos.setdefault(source.identity, (source, name))
            self._kept += 1
        else:
            self.left_out[f"video ({self._only_images})"] += 1

    def _reasons(self) -> str:
        """Return why files are left out, the most frequent reason first."""
        ranked = sorted(self.left_out.items(), key=lambda item: (-item[1], item[0]))
        return ", ".join(counted_reason(count, reason) for reason, count in ranked)

    def _unreadable_folders(self) -> str:
        unreadable = self._folders.unreadable
        return f"{counted(len(unreadable), 'folder')} cannot be read: {listing(unreadable, 3)}"

    def _only(self) -> str:
        parts = [f"left out: {self._reasons()}"] if self.left_out else []
        parts += [self._unreadable_folders()] if self._folders.unreadable else []
        return f" ({'; '.join(parts)})" if parts else ""


def _is_camera(given: str) -> bool:
    """Return whether an input is the number of a camera, and no file or folder."""
    check_can_exist(given)
    return given.isascii() and given.isdecimal() and not Path(given).exists()


def _without_repeats(found: DiskList[_Found]) -> DiskList[_Found]:
    """Return the images without those that are the same as an earlier one."""
    repeats = set(found.repeats())
    if not repeats:
        return found
    return DiskList(image for position, image in enumerate(found) if position not in repeats)


def _ids_of(found: DiskList[_Found], ids_from: Path | None, has_addresses: bool) -> tuple[Iterable[ImageId], str]:
    """Return the ids of the images, and a note as `ids.ids_of`. Those in COCO JSONs are used if all have one."""
    if ids_from is None:
        known: set[ImageId] = set()
        for image in found:
            if image.id is None or image.id in known:
                break
            known.add(image.id)
        else:
            return (image.id for image in found if image.id is not None), ""
    return ids_of(_Paths(found), ids_from, are_files=not has_addresses)


class _Paths(LazySequence[Path]):
    """The paths of images."""

    def __init__(self, found: DiskList[_Found]) -> None:
        self._found = found

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self) -> Iterator[Path]:
        return (image.source.path for image in self._found)

    def _item(self, position: int) -> Path:
        return self._found[position].source.path


def _named(found: DiskList[_Found], ids: Iterable[ImageId]) -> Iterator[InputImage]:
    """Yield the images with the names of their results."""
    known: set[str] = set()
    repeated: set[str] = set()
    for image in found:
        (repeated if image.name in known else known).add(image.name)
    del known
    names = distinct_names(image.name for image in found)
    for image, image_id, name in zip(found, ids, names, strict=True):
        is_own = image.name not in repeated and is_portable(image.name)
        yield InputImage(image.source, image_id, name, image.name if is_own else name)
