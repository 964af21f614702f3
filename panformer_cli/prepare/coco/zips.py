"""Find and unpack COCO's downloaded zips."""

from __future__ import annotations

from pathlib import Path

from panformer_cli.data.layout import find_annotation, find_image_zip, find_images, find_outer_zips
from panformer_cli.prepare.coco.unpack import names_in, unpack_files, unpack_folder
from panformer_cli.reporting import Reporter


def unpack_split(root: Path, split: str, reporter: Reporter) -> None:
    """Unpack the annotations, PNGs and images of `split` that are still in COCO's zips.

    Raises:
        DataError, PanformerError: as `unpack.unpack_folder`.
    """
    _unpack_annotations(root, split, reporter)
    annotation = find_annotation(root, split)
    if annotation is not None:
        pngs = annotation.with_suffix("")
        packed = pngs.with_name(f"{pngs.name}.zip")
        if packed.is_file() and not pngs.exists():
            unpack_folder(packed, pngs, reporter)
    unpack_images(root, split, reporter)


def unpack_images(root: Path, split: str, reporter: Reporter) -> None:
    """Unpack `<split>.zip` if there is no folder of its images. Raises as `unpack.unpack_folder`."""
    packed = find_image_zip(root, split)
    if packed is not None and find_images(root, split) is None:
        unpack_folder(packed, packed.with_suffix(""), reporter)


def packed_splits(root: Path) -> set[str]:
    """Return the names of the splits whose panoptic JSON is in a downloaded zip."""
    packed = {name for outer in find_outer_zips(root) for name in names_in(outer) if name.startswith("panoptic_")}
    return {name[len("panoptic_") : -len(".json")] for name in packed if name.endswith(".json")}


def _unpack_annotations(root: Path, split: str, reporter: Reporter) -> None:
    """Unpack the missing parts of `split` from a zip of JSON files and zips of PNGs."""
    for outer in find_outer_zips(root):
        folder = outer.parent if outer.parent.name == "annotations" else outer.parent / "annotations"
        names = [f"panoptic_{split}.json", f"panoptic_{split}.zip"]
        if (folder / f"panoptic_{split}").exists():
            names.pop()
        missing = [name for name in names if not (folder / name).exists() and name in names_in(outer)]
        for path in unpack_files(outer, missing, folder, reporter) if missing else ():
            if path.suffix == ".zip":
                unpack_folder(path, path.with_suffix(""), reporter)
                path.unlink()  # the outer zip still contains it
