"""Everything that a test server would refuse in a submission, found before it is uploaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from panformer_cli.data.coco.panoptic_png import expect_reads
from panformer_cli.errors import DataError
from panformer_cli.reporting import Reporter
from panformer_cli.storage.plain_json import parse as parse_json
from panformer_cli.submission.archive import Archive, open_archive
from panformer_cli.submission.findings import Findings, Problem, SubmissionReport
from panformer_cli.submission.forms import Form, ImageId, ImageList, is_image_id, read_image_list
from panformer_cli.submission.segments import SegmentChecks
from panformer_cli.wording import listing, short


def check_submission(path: Path, image_info: Path, form: Form, reporter: Reporter) -> SubmissionReport:
    """Check a submission against the images that it has to answer for.

    path: the zip; it is read in place, one PNG at a time, and never unpacked.
    image_info: as `forms.read_image_list`.

    Where the zip is unsafe, or the JSON or the PNGs are not at their place, the check ends there.

    Raises:
        DataError: a file is missing, or the image info cannot be used.
    """
    wanted = read_image_list(image_info, form)
    findings = Findings()
    with open_archive(path, findings) as archive:
        if archive is not None:
            _check_content(archive, wanted, form, findings, reporter)
    return findings.report(len(wanted.images))


def _check_content(archive: Archive, wanted: ImageList, form: Form, findings: Findings, reporter: Reporter) -> None:
    json_name = _find_json(archive, form, findings)
    if json_name is None:
        return
    annotations = _read_annotations(archive, json_name, findings)
    folder = json_name.removesuffix(".json")
    if annotations is None or not _pngs_are_in(folder, archive, findings):
        return
    expect_reads(len(annotations))
    check = _AnnotationChecks(archive, folder, wanted, findings)
    with reporter.progress("Checking", len(annotations)) as progress:
        for annotation in sorted(annotations, key=_by_image):
            check.add(annotation)
            progress.advance()
    check.finish(json_name)


def _find_json(archive: Archive, form: Form, findings: Findings) -> str | None:
    """The JSON at the top of the zip; a name that the server does not expect is told of."""
    names = sorted(name for name in archive.names if name.endswith(".json"))
    top = [name for name in names if "/" not in name]
    if len(top) != 1:
        found = f"several, {listing(top, 3)}" if top else names[0] if names else "none"
        findings.add(
            Problem.JSON_PLACE, found, f"{archive.path} holds {found} as JSON; expected one JSON at the top of the zip"
        )
        return None
    name = top[0]
    if form.stem is not None and (not form.knows(Path(name).stem) or archive.path.stem != Path(name).stem):
        findings.add(
            Problem.WRONG_NAME,
            name,
            f"the zip is called {archive.path.name} and its JSON {name}; expected {form.zip_name} and the same name "
            "with .json",
        )
    return name


def _read_annotations(archive: Archive, name: str, findings: Findings) -> list[Any] | None:
    try:
        content = parse_json(archive.read(name).decode("utf-8"))
    except ValueError as error:  # a DataError is a ValueError
        findings.add(
            Problem.JSON_DAMAGED,
            name,
            f"{name} is not valid JSON or is truncated ({error}); expected an object in UTF-8",
        )
        return None
    annotations = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(annotations, list):
        findings.add(Problem.KEYS, name, f"{name} lacks the list `annotations`; expected one row for every image")
        return None
    return annotations


def _pngs_are_in(folder: str, archive: Archive, findings: Findings) -> bool:
    """Whether the zip has the folder that belongs to the JSON, or no PNG at all."""
    pngs = sorted(name for name in archive.names if name.endswith(".png"))
    if not pngs or any(name.startswith(f"{folder}/") for name in pngs):
        return True
    findings.add(
        Problem.PNG_PLACE,
        pngs[0],
        f"{archive.path} holds PNGs such as {pngs[0]} and none in {folder}/; expected the JSON's name for the folder",
    )
    return False


def _by_image(annotation: Any) -> tuple[int, int, str]:
    """Sorts numbers as numbers, before strings; annotations without an image id come first."""
    image_id = annotation.get("image_id") if isinstance(annotation, Mapping) else None
    if not is_image_id(image_id):
        return 0, 0, ""
    return (1, image_id, "") if isinstance(image_id, int) else (2, 0, str(image_id))


class _AnnotationChecks:
    """The rows of `annotations`, one after the other, and at the end what they leave out."""

    def __init__(self, archive: Archive, folder: str, wanted: ImageList, findings: Findings) -> None:
        self._archive = archive
        self._folder = folder
        self._wanted = wanted
        self._findings = findings
        self._segments = SegmentChecks(archive, wanted.categories, findings)
        self._answered: set[ImageId] = set()
        self._listed: set[str] = set()
        self._all_whole = True

    def add(self, annotation: Any) -> None:
        lacking = _lacking(annotation)
        if lacking:
            self._all_whole = False
            image = annotation.get("image_id") if isinstance(annotation, Mapping) else None
            sentence = (
                f"the annotation {short(annotation)} lacks {lacking}; expected image_id, file_name, segments_info"
            )
            self._findings.add(Problem.KEYS, image, sentence)
            return
        image_id, file_name = annotation["image_id"], annotation["file_name"]
        png = f"{self._folder}/{file_name}"
        is_new = self._claim_png(image_id, png)
        if self._claim_image(image_id) and is_new:
            self._check_png(image_id, png, annotation["segments_info"])

    def finish(self, json_name: str) -> None:
        """Images without an annotation and files without an owner.

        Both are left out where an annotation lacks its keys: whose image or file it is cannot be told.
        """
        if not self._all_whole:
            return
        for image_id, info in self._wanted.images.items():
            if image_id not in self._answered:
                sentence = f"image {image_id!r} ({info.file_name}) has no annotation in {json_name}; expected one"
                self._findings.add(Problem.IMAGE_MISSING, image_id, sentence)
        for name in sorted(set(self._archive.names) - self._listed - {json_name}):
            if name.startswith(f"{self._folder}/") and name.endswith(".png"):
                sentence = f"{name} is named by no annotation; expected one or no such file"
                self._findings.add(Problem.PNG_UNLISTED, name, sentence)
            else:
                sentence = f"{name} is neither {json_name} nor a PNG in {self._folder}/; leave it out"
                self._findings.add(Problem.SURPLUS_FILE, name, sentence)

    def _claim_image(self, image_id: ImageId) -> bool:
        if image_id not in self._wanted.images:
            sentence = f"image {image_id!r} is not in {self._wanted.path}; expected only images of that split"
            self._findings.add(Problem.IMAGE_SURPLUS, image_id, sentence)
            return False
        if image_id in self._answered:
            sentence = f"image {image_id!r} is annotated more than once; expected one annotation"
            self._findings.add(Problem.IMAGE_TWICE, image_id, sentence)
            return False
        self._answered.add(image_id)
        return True

    def _claim_png(self, image_id: ImageId, png: str) -> bool:
        """Whether the PNG is there for this image alone; an image that is annotated twice may name it again."""
        if png not in self._archive:
            sentence = f"image {image_id!r} names the PNG {png}, which the zip lacks; expected it there"
            self._findings.add(Problem.PNG_MISSING, image_id, sentence)
            return False
        if png in self._listed and image_id not in self._answered:
            sentence = (
                f"image {image_id!r} names the PNG {png}, which belongs to another image; expected one of its own"
            )
            self._findings.add(Problem.PNG_SHARED, image_id, sentence)
            return False
        self._listed.add(png)
        return True

    def _check_png(self, image_id: ImageId, png: str, rows: list[Any]) -> None:
        try:
            data = self._archive.read(png)
        except DataError as error:
            self._findings.add(Problem.PNG_DAMAGED, image_id, f"image {image_id!r}: {error}")
            return
        self._segments.add(image_id, png, data, self._wanted.images[image_id].size, rows)


def _lacking(annotation: Any) -> str:
    """The keys that an annotation lacks or fills with something else."""
    if not isinstance(annotation, Mapping):
        return "every key"
    good = {
        "image_id": is_image_id(annotation.get("image_id")),
        "file_name": isinstance(annotation.get("file_name"), str),
        "segments_info": isinstance(annotation.get("segments_info"), list),
    }
    return ", ".join(key for key, is_good in good.items() if not is_good)
