"""Images in object stores and in Parquet files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from panformer_cli.engine.inputs import cloud
from panformer_cli.engine.inputs.find import find_images
from panformer_cli.errors import DataError

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'panformer[ray]'")
fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed: pip install 'panformer[ray]'")


def png(value: int) -> bytes:
    """Return a PNG of one color."""
    stream = io.BytesIO()
    Image.new("RGB", (3, 2), (value, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def write_table(path: Path, columns: dict[str, Any], rows_of_group: int = 2) -> Path:
    from pyarrow import parquet

    parquet.write_table(pa.table(columns), path, row_group_size=rows_of_group)
    return path


def read(given: str | Path) -> dict[str, int]:
    """Return the red value of every image by its name in the results."""
    images = find_images([str(given)], Path("nowhere")).images
    return {image.file_name: int(image.read()[0, 0, 0]) for image in images}


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The address of a folder with three images: one that fsspec reads, and one that pyarrow reads itself."""
    monkeypatch.setattr(cloud, "SCHEMES", ("memory", "file"))
    cloud._file_system.cache_clear()
    root = f"memory://bucket{tmp_path}" if request.param == "memory" else f"file://{tmp_path}"
    for name, value in {"b.png": 2, "a.png": 1, "deep/c.png": 3}.items():
        with fsspec.open(f"{root}/photos/{name}", "wb", auto_mkdir=True) as file:
            file.write(png(value))
    for name in ("notes.md", ".DS_Store"):
        with fsspec.open(f"{root}/photos/{name}", "wb") as file:
            file.write(b"text")
    return f"{root}/photos"


def test_a_folder_of_an_object_store_is_listed_and_read(store: str) -> None:
    found = find_images([store], Path("nowhere"))
    assert [(image.file_name, str(image)) for image in found.images] == [
        (name, f"{store}/{name}") for name in ("a.png", "b.png", "deep/c.png")
    ]
    assert read(store) == {"a.png": 1, "b.png": 2, "deep/c.png": 3}
    assert read(f"{store}/b.png") == {"b.png": 2}
    assert found.notes[0].startswith("1 file left out")
    with pytest.raises(DataError, match=r"missing\.png is missing"):
        read(f"{store}/missing.png")
    with pytest.raises(DataError, match="nothing does not exist"):
        read(f"{store}/nothing")


def test_a_table_in_an_object_store_names_images_beside_it(store: str, tmp_path: Path) -> None:
    local = write_table(tmp_path / "names.parquet", {"file_name": ["b.png", f"{store}/deep/c.png"]})
    with fsspec.open(f"{store}/names.parquet", "wb") as file:
        file.write(local.read_bytes())
    assert read(f"{store}/names.parquet") == {"b.png": 2, "c.png": 3}


@pytest.mark.parametrize("form", ["bytes", "struct"])
def test_the_rows_of_a_table_are_images(form: str, tmp_path: Path) -> None:
    contents = [png(value) for value in range(1, 6)]
    names = ["x.png", "y.png", "x.png", None, "z.png"]  # a repeated and a missing name
    rows: list[Any] = contents if form == "bytes" else [{"bytes": data, "path": None} for data in contents]
    path = write_table(tmp_path / "images.parquet", {"image": rows, "file_name": names})
    assert sorted(read(path).values()) == [1, 2, 3, 4, 5]
    assert list(read(path))[1] == "y.png"


def test_a_table_of_names_is_relative_to_its_folder(tmp_path: Path) -> None:
    for value, name in enumerate(("a.png", "b.png")):
        (tmp_path / name).write_bytes(png(value))
    path = write_table(tmp_path / "names.parquet", {"path": ["b.png", "a.png"]})
    assert read(path) == {"b.png": 1, "a.png": 0}


def test_tables_that_cannot_be_used_are_explained(tmp_path: Path) -> None:
    path = write_table(tmp_path / "other.parquet", {"pixels": np.zeros(2).tolist(), "label": ["a", "b"]})
    with pytest.raises(DataError, match="has the columns pixels, label; expected the content of images"):
        read(path)
    path.write_bytes(b"PAR1 truncated")
    with pytest.raises(DataError, match="other.parquet cannot be read"):
        read(path)
    write_table(path, {"image": [png(1), b""], "name": ["a.png", "b.png"]})
    assert read_first(path) == 1
    with pytest.raises(DataError, match="is empty"):
        read(path)


def read_first(path: Path) -> int:
    return int(find_images([str(path)], Path("nowhere")).images[0].read()[0, 0, 0])
