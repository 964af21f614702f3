"""The images that a COCO JSON lists, such as `image_info_test-dev2017.json`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from panformer_cli.data.coco.panoptic_json import read_image_ids
from panformer_cli.data.layout import image_folders, predicted_image
from panformer_cli.engine.inputs.ids import ImageId
from panformer_cli.errors import DataError
from panformer_cli.storage.files import check_can_exist

SUFFIX = ".json"
_KINDS = ("panoptic_", "instances_", "image_info_", "captions_", "stuff_", "person_keypoints_")
"""How the names of COCO's JSON files begin; the name of the split follows."""


class ListedImage(NamedTuple):
    """An image of a JSON.

    Attributes:
        path: The file, which may be missing.
        name: Its name in the JSON.
        id: Its id in the JSON.
    """

    path: Path
    name: str
    id: ImageId


def images_of(json: Path, images: Path | None) -> Iterator[ListedImage]:
    """Yield the images that a JSON lists.

    Args:
        json: A JSON with `images`, rows of `id` and `file_name`.
        images: Folder of the images; None for COCO's folder of the split, or else the folder of the JSON.

    Raises:
        DataError: The JSON is corrupt or lists no images, a name leads out of the folder, or no image exists.
    """
    folder = images or _folder_of(json)
    rows = read_image_ids(json)
    exists = False
    for name, image_id in rows:
        path = predicted_image(folder, name, str(json))
        check_can_exist(path)
        exists = exists or path.is_file()
        yield ListedImage(path, name, image_id)
    if not exists:
        raise DataError(
            f"none of the images in {json} is in {folder} (first {rows[0][0]}); give the folder of the images with "
            "--images DIR"
        )


def _folder_of(json: Path) -> Path:
    """Return the folder of the images of a JSON in one of COCO's layouts, or else the folder of the JSON."""
    root = json.absolute().parent.parent
    splits = [json.stem.removeprefix(kind) for kind in _KINDS if json.stem.startswith(kind)]
    folders = (folder for split in splits for folder in image_folders(root, split))
    return next((folder for folder in folders if folder.is_dir()), json.parent)
