"""Prepare data sets from Python: the stages behind `panformer prepare-data`, with their defaults."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from typing import Any

from panformer_cli.api.reporters import reporter_of
from panformer_cli.api.wording import python_errors
from panformer_cli.data.parallel import available_cores
from panformer_cli.data.scenes.generator import write_scenes
from panformer_cli.data.scenes.options import SceneOptions
from panformer_cli.errors import DataError, PanformerError
from panformer_cli.prepare.annotation_tools.cvat import open_cvat_export
from panformer_cli.prepare.annotation_tools.labelme import open_labelme
from panformer_cli.prepare.annotation_tools.yolo import open_yolo
from panformer_cli.prepare.coco.coco import prepare_coco, prepare_custom
from panformer_cli.prepare.coco.in_place import Prepared as CheckedSplit
from panformer_cli.prepare.convert import ConvertOptions, convert
from panformer_cli.prepare.masks.coco_instances import open_coco_instances
from panformer_cli.prepare.masks.mask_folder import open_mask_folder
from panformer_cli.prepare.masks.png_pairs import open_png_pairs
from panformer_cli.prepare.published.ade20k import Ade20k
from panformer_cli.prepare.published.cityscapes import Cityscapes
from panformer_cli.prepare.published.mapillary import MapillaryVistas
from panformer_cli.prepare.recognize import Form, ambiguity, recognize, refusal
from panformer_cli.prepare.source import Source
from panformer_cli.prepare.summary import SplitSummary
from panformer_cli.reporting import Reporter
from panformer_cli.wording import counted

CONVERTED: dict[str, Callable[..., Source]] = {
    "cityscapes": Cityscapes,
    "ade20k": Ade20k,
    "mapillary": MapillaryVistas.open,
    "coco-instances": open_coco_instances,
    "png-pairs": open_png_pairs,
    "masks": open_mask_folder,
    "labelme": open_labelme,
    "yolo": open_yolo,
    "cvat": open_cvat_export,
}
"""The forms that are converted, with the functions that open them."""

IN_PLACE: dict[str, Callable[..., Sequence[CheckedSplit]]] = {"coco": prepare_coco, "custom": prepare_custom}
"""COCO's panoptic format, which is checked and summarized where it is."""

SCENES = "scenes"
"""Generated scenes; they have no input folder."""

_OWN_ARGUMENTS = ("root", "splits", "layout", "reporter", "out")
"""Arguments of these functions that are not options: `prepare` passes them, or they are for the command line."""


@dataclass(frozen=True)
class Prepared:
    """A data set in COCO's panoptic format.

    Attributes:
        folder: Its folder, for `data={"root": ...}` of a training or `data` of an evaluation.
        splits: A summary of each split by name, with counts of images, segments and pixels by category; empty for
            generated scenes.
    """

    folder: Path
    splits: dict[str, SplitSummary]

    def __repr__(self) -> str:
        counts = (f"{name}: {counted(summary.images, 'image')}" for name, summary in self.splits.items())
        return f"Prepared({self.folder}{''.join(f', {text}' for text in counts)})"


