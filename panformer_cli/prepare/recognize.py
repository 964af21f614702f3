"""Recognize the form of a data set from its files, and name the command that converts it.

Only names and the beginning of a few files are read. A folder can have several forms, such as an export in two formats;
it is never guessed which of them is meant.
"""

from __future__ import annotations

import json
import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

from panformer_cli.data.images import IMAGE_SUFFIXES
from panformer_cli.data.layout import find_outer_zips, find_splits
from panformer_cli.errors import DataError
from panformer_cli.prepare.annotation_tools.yolo_layout import (
    CLASS_FILES,
    DARKNET,
    find_config,
    read_config,
)
from panformer_cli.prepare.annotation_tools.yolo_rows import class_number, read_rows
from panformer_cli.prepare.masks.coco_layout import coco_jsons
from panformer_cli.prepare.source import require_folder
from panformer_cli.wording import counted, first_items, listing

_MOST_FILES = 20_000
"""Files listed in a folder; the form of larger data sets is known before."""

_DEEPEST = 4
"""Levels of folders that are searched for JSON files."""

_MOST_OPENED = 40
"""JSON or XML files that are opened."""

_MOST_TEXTS = 200
"""Text files that are opened; those of images without objects are empty."""

_ENDS = 2**20
"""Bytes read at the beginning and at the end of a JSON or XML file."""


@dataclass(frozen=True)
class Form:
    """A form that a data set could have.

    Attributes:
        source: The `prepare-data` subcommand.
        title: The form in words.
        evidence: The files that show it.
        root: The folder of the data set.
        classes: The file to pass as `--classes`; None if there is none.
        needs_classes: Whether the command requires such a file.
    """

    source: str
    title: str
    evidence: str
    root: Path
    classes: Path | None = None
    needs_classes: bool = False

    @property
    def is_prepared(self) -> bool:
        """Whether it is COCO's panoptic format, which is used in place."""
        return self.source in ("coco", "custom", "verify")

    def words(self, out: str | None, options: tuple[str, ...] = ()) -> list[str]:
        """Return the words after `panformer prepare-data` that convert the data set.

        Args:
            out: The output folder; None if it is not known. Data sets that are used in place have none by default.
            options: Other options of the command.
        """
        if self.source == "verify":
            return ["verify", str(self.root), *options]
        words = [self.source, "--root", str(self.root)]
        if out is not None or not self.is_prepared:
            words += ["--out", out or "DIR"]
        if (self.classes is not None or self.needs_classes) and not is_given("--classes", options):
            words += ["--classes", str(self.classes or "FILE")]
        return [*words, *options]

    def command(self, out: str | None = None, options: tuple[str, ...] = ()) -> str:
        """Return the command line that converts the data set."""
        return shlex.join(["panformer", "prepare-data", *self.words(out, options)])


def is_given(option: str, words: Sequence[str]) -> bool:
    """Return whether a command line has an option, as `--classes FILE` or `--classes=FILE`."""
    return any(word == option or word.startswith(f"{option}=") for word in words)


def recognize(root: Path) -> list[Form]:
    """Return the forms that the data set in `root` could have; empty if none is known.

    If `root` itself has no known form, its folders are tried, since archives are often unpacked into one more folder.

    Raises:
        DataError: `root` is not a folder.
    """
    require_folder(root)
    found = _forms_of(_Folder(root))
    if found:
        return found
    inner = (path for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith("."))
    return [form for path in islice(inner, 20) for form in _forms_of(_Folder(path))]


def hint(root: Path, source: str) -> str:
    """Return the end of an error of the subcommand `source`: what to do with the form that `root` has instead."""
    found = recognize(root)
    forms = [form for form in found if form.source != source or form.root != root]
    if len(forms) != 1:
        other = unsupported(root) if not found else ""
        return f" ({other})" if other else ""
    return f" ({forms[0].root} has the form of {forms[0].title}: `{forms[0].command()}`)"


