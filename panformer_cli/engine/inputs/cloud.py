"""Images in object stores, such as `s3://bucket/photos`, which pyarrow or fsspec reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from panformer_cli.data.image_formats import is_clutter, why_left_out
from panformer_cli.data.images import IMAGE_SUFFIXES
from panformer_cli.engine.inputs.input_image import MOST_BYTES
from panformer_cli.errors import DataError
from panformer_cli.reporting import megabytes

SCHEMES = ("s3", "gs", "gcs", "az", "abfs", "abfss", "hdfs")


@dataclass(frozen=True)
class CloudImage:
    """An image in an object store."""

    uri: str

    def __str__(self) -> str:
        return self.uri

    @property
    def path(self) -> Path:
        return Path(f"/{self.uri.partition('://')[2]}")

    @property
    def identity(self) -> str:
        return self.uri

    def read_bytes(self) -> bytes:
        with opened(self.uri) as file:
            if file.size() > MOST_BYTES:
                raise DataError(f"{self} has more than {megabytes(MOST_BYTES)} MB; give the image as a file")
            data: bytes = file.read()
        if not data:
            raise DataError(f"the image {self} is empty (0 bytes); restore the file")
        return data


class FoundImage(NamedTuple):
    """A file of a folder.

    Attributes:
        source: Where it is.
        name: Its name relative to the folder.
        problem: Why it is left out; "" for an image.
    """

    source: CloudImage
    name: str
    problem: str


def is_cloud(given: str) -> bool:
    """Return whether an input is in an object store."""
    scheme, separator, _ = given.partition("://")
    return bool(separator) and scheme.lower() in SCHEMES


def images_at(uri: str) -> Iterator[FoundImage]:
    """Yield the files below a folder, sorted by name, or the image with this name.

    An address with the suffix of an image is not looked up, so that lists of a million are quick.

    Raises:
        DataError: The folder does not exist or cannot be listed.
    """
    name = PurePosixPath(uri).name
    if Path(name).suffix.lower() in IMAGE_SUFFIXES:
        yield FoundImage(CloudImage(uri), name, "")
        return
    with _explained(uri):
        fs = import_module("pyarrow.fs")
        system, base = _located(uri)
        kind = system.get_file_info(base).type
        infos = system.get_file_info(fs.FileSelector(base, recursive=True)) if kind == fs.FileType.Directory else []
        paths = sorted(info.path for info in infos if info.type == fs.FileType.File)
    if kind == fs.FileType.NotFound:
        raise DataError(f"{uri} does not exist; check the address")
    if kind == fs.FileType.File:
        yield FoundImage(CloudImage(uri), name, "")
    for path in paths:
        relative = path.removeprefix(base).lstrip("/")
        if not any(map(is_clutter, relative.split("/"))):
            is_image = Path(relative).suffix.lower() in IMAGE_SUFFIXES
            source = CloudImage(f"{uri.rstrip('/')}/{relative}")
            yield FoundImage(source, relative, "" if is_image else why_left_out(Path(relative)))


@contextmanager
def opened(uri: str) -> Iterator[Any]:
    """Open a file as `pyarrow.NativeFile`, which can be read from any position.

    Raises:
        DataError: It cannot be read; raised for errors in the block, too.
    """
    with _explained(uri):
        system, path = _located(uri)
        with system.open_input_file(path) as file:
            yield file


def _located(uri: str) -> tuple[Any, str]:
    """Return the file system of an address, and the path in it."""
    scheme, _, rest = uri.partition("://")
    place, _, path = rest.partition("/")
    system, root = _file_system(f"{scheme}://{place}")
    return system, f"{root.rstrip('/')}/{path.rstrip('/')}".rstrip("/") or "/"


@lru_cache(maxsize=16)
def _file_system(place: str) -> tuple[Any, str]:
    """Return the file system of a bucket or host, and its path there: pyarrow's own, else that of fsspec."""
    fs = import_module("pyarrow.fs")
    try:
        system, root = fs.FileSystem.from_uri(f"{place}/")
    except (ValueError, NotImplementedError):  # a kind that pyarrow does not know
        other, root = import_module("fsspec").url_to_fs(place)
        system = fs.PyFileSystem(fs.FSSpecHandler(other))
    return system, root


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Turn the errors of pyarrow and fsspec into a DataError."""
    try:
        yield
    except DataError:
        raise
    except ImportError as error:
        raise DataError(
            f"{uri} needs the package {error.name or error}, which is not installed; install it with: "
            "pip install 'panformer[ray]'"
        ) from error
    except FileNotFoundError as error:
        raise DataError(f"the image {uri} is missing; check the address") from error
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{uri} cannot be read: {reason}; check the address and your access rights") from error