@python_errors
def prepare(
    root: str | PathLike[str] | None = None,
    out: str | PathLike[str] | None = None,
    *,
    form: str = "auto",
    splits: Sequence[str] = (),
    workers: int | None = None,
    skip_bad_images: bool = False,
    skip_bad_annotations: bool = False,
    drop_small: int = 0,
    verbose: bool = True,
    **options: Any,
) -> Prepared:
    """Convert a data set to COCO's panoptic format, or check one that has it. Interrupted calls resume.

    With several workers, call it below `if __name__ == "__main__":` on macOS and Windows, where new processes import
    the script again.

    Args:
        root: Folder of the data set; not for `scenes`.
        out: Output folder. COCO's own format does not need one.
        form: The `prepare-data` subcommand: `cityscapes`, `ade20k`, `mapillary`, `coco-instances`, `png-pairs`,
            `masks`, `labelme`, `yolo` or `cvat`; `coco` or `custom` for COCO's panoptic format; `scenes` generates a
            data set; `auto` recognizes the form by the files.
        splits: The splits; if empty, all.
        workers: Number of processes; None for one per core.
        skip_bad_images: Skip images that cannot be used, and list them in the summary.
        skip_bad_annotations: The same for single annotations.
        drop_small: Segments of fewer pixels become void.
        verbose: Show progress and messages on stderr; otherwise messages go to the logger `panformer`.
        options: Options of the subcommand, with underscores, such as `classes="classes.csv"` or `stuff=["sky"]`.

    Raises:
        DataError: The data set cannot be used, is not recognized, or has several forms.
        PanformerError: The form or an option does not exist, or a folder cannot be written.

    Examples:
        >>> import panformer
        >>> prepared = panformer.prepare(out="scenes", form="scenes", train_images=2, val_images=1, verbose=False)
        >>> sorted(path.name for path in prepared.folder.iterdir())
        ['annotations', 'images', 'scenes.json']
    """
    reporter = reporter_of(verbose)
    if form == SCENES:
        return _generate(out, options, reporter)
    if root is None:
        raise PanformerError("root is missing; expected the folder of the data set")
    if form == "auto":
        found = _recognized(Path(root), out)
        form, root = found.source, found.root
        if found.classes is not None:
            options.setdefault("classes", found.classes)
    _check_options(form, options)
    conversion = ConvertOptions(workers or available_cores(), skip_bad_images, skip_bad_annotations, drop_small)
    if form in IN_PLACE:
        home = None if out is None else Path(out)
        prepared = IN_PLACE[form](Path(root), splits, conversion, reporter, out=home, **options)
        return _prepared(home or Path(root), [split.summary for split in prepared])
    if out is None:
        raise PanformerError(f"out is missing; expected the folder to write the data set of the form {form} to")
    opener = CONVERTED[form]
    if "splits" in inspect.signature(opener).parameters:  # whose categories depend on the splits
        options["splits"] = splits
    source = opener(Path(root), **_with_paths(options))
    return _prepared(Path(out), convert(source, Path(out), splits, conversion, reporter))


def _generate(out: str | PathLike[str] | None, options: dict[str, Any], reporter: Reporter) -> Prepared:
    if out is None:
        raise PanformerError("out is missing; expected the folder to write the scenes to")
    _check_names(SCENES, options, list(inspect.signature(SceneOptions).parameters))
    write_scenes(Path(out), SceneOptions(**options), reporter)
    return Prepared(Path(out), {})


def _prepared(folder: Path, summaries: Sequence[SplitSummary]) -> Prepared:
    return Prepared(folder, {summary.split: summary for summary in summaries})


def _recognized(root: Path, out: str | PathLike[str] | None) -> Form:
    """Return the form of a data set. Raises a DataError unless there is exactly one that can be prepared."""
    forms = recognize(root)
    if not forms:
        raise refusal(root)
    if len(forms) > 1:
        raise ambiguity(root, forms, None if out is None else str(out), ())
    if forms[0].source not in (*CONVERTED, *IN_PLACE):
        raise DataError(f"{root} is {forms[0].title} ({forms[0].evidence}); use it as it is")
    return forms[0]


def _check_options(form: str, options: dict[str, Any]) -> None:
    known: dict[str, Callable[..., Any]] = {**CONVERTED, **IN_PLACE}
    if form not in known:
        close = get_close_matches(form, [*known, SCENES], n=1)
        guess = f"; did you mean {close[0]}?" if close else ""
        raise PanformerError(f"form is {form!r}; expected auto, {', '.join([*known, SCENES])}{guess}")
    parameters = list(inspect.signature(known[form]).parameters)
    own = ("options",) if form in IN_PLACE else ()
    _check_names(form, options, [name for name in parameters if name not in (*_OWN_ARGUMENTS, *own)])
    required = [
        name
        for name, parameter in inspect.signature(known[form]).parameters.items()
        if parameter.default is inspect.Parameter.empty and name not in (*_OWN_ARGUMENTS, *own, *options)
    ]
    if required:
        raise PanformerError(f"the form {form} needs {', '.join(required)}; pass it as a keyword argument")


def _check_names(form: str, options: dict[str, Any], known: Sequence[str]) -> None:
    if unknown := [name for name in options if name not in known]:
        expected = f"expected some of {', '.join(known)}" if known else "it has none of its own"
        raise PanformerError(f"the form {form} has no option {', '.join(unknown)}; {expected}")


def _with_paths(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options with files and folders as `Path`."""
    files = ("classes", "stuff_masks")
    return {name: Path(value) if name in files and value is not None else value for name, value in options.items()}
