"""`prepare-data yolo`: convert a data set in Ultralytics' YOLO segmentation format.

The format is documented at https://docs.ultralytics.com/datasets/segment/.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.structures import PanopticMap
from panformer_cli.errors import DataError
from panformer_cli.prepare.annotation_tools import shapes
from panformer_cli.prepare.annotation_tools.labeled_shapes import LabeledShape, panoptic_of_shapes, with_stuff
from panformer_cli.prepare.annotation_tools.shapes import Size
from panformer_cli.prepare.annotation_tools.yolo_layout import (
    CLASS_FILES,
    DARKNET,
    LAYOUTS,
    YoloSplit,
    exists,
    files_of,
    find_config,
    find_layout,
    image_folders,
    label_folder,
    read_config,
    unreadable_yamls,
    unused_labels,
)
from panformer_cli.prepare.annotation_tools.yolo_rows import (
    Row,
    RowForm,
    class_number,
    form_of_rows,
    polygon_of,
    read_rows,
)
from panformer_cli.prepare.classes import read_class_names, read_classes
from panformer_cli.prepare.left_out import CLIPPED, UNKNOWN_CLASS, AnnotationError, AnnotationLog
from panformer_cli.prepare.overlap import OverlapRule
from panformer_cli.prepare.recognize import contents, hint
from panformer_cli.prepare.source import SourceImage, require_folder, with_unused_labels
from panformer_cli.wording import counted, listing, short, with_first


@dataclass(frozen=True)
class Yolo:
    """A YOLO segmentation data set; open one with `open_yolo`.

    The category ids are the class numbers in the text files. An image without a text file has no objects. The `extra`
    of its images is their `RowForm`.

    Attributes:
        layout: The splits by name.
        remarks: What the configuration file names but is not converted.
        accepts_oriented_boxes: Use oriented boxes as the masks of their objects.
    """

    root: Path
    categories: CategoryTable
    layout: Mapping[str, YoloSplit]
    overlap: OverlapRule = "last"
    remarks: tuple[str, ...] = ()
    accepts_oriented_boxes: bool = False
    encoding: str | None = None
    own_files: tuple[Path, ...] = ()
    name: str = "yolo"

    @property
    def settings(self) -> dict[str, Any]:
        accepted = {"accept_oriented_boxes": True} if self.accepts_oriented_boxes else {}
        named = {"encoding": self.encoding} if self.encoding else {}
        return {"overlap": self.overlap} | accepted | named

    @property
    def also_read(self) -> Sequence[Path]:
        """The folders outside of `root` that the configuration file or its lists name."""
        sources = {source for split in self.layout.values() for source in split.sources}
        folders = {source.parent for source in sources if not source.is_dir()}
        folders = folders.union(*(image_folders(split, self.root) for split in self.layout.values()))
        return sorted(folder for folder in folders if not folder.is_relative_to(self.root))

    def splits(self) -> Sequence[str]:
        found = [name for name, split in self.layout.items() if self._missing_folder(split) is None]
        if not found:
            there = f"found {contents(self.root)}"
            raise DataError(f"{self.root} has no split with images and labels; {there}; expected {LAYOUTS}")
        return sorted(found)

    def images(self, split: str) -> Iterator[SourceImage]:
        found = self._split(split)
        form = self._form(found)
        return with_unused_labels(self._images(found, form), unused_labels(found, self.root), found.sources[0])

    def conventions(self, split: str, marks: Mapping[str, int]) -> Sequence[str]:
        """Return what was assumed about the rows, and what the configuration names but is not converted."""
        del marks
        note = self._form(self._split(split)).note
        return [*self.remarks, *([note] if note else [])]

    def read(self, image: SourceImage, size: tuple[int, int], log: AnnotationLog) -> PanopticMap:
        path = image.labels[0]
        drawn = []
        for row in read_rows(path, self.encoding):
            with log.annotation():
                drawn.append(self._shape(row, image.extra, f"{path}, line {row.line}", size, log))
        return panoptic_of_shapes(drawn, size, self.categories, self.overlap, str(path), log)

    def _shape(self, row: Row, form: RowForm, where: str, size: Size, log: AnnotationLog) -> LabeledShape:
        number = class_number(row.class_word)
        if number is None or number not in self.categories:
            known = listing(sorted(category.id for category in self.categories.categories))
            if mark := next((mark for mark in ",;" if mark in row.class_word), ""):
                raise AnnotationError(
                    f"{where} starts with {short(row.class_word)}; expected spaces between numbers, not {mark!r}"
                )
            raise AnnotationError(
                f"{where} starts with {short(row.class_word)}; expected a class number, one of {known}; correct it, "
                "or add the class to data.yaml",
                UNKNOWN_CLASS,
            )
        points, was_clipped = polygon_of(row.words[:-1] if form.has_extra_column else row.words, where)
        if was_clipped:
            log.changed.append((CLIPPED, f"{where}: the polygon extends out of the image by up to 1 %"))
        patch = shapes.polygon(points * (size[1], size[0]), size, f"{where}: the polygon")
        return LabeledShape(number, patch, f"line {row.line} ({self.categories.by_id(number).name})")

    def _split(self, name: str) -> YoloSplit:
        """Return a split with images and labels."""
        split = self.layout.get(name)
        missing = self._missing_folder(split) if split is not None else None
        if split is None:
            problem = f"{self.root} has no split {name!r} (available splits: {', '.join(self.splits())})"
            raise DataError(f"{problem}; expected {LAYOUTS}")
        if missing is not None:
            raise DataError(f"the folder {missing} is missing; expected {LAYOUTS}")
        return split

    def _missing_folder(self, split: YoloSplit) -> Path | None:
        """Return the first folder of text files that does not exist."""
        folders = (label_folder(source, self.root) for source in split.sources if source.is_dir())
        return next((folder for folder in folders if not folder.is_dir()), None)

    def _form(self, split: YoloSplit) -> RowForm:
        labels = (file.labels for file in files_of(split, self.root))
        return form_of_rows(labels, f"{self.root}, {split.name}", self.accepts_oriented_boxes, self.encoding)

    def _images(self, split: YoloSplit, form: RowForm) -> Iterator[SourceImage]:
        """Yield the images of a split.

        Raises:
            DataError: None of the images exists, or none has a text file.
        """
        image, has_labels, has_image = None, False, False
        for number, file in enumerate(files_of(split, self.root), 1):
            image = SourceImage(number, file.path, file.name, (file.labels,), form)
            has_labels = has_labels or exists(file.labels)
            has_image = has_image or exists(file.path)
            yield image
        where = listing(split.sources, separator=" and ")
        if image is not None and not has_image:
            raise DataError(f"none of the images that {where} lists exists, such as {image.path}; correct its paths")
        if image is not None and not has_labels:
            raise DataError(
                f"no image in {where} has a text file in {image.labels[0].parent}; expected the same names with .txt, "
                f"such as {image.labels[0]}"
            )


def open_yolo(
    root: Path,
    classes: Path | None = None,
    stuff: Sequence[str] = (),
    overlap: OverlapRule = "last",
    accepts_oriented_boxes: bool = False,
    encoding: str | None = None,
) -> Yolo:
    """Return the source in the folder `root`.

    Args:
        root: The folder of the data set.
        classes: A file for `read_classes`, or a text file of names, numbered from 0. If it names folders of images as
            `data.yaml` does, these are used. None takes the configuration file in `root`, or else its list of names.
        stuff: Names of the classes that are stuff.
        overlap: Which polygon keeps shared pixels.
        accepts_oriented_boxes: Use oriented boxes as the masks of their objects.
        encoding: Encoding of text files that are not UTF-8.

    Raises:
        DataError: The folder or the classes are missing, a name is unknown, or the data set has no masks.
    """
    require_folder(root)
    config = _config(root, classes, encoding)
    if config is not None:
        _refuse_other_tasks(config, read_config(config, encoding), accepts_oriented_boxes)
    table = _classes_in(classes, encoding) if classes else _table(root, config, encoding)
    layout = find_layout(root, config, encoding)
    remarks = (*layout.notes, *_other_number_of_classes(config, encoding))
    own_files = (*filter(None, (classes, config)), *_class_lists(root), *_image_lists(layout.splits))
    return Yolo(
        root,
        with_stuff(table, stuff),
        layout.splits,
        overlap,
        remarks,
        accepts_oriented_boxes,
        encoding,
        own_files,
    )


def _other_number_of_classes(config: Path | None, encoding: str | None) -> list[str]:
    """Return a sentence if the configuration has another number of classes than names, which Ultralytics refuses."""
    content = read_config(config, encoding) if config is not None and config.name != DARKNET else {}
    number, names = content.get("nc"), content.get("names")
    if not isinstance(names, list | dict) or number is None or number == len(names):
        return []
    return [f"{config} has nc {short(number)}, but {counted(len(names), 'name')}; the names are used"]


def _class_lists(root: Path) -> list[Path]:
    """Return the usual paths of a list of class names, which may not exist."""
    found = [folder / name for folder in (root, root / "labels") for name in sorted(CLASS_FILES)]
    return [*found, *sorted(root.glob("labels/*/classes.txt"))]


def _image_lists(splits: Mapping[str, YoloSplit]) -> list[Path]:
    return [source for split in splits.values() for source in split.sources if not source.is_dir()]


def _refuse_other_tasks(config: Path, content: Mapping[str, Any], accepts_oriented_boxes: bool) -> None:
    """Raise a DataError if the configuration says that the labels are no polygons."""
    task = content.get("task")
    if "kpt_shape" in content or task == "pose":
        what = f"kpt_shape {short(content['kpt_shape'])}" if "kpt_shape" in content else "the task 'pose'"
        raise DataError(
            f"{config} has {what}, so the labels are poses (a box and key points), which are no masks; expected "
            "polygons; export the data set for segmentation, or remove this key if the rows are polygons"
        )
    if task in ("detect", "classify") or (task == "obb" and not accepts_oriented_boxes):
        option = ", or use the oriented boxes as masks with --accept-oriented-boxes" if task == "obb" else ""
        raise DataError(
            f"{config} has the task {task!r}, whose labels are no masks; expected polygons; export the data set for "
            f"segmentation{option}"
        )


def _config(root: Path, classes: Path | None, encoding: str | None) -> Path | None:
    """Return the class file if it names folders of images, else the configuration file in `root`."""
    if classes is not None:
        is_yaml = classes.suffix.lower() in (".yaml", ".yml") and classes.is_file()
        if is_yaml and not {"train", "val", "test"}.isdisjoint(read_config(classes, encoding)):
            return classes
    return find_config(root, encoding)


def _classes_in(path: Path, encoding: str | None) -> CategoryTable:
    """Return the classes in a file; a list of names is numbered from 0, as the labels are."""
    if path.suffix.lower() in (".txt", ".names"):
        return read_class_names(path, encoding)
    return read_classes(path, matched_by="id", encoding=encoding)


def _table(root: Path, config: Path | None, encoding: str | None) -> CategoryTable:
    """Return the classes that the configuration file, or else a list of names, contains."""
    if config is not None and config.name != DARKNET:
        return _classes_in(config, encoding)
    named = str(read_config(config, encoding).get("names", "")) if config is not None else ""
    candidates = [root / named, root / named.removeprefix("data/")] if named else []
    candidates += _class_lists(root)
    found = next((path for path in candidates if path.is_file()), None)
    if found is None and (problems := unreadable_yamls(root, encoding)):
        raise DataError(with_first(f"{root} has no class names that can be read:", problems))
    if found is None:
        raise DataError(
            f"{root} has no data.yaml with the classes, and no classes.txt; pass the data set's YAML file with "
            f"--classes FILE{hint(root, 'yolo')}"
        )
    return read_class_names(found, encoding)