def contents(root: Path) -> str:
    """Return what is in a folder: files by suffix and the names of folders."""
    folder = _Folder(root)
    suffixes = Counter(path.suffix.lower() or "no suffix" for path in folder.files)
    files = [f"{counted(count, 'file')} with {suffix}" for suffix, count in suffixes.most_common(6)]
    names = [path.name for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    parts = [listing(files)] if files else ["no files"]
    parts += [f"the {'folders' if len(names) > 1 else 'folder'} {listing(names)}"] if names else []
    return " and ".join(parts)


def unsupported(root: Path) -> str:
    """Return what can be done about labels in a form that is not converted; empty if there are none."""
    folder = _Folder(root)
    archive = next((path for path in folder.files if path.name.lower().endswith(_ARCHIVES)), None)
    if archive is not None:
        return f"{archive} is an archive; unpack it"
    voc = next((path for inner in ("", "*/", "*/*/") for path in root.glob(f"{inner}SegmentationClass")), None)
    if voc is not None:
        return _voc_advice(voc)
    for path in (*folder.named(".xml"), *folder.named(".json")):
        text = _ends_of(path)
        for marks, title in _UNSUPPORTED:
            if all(mark in text for mark in marks):
                return f"{path} is {title}"
    other = next((path for path in folder.named(".json") if path.name.startswith(_OTHER_TASKS)), None)
    if other is not None:
        return f"{other} is for another task of COCO; if it has masks, pass it to `coco-instances` as --json FILE"
    return ""


def _voc_advice(classes: Path) -> str:
    """Return how to convert the masks of Pascal VOC, of which `classes` is the folder `SegmentationClass`."""
    voc, command = classes.parent, "masks"
    if (voc / _LABEL_MAP).is_file():
        return (
            f"{voc} has the masks of CVAT, whose colors are in {_LABEL_MAP}, but not JPEGImages and "
            "SegmentationObject; export the task again with `Save images`; or copy JPEGImages and SegmentationClass to "
            "images and masks in a new folder, and run `prepare-data masks` with a CSV of the classes and colors in "
            f"{_LABEL_MAP}, where touching objects of a class become one"
        )
    given, names = "JPEGImages and SegmentationClass", "images and masks"
    if (voc / "SegmentationObject").is_dir():
        command = "png-pairs"
        given, names = "JPEGImages, SegmentationClass and SegmentationObject", "images, semantic and instance"
    return (
        f"{voc} has Pascal VOC's masks; copy {given} to {names} in a new folder, and run `prepare-data {command}` with "
        "a class file"
    )


_LABEL_MAP = "labelmap.txt"
"""The names and colors of the classes in the export `Segmentation mask` of CVAT, whose PNGs are RGB."""
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar")

_OTHER_TASKS = ("stuff_", "person_keypoints_")
"""How COCO's JSON files of other tasks begin that can have masks."""

_UNSUPPORTED = (
    ((b"<annotation>", b"<polygon>", b"<pt>"), "the XML of the LabelMe web tool; convert it to COCO"),
    ((b"<annotation>", b"<bndbox>"), "Pascal VOC's XML, which has boxes but no masks"),
    ((b'"regions"', b'"shape_attributes"'), "VIA's JSON; export it as COCO"),
    ((b'"from_name"', b'"to_name"'), "Label Studio's own JSON; export it as COCO or YOLO"),
    ((b'"original_width"', b'labels"'), "Label Studio's JSON-MIN; export it as COCO or YOLO"),
    ((b'"classTitle"', b'"exterior"'), "Supervisely's JSON; export it as COCO"),
    ((b'"predicted_iou"', b'"stability_score"'), "Segment Anything's JSON, whose masks have no class"),
    (
        (b'"segments_info"', b'"categories"'),
        "in COCO's panoptic format; expected it in annotations/panoptic_<split>.json, beside its PNGs in a folder of "
        "the same name, with the images in images/<split>/",
    ),
)


class _Folder:
    """A folder, with its files listed once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def files(self) -> list[Path]:
        """The first files, without hidden ones."""
        return list(islice(_walk(self.root, _DEEPEST), _MOST_FILES))

    def named(self, suffix: str) -> Iterator[Path]:
        """Yield the first files with a suffix."""
        return islice((path for path in self.files if path.suffix.lower() == suffix), _MOST_OPENED)

    def has(self, *names: str) -> bool:
        """Return whether all of these are folders."""
        return all((self.root / name).is_dir() for name in names)

    def inner(self, path: Path) -> str:
        """Return a path relative to the folder."""
        return path.relative_to(self.root).as_posix()


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    """Yield the files in a folder and its folders, which come last."""
    try:
        with os.scandir(folder) as entries:
            found = sorted((entry for entry in entries if entry.name[0] != "."), key=lambda entry: entry.name)
    except OSError:  # the command reports it
        return
    yield from (Path(entry.path) for entry in found if entry.is_file())
    for entry in found if depth > 1 else ():
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), depth - 1)


def _ends_of(path: Path) -> bytes:
    """Return the beginning and the end of a file; empty if it cannot be read."""
    try:
        with path.open("rb") as file:
            head = file.read(_ENDS)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(len(head), size - _ENDS))
            return (head + file.read()).replace(b"\0", b"")  # UTF-16
    except OSError:
        return b""


def _forms_of(folder: _Folder) -> list[Form]:
    return [form for form in (find(folder) for find in _FINDERS) if form is not None]


def _panoptic(folder: _Folder) -> Form | None:
    root, splits = folder.root, find_splits(folder.root)
    zips = find_outer_zips(root)
    if zips:
        return Form("coco", "COCO's downloads", folder.inner(zips[0]), root)
    if not splits:
        return None
    evidence = f"annotations/panoptic_{splits[0]}.json"
    if _is_manifest(root / "manifest.json"):
        return Form("verify", "a prepared data set, which needs no conversion", f"{evidence} and manifest.json", root)
    if any(split in ("train2017", "val2017") for split in splits):
        return Form("coco", "COCO", evidence, root)
    return Form("custom", "COCO panoptic format", evidence, root)


def _is_manifest(path: Path) -> bool:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and all(isinstance(row, dict) and "setting" in row for row in content.values())


def _cityscapes(folder: _Folder) -> Form | None:
    names = ("leftImg8bit", "gtFine")
    homes = {
        name: next((path for path in sorted(folder.root.glob(f"{name}*")) if path.is_dir()), None) for name in names
    }
    found = [folder.inner(path) for path in homes.values() if path is not None]
    return Form("cityscapes", "Cityscapes", " and ".join(found), folder.root) if len(found) == len(names) else None


def _ade20k(folder: _Folder) -> Form | None:
    for split in ("training", "validation"):
        if folder.has(f"images/{split}", f"annotations/{split}"):
            photos = [f"images/{split}/{path.name}" for path in (folder.root / "images" / split).glob("ADE_*")]
            marks = ["annotations_instance", "objectInfo150.txt", *photos[:1]]
            found = next((name for name in marks if (folder.root / name).exists()), None)
            if found is not None:
                return Form("ade20k", "ADE20K", f"images/{split}, annotations/{split} and {found}", folder.root)
    return None


def _mapillary(folder: _Folder) -> Form | None:
    configs = sorted(folder.root.glob("config*.json"))
    images = sorted(path for path in folder.root.glob("*/images") if path.is_dir())
    if not configs or not images or not _is_vistas(configs[0]):
        return None
    return Form("mapillary", "Mapillary Vistas", f"{configs[0].name} and {folder.inner(images[0])}", folder.root)


def _is_vistas(config: Path) -> bool:
    """Return whether a configuration lists the labels that are evaluated."""
    text = _ends_of(config)
    return b'"labels"' in text and b'"evaluate"' in text


def _coco_instances(folder: _Folder) -> Form | None:
    found = next(filter(_has_objects, coco_jsons(folder.root, _MOST_OPENED)), None)
    if found is None:
        return None
    evidence = f"{folder.inner(found)} has images, annotations and categories"
    return Form("coco-instances", "COCO instances", evidence, folder.root, _class_file(folder))


def _has_objects(path: Path) -> bool:
    """Return whether a COCO JSON has annotations, and they are not panoptic."""
    text = _ends_of(path)
    return (b'"annotations"' in text or b'"category_id"' in text) and b'"segments_info"' not in text


def _labelme(folder: _Folder) -> Form | None:
    for path in folder.named(".json"):
        text = _ends_of(path)
        if b'"shapes"' in text and (b'"imagePath"' in text or b'"imageData"' in text):
            evidence = f"{folder.inner(path)} has shapes and the name of an image"
            return Form("labelme", "labelme", evidence, folder.root, _class_file(folder))
    return None


def _yolo(folder: _Folder) -> Form | None:
    root = folder.root
    try:
        config = find_config(root)
        content = read_config(config) if config is not None else {}
    except DataError:
        return None
    evidence = _yolo_labels(folder)
    names = [name for name in (*CLASS_FILES, "labels/classes.txt") if (root / name).is_file()]
    if config is not None and (config.name == DARKNET or not {"train", "val", "nc", "path"}.isdisjoint(content)):
        evidence = " and ".join(filter(None, [config.name, evidence]))
    elif evidence and (names or config is not None):
        evidence = f"{config.name if config is not None else sorted(names)[0]} and {evidence}"
    elif evidence and folder.has("labels"):  # without names of classes
        return Form("yolo", "YOLO", evidence, root, needs_classes=True)
    else:
        return None
    return Form("yolo", "YOLO", evidence, root)


def _yolo_labels(folder: _Folder) -> str:
    """Return the first text file of an image with rows of numbers; empty if there is none."""
    images = {path.with_suffix("") for path in folder.files if path.suffix.lower() in IMAGE_SUFFIXES}
    texts = (path for path in folder.files if path.suffix == ".txt" and path.name not in CLASS_FILES)
    labels = (path for path in texts if "labels" in path.parts or path.with_suffix("") in images)
    for path in islice(labels, _MOST_TEXTS):
        with suppress(DataError):
            row = next(read_rows(path), None)
            if row is not None and class_number(row.class_word) is not None and len(row.words) >= 4:
                return f"{folder.inner(path)} has rows of numbers"
    return ""


def _cvat(folder: _Folder) -> Form | None:
    for path in islice(sorted(folder.root.glob("*.xml")), _MOST_OPENED):
        if b"<annotations" in _ends_of(path)[:1000]:
            return Form("cvat", "CVAT's XML", f"{path.name} has <annotations>", folder.root, _class_file(folder))
    if (folder.root / _LABEL_MAP).is_file() and folder.has("JPEGImages", "SegmentationClass", "SegmentationObject"):
        evidence = f"{_LABEL_MAP}, SegmentationClass and SegmentationObject"
        return Form("cvat", "CVAT's segmentation masks", evidence, folder.root, _class_file(folder))
    return None


def _png_pairs(folder: _Folder) -> Form | None:
    for names in (("semantic", "instance"), ("panoptic",)):
        if folder.has("images", *names):
            evidence = f"the folders images, {' and '.join(names)}"
            title = "class and instance PNGs"
            return Form("png-pairs", title, evidence, folder.root, _class_file(folder, True), needs_classes=True)
    return None


def _masks(folder: _Folder) -> Form | None:
    if not folder.has("images", "masks"):
        return None
    evidence = "the folders images and masks"
    classes = _class_file(folder, True) or _class_list(folder)
    return Form("masks", "folders of masks", evidence, folder.root, classes, needs_classes=True)


def _class_file(folder: _Folder, takes_other_names: bool = False) -> Path | None:
    """Return the class file in a folder: `classes.csv` or similar, or else the only CSV if it may have any name."""
    usual = [folder.root / f"classes{suffix}" for suffix in (".csv", ".yaml", ".yml")]
    others = sorted(folder.root.glob("*.csv")) if takes_other_names else []
    return next((path for path in usual if path.is_file()), others[0] if len(others) == 1 else None)


def _class_list(folder: _Folder) -> Path | None:
    """Return classes.txt, a list of names, which is enough for one mask per object."""
    path = folder.root / "classes.txt"
    return path if path.is_file() else None


_FINDERS: tuple[Callable[[_Folder], Form | None], ...] = (
    *(_panoptic, _cityscapes, _ade20k, _mapillary),
    *(_coco_instances, _labelme, _yolo, _cvat, _png_pairs, _masks),
)


def refusal(root: Path) -> DataError:
    """Return the error for a folder without a known form: what is in it, and what was looked for."""
    other = unsupported(root)
    images = next((path for path in _Folder(root).files if path.suffix.lower() in IMAGE_SUFFIXES), None)
    advice = other or ("it has images but no labels that are recognized" if images else "it has no images")
    return DataError(
        f"{root} has no labels in a known form; found {contents(root)}; {advice}; expected one of the layouts in "
        "docs/data.md; check the path, or run the command for your format"
    )


def ambiguity(root: Path, forms: list[Form], out: str | None, options: tuple[str, ...]) -> DataError:
    """Return the error for a folder with several forms: each with its evidence and command."""
    several = "forms" if len({form.root for form in forms}) == 1 else "data sets"
    heading = f"{root} has {len(forms)} {several}; run the command of the one you want:"
    lines = [f"  {form.title} ({form.evidence}): {form.command(out, options)}" for form in forms]
    return DataError("\n".join([heading, *first_items(lines)]))
