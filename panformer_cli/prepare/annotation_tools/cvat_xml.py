"""Read CVAT's XML annotations image by image, or track by track.

The formats, "CVAT for images 1.1" and "CVAT for video 1.1", are documented at
https://docs.cvat.ai/docs/manual/advanced/xml_format/.
"""

from __future__ import annotations

import re
from codecs import getincrementaldecoder
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn
from xml.etree.ElementTree import ParseError, XMLParser

from panformer_cli.errors import DataError
from panformer_cli.storage.text_files import encoding_of

_CHUNK = 2**20
"""Bytes parsed at a time."""

Attributes = dict[str, str]


class XmlShape(NamedTuple):
    """A child of an image or a track; `kind` is its tag, such as polygon."""

    kind: str
    attributes: Attributes


class XmlImage(NamedTuple):
    """An `<image>` with its children in file order."""

    attributes: Attributes
    shapes: tuple[XmlShape, ...]


class XmlTrack(NamedTuple):
    """A `<track>` with its shapes in file order; each has the attribute `frame`."""

    attributes: Attributes
    shapes: tuple[XmlShape, ...]


class XmlLabel(NamedTuple):
    """A class of the task.

    Attributes:
        color: `#rrggbb` or empty.
        type: The shapes that CVAT allows, such as `polygon` or `any`; empty in older versions.
        parent: The skeleton that it is a key point of; usually empty.
    """

    name: str
    color: str
    type: str = ""
    parent: str = ""


class XmlHead(NamedTuple):
    """What the file contains.

    Attributes:
        labels: The classes.
        subset: The subset of a task; empty if it has none, and for projects.
        size: Height and width of the frames of a video; None if not listed.
        has_tracks: Whether it is the export for video.
        encoding: The encoding that was passed for a file that is not UTF-8.
    """

    labels: list[XmlLabel]
    subset: str
    size: tuple[int, int] | None
    has_tracks: bool
    encoding: str | None = None


def read_images(path: Path, encoding: str | None = None) -> Iterator[XmlImage]:
    """Yield the images of the file, keeping only a few of them in memory.

    Args:
        path: The XML.
        encoding: Its encoding if it is neither UTF-8 nor the one that it declares.

    Raises:
        DataError: The file is missing, truncated, not XML in this format, or declares a document type. Entities are
            never expanded.
    """
    for content in _parsed(path, encoding):
        yield from content.images
        content.images.clear()


def read_tracks(path: Path, encoding: str | None = None) -> Iterator[XmlTrack]:
    """Yield the tracks of the file, keeping only a few in memory. Arguments and errors as `read_images`."""
    for content in _parsed(path, encoding):
        yield from content.tracks
        content.tracks.clear()


def read_head(path: Path, encoding: str | None = None) -> XmlHead:
    """Return the header of the file, without reading the rest. Arguments and errors as `read_images`."""
    for content in _parsed(path, encoding):
        if content.head_is_done and content.kind:
            break
    subset, width, height = (text.strip() for text in content.meta.values())
    size = (int(height), int(width)) if height.isdecimal() and width.isdecimal() else None
    return XmlHead(content.labels, subset, size, content.kind == "track", encoding)


def _parsed(path: Path, encoding: str | None) -> Iterator[_Content]:
    """Yield the content so far after each chunk of the file."""
    content = _Content(path)
    parser = XMLParser(target=content)
    try:
        # Given text instead of bytes, the parser ignores the encoding that the file declares.
        decoder = getincrementaldecoder(encoding_of(path, encoding))() if encoding else None
        with path.open("rb") as file:
            while part := file.read(_CHUNK):
                parser.feed(decoder.decode(part) if decoder else part)
                yield content
            parser.close()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}; expected a readable file") from error
    except ParseError as error:
        if not encoding and not _declares_another_encoding(path):
            encoding_of(path)  # raises the true cause if it is not UTF-8
        line, column = error.position
        raise DataError(
            f"{path} is not valid XML, or is truncated (line {line}, column {column}); export it from CVAT again"
        ) from error
    except DataError:
        raise
    except (LookupError, ValueError) as error:
        raise DataError(f"{path} has an unsupported encoding; expected UTF-8; export it again") from error
    yield content


def _declares_another_encoding(path: Path) -> bool:
    with path.open("rb") as file:
        declared = _DECLARED.match(file.read(200))
    return declared is not None and declared[1].lower() not in (b"utf-8", b"utf8")


_DECLARED = re.compile(rb"<\?xml[^>]*encoding\s*=\s*[\"']([^\"']+)")
_META = [["meta", "task"], ["meta", "job"]]
_PARENTS = ("image", "track")
_OPEN_PARENTS = [["annotations", parent] for parent in _PARENTS]


class _Content:
    """Target of `XMLParser` that collects labels, images and tracks without building a tree.

    Attributes:
        kind: The tag of the first image or track.
        meta: Texts in the header of a task or job, by their path in it.
    """

    def __init__(self, path: Path) -> None:
        self.labels: list[XmlLabel] = []
        self.images: list[XmlImage] = []
        self.tracks: list[XmlTrack] = []
        self.head_is_done = False
        self.kind = ""
        self.meta = {"subset": "", "original_size/width": "", "original_size/height": ""}
        self._path = path
        self._open: list[str] = []
        self._parent: Attributes = {}
        self._shapes: list[XmlShape] = []
        self._label = dict.fromkeys(XmlLabel._fields, "")

    def doctype(self, name: str, public: str | None, system: str | None) -> NoReturn:
        """Reject document types, which may declare entities. CVAT writes none."""
        raise DataError(
            f"{self._path} declares a document type (DOCTYPE), which may contain entities; expected none, as in CVAT's "
            "exports; export it again, or remove those lines if you trust the file"
        )

    def start(self, tag: str, attributes: Attributes) -> None:
        if not self._open and tag != "annotations":
            raise DataError(f"{self._path} is not a CVAT file: it starts with <{tag}>; expected <annotations>")
        if self._open == ["annotations"] and tag in _PARENTS:
            if self.kind not in ("", tag):
                raise DataError(f"{self._path} contains both images and tracks; expected one kind; export it again")
            self.kind, self._parent, self._shapes = tag, attributes, []
        elif self._open in _OPEN_PARENTS and tag != "track":  # the key points of a skeleton are tracks in its track
            self._shapes.append(XmlShape(tag, attributes))
        self._open.append(tag)
        if self._open[-2:] == ["labels", "label"]:
            self._label = dict.fromkeys(XmlLabel._fields, "")

    def end(self, tag: str) -> None:
        if self._open == ["annotations", "image"]:
            self.images.append(XmlImage(self._parent, tuple(self._shapes)))
        elif self._open == ["annotations", "track"]:
            self.tracks.append(XmlTrack(self._parent, tuple(self._shapes)))
        elif self._open[-2:] == ["labels", "label"]:
            self.labels.append(XmlLabel(**{key: text.strip() for key, text in self._label.items()}))
        elif self._open == ["annotations", "meta"]:
            self.head_is_done = True
        self._open.pop()

    def data(self, text: str) -> None:
        if self._open[-3:-1] == ["labels", "label"] and self._open[-1] in self._label:
            self._label[self._open[-1]] += text
        elif self._open[1:3] in _META and (name := "/".join(self._open[3:])) in self.meta:
            self.meta[name] += text

    def close(self) -> None:
        pass
