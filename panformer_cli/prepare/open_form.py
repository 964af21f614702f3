"""Open a data set in a recognized form, to list its images without converting it."""

from __future__ import annotations

from panformer_cli.data.disk_list import DiskList
from panformer_cli.errors import DataError
from panformer_cli.prepare.annotation_tools.cvat import open_cvat_export
from panformer_cli.prepare.annotation_tools.labelme import open_labelme
from panformer_cli.prepare.annotation_tools.yolo import open_yolo
from panformer_cli.prepare.convert import check_names, unused_files
from panformer_cli.prepare.masks.coco_instances import open_coco_instances
from panformer_cli.prepare.masks.mask_folder import open_mask_folder
from panformer_cli.prepare.masks.png_pairs import open_png_pairs
from panformer_cli.prepare.published.ade20k import Ade20k
from panformer_cli.prepare.published.cityscapes import Cityscapes
from panformer_cli.prepare.published.mapillary import MapillaryVistas
from panformer_cli.prepare.recognize import Form
from panformer_cli.prepare.source import Source
from panformer_cli.wording import PROBLEMS_LISTED, first_items


def open_form(form: Form) -> Source | None:
    """Return the source of a form with default settings; None if it needs a class file that was not found.

    Raises:
        DataError: The data set cannot be used.
    """
    root, classes = form.root, form.classes
    if classes is None and form.needs_classes:
        return None
    match form.source:
        case "labelme":
            return open_labelme(root, classes)
        case "yolo":
            return open_yolo(root, classes)
        case "cvat":
            return open_cvat_export(root, classes)
        case "coco-instances":
            return open_coco_instances(root, classes=classes)
        case "masks" if classes is not None:
            return open_mask_folder(root, classes)
        case "png-pairs" if classes is not None:
            return open_png_pairs(root, classes)
        case "cityscapes":
            return Cityscapes(root)
        case "ade20k":
            return Ade20k(root)
        case "mapillary":
            return MapillaryVistas.open(root, None)
    return None


def first_problems(form: Form) -> list[str]:
    """Return what its conversion would report first: bad images and files that are not used. Decodes no image."""
    try:
        source = open_form(form)
        if source is None:
            return []
        listed = {split: DiskList(source.images(split)) for split in source.splits()}
        for split, images in listed.items():
            check_names(images, f"{source.root}, {split}", source.root)
    except DataError as error:
        return [str(error)]
    bad = [image.problem for images in listed.values() for image in images if image.problem]
    return [*first_items(bad, PROBLEMS_LISTED), *unused_files(source, listed.values())]
