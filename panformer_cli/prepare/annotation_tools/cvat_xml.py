"""CVAT's XML file of annotations, image by image.

The form, "CVAT for images 1.1", is described at https://docs.cvat.ai/docs/other/xml_format.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn
from xml.etree.ElementTree import ParseError, XMLParser

from panformer_cli.errors import DataError

_CHUNK = 2**20
"""Bytes that are parsed at a time."""

Attributes = dict[str, str]


class XmlShape(NamedTuple):
    """One child of an image: `kind` is its tag, such as polygon."""

    kind: str
    attributes: Attributes


class XmlImage(NamedTuple):
    """One `<image>` and what it holds, in the order of the file."""

    attributes: Attributes
    shapes: tuple[XmlShape, ...]


class XmlLabel(NamedTuple):
    """A class of the task: its name, and its colour as `#rrggbb`, empty where it has none."""

    name: str
    color: str


def read_images(path: Path) -> Iterator[XmlImage]:
    """The images of the file one after another; memory for some of them only.

    Raises:
        DataError: the file is missing, no XML of this form, cut short, or declares a document type: no entity is ever
            expanded.
    """
    for content in _parsed(path):
        yield from content.images
        content.images.clear()


def read_labels(path: Path) -> list[XmlLabel]:
    """The classes that the head of the file lists; the rest of it is not read. Errors as `read_images`."""
    for content in _parsed(path):
        if content.head_is_done:
            return content.labels
    return []


def _parsed(path: Path) -> Iterator[_Content]:
    """What was found so far, after each part of the file."""
    content = _Content(path)
    parser = XMLParser(target=content)
    try:
        with path.open("rb") as file:
            while part := file.read(_CHUNK):
                parser.feed(part)
                yield content
            parser.close()
    except FileNotFoundError as error:
        raise DataError(
            f"{path} is missing; expected the unpacked export `CVAT for images 1.1`, with annotations.xml and images"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}; expected a readable file") from error
    except ParseError as error:
        line, column = error.position
        raise DataError(
            f"{path} is not valid XML, or is truncated (line {line}, column {column}); export it from CVAT again"
        ) from error
    except DataError:
        raise
    except (LookupError, ValueError) as error:
        raise DataError(f"{path} is in an encoding that is not read here; expected UTF-8; export it again") from error
    yield content


class _Content:
    """What `XMLParser` tells of the file, gathered; the tree itself is not kept."""

    def __init__(self, path: Path) -> None:
        self.labels: list[XmlLabel] = []
        self.images: list[XmlImage] = []
        self.head_is_done = False
        self._path = path
        self._open: list[str] = []
        self._image: Attributes = {}
        self._shapes: list[XmlShape] = []
        self._label = {"name": "", "color": ""}

    def doctype(self, name: str, public: str | None, system: str | None) -> NoReturn:
        """Entities are declared in a document type, and CVAT writes none."""
        raise DataError(
            f"{self._path} declares a document type (DOCTYPE), which may hold entities; expected none, as CVAT "
            "writes it; export it again, or take those lines out if you trust the file"
        )

    def start(self, tag: str, attributes: Attributes) -> None:
        if not self._open and tag != "annotations":
            raise DataError(f"{self._path} is no CVAT file: it begins with <{tag}>; expected <annotations>")
        if self._open == ["annotations"] and tag == "track":
            raise DataError(
                f"{self._path} holds the tracks of a video; export the task from CVAT as `CVAT for images 1.1`"
            )
        self._open.append(tag)
        if self._open == ["annotations", "image"]:
            self._image, self._shapes = attributes, []
        elif self._open[:-1] == ["annotations", "image"]:
            self._shapes.append(XmlShape(tag, attributes))
        elif self._open[-2:] == ["labels", "label"]:
            self._label = {"name": "", "color": ""}

    def end(self, tag: str) -> None:
        if self._open == ["annotations", "image"]:
            self.images.append(XmlImage(self._image, tuple(self._shapes)))
        elif self._open[-2:] == ["labels", "label"]:
            self.labels.append(XmlLabel(self._label["name"].strip(), self._label["color"].strip()))
        elif self._open == ["annotations", "meta"]:
            self.head_is_done = True
        self._open.pop()

    def data(self, text: str) -> None:
        if self._open[-3:-1] == ["labels", "label"] and self._open[-1] in self._label:
            self._label[self._open[-1]] += text

    def close(self) -> None:
        pass
