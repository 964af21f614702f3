"""Checking submissions: a valid zip in each format passes, and each kind of corruption gives its own finding."""

from __future__ import annotations

import json
import re
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from panformer_cli.data.cityscapes_labels import CATEGORIES as CITYSCAPES
from panformer_cli.errors import DataError
from panformer_cli.submission.archive import MAX_PNG_BYTES
from panformer_cli.submission.findings import EXAMPLES, Problem
from panformer_cli.submission.forms import FORM_NAMES, FORMS, FormName, read_image_list
from tests.submission.submission_files import HEIGHT, IDS, STEM, WIDTH, Submission, png, submission


@pytest.mark.parametrize("form", FORM_NAMES)
def test_a_valid_submission_in_each_format_passes(tmp_path: Path, form: FormName) -> None:
    good = submission(tmp_path, form)
    good.write()
    report = good.check(form)
    assert report.is_good and report.images == 3 and not report.findings


def entry(name: str, kind: int = stat.S_IFREG) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(name)
    made.external_attr = (kind | 0o644) << 16
    return made


def add_entry(name: str, kind: int = stat.S_IFREG) -> Callable[[Submission], None]:
    return lambda one: one.extra.append((entry(name, kind), b"data"))


def set_row(key: str, value: Any, index: int = 1) -> Callable[[Submission], None]:
    return lambda one: one.rows[index].update({key: value})


def drop_key(key: str) -> Callable[[Submission], None]:
    return lambda one: one.rows[1].pop(key)


def set_segment(**changes: Any) -> Callable[[Submission], None]:
    return lambda one: one.rows[1]["segments_info"][0].update(changes)


def set_png(data: bytes) -> Callable[[Submission], None]:
    return lambda one: one.files.update({one.png_of(1): data})


def set_text(text: bytes) -> Callable[[Submission], None]:
    return lambda one: setattr(one, "json_text", text)


def add_segment(**segment: Any) -> Callable[[Submission], None]:
    return lambda one: one.rows[1]["segments_info"].append(segment)


def share_png(one: Submission) -> None:
    del one.files[one.png_of(1)]
    one.rows[1]["file_name"] = "0.png"


def surplus_image(one: Submission) -> None:
    one.rows.append({**one.rows[0], "image_id": 31, "file_name": "3.png"})
    one.files[one.png_of(3)] = png()


def surplus_segment(one: Submission) -> None:
    one.rows[1]["segments_info"].pop(0)


def empty_ids(one: Submission) -> None:
    one.rows[1]["segments_info"] = []
    one.files[one.png_of(1)] = png(np.full((HEIGHT, WIDTH, 3), 255, np.uint8))


def json_in_folder(one: Submission) -> None:
    one.json_name = f"{STEM}/{one.json_name}"


def two_stuff(one: Submission) -> None:
    one.rows[1]["segments_info"][0]["category_id"] = 187


def rename_folder(one: Submission) -> None:
    one.files = {name.replace(STEM, "panoptic"): data for name, data in one.files.items()}


def rename_all(one: Submission) -> None:
    one.zip_path = one.zip_path.with_name("results.zip")
    one.json_name = "results.json"
    one.files = {name.replace(STEM, "results"): data for name, data in one.files.items()}


def huge_header(data: bytes) -> bytes:
    """Return the PNG with a wrong width in its header."""
    return data[:16] + (2**30).to_bytes(4, "big") + data[20:]


IMAGE_30 = "30"
DAMAGE: dict[str, tuple[Callable[[Submission], Any], Problem, str, str]] = {
    # name: corruption, problem, image or entry, and part of the sentence
    "climbing name": (add_entry("../evil.png"), Problem.UNSAFE_ENTRY, "../evil.png", "points outside"),
    "absolute name": (add_entry("/etc/evil"), Problem.UNSAFE_ENTRY, "/etc/evil", "points outside"),
    "drive": (add_entry("C:\\evil.png"), Problem.UNSAFE_ENTRY, "C:", "points outside"),
    "link": (add_entry(f"{STEM}/9.png", stat.S_IFLNK), Problem.UNSAFE_ENTRY, f"{STEM}/9.png", "is a link"),
    "same name twice": (add_entry(f"{STEM}/1.png"), Problem.UNSAFE_ENTRY, f"{STEM}/1.png", "appears 2 times"),
    "zip renamed": (
        lambda one: setattr(one, "zip_path", one.zip_path.with_name("a.zip")),
        Problem.WRONG_NAME,
        f"{STEM}.json",
        "named a.zip",
    ),
    "all renamed": (rename_all, Problem.WRONG_NAME, "results.json", "panoptic_test-dev2017_<algorithm>_results.zip"),
    "no JSON": (
        lambda one: setattr(one, "json_name", f"{STEM}.txt"),
        Problem.JSON_PLACE,
        "none",
        "expected one JSON at the top level",
    ),
    "JSON in the folder": (json_in_folder, Problem.JSON_PLACE, f"{STEM}/{STEM}.json", "at the top level of the zip"),
    "two JSONs": (add_entry("other.json"), Problem.JSON_PLACE, "several", "expected one JSON"),
    "JSON cut": (set_text(b'{"annotations": [{"im'), Problem.JSON_DAMAGED, f"{STEM}.json", "is not valid JSON"),
    "JSON not UTF-8": (set_text(b'{"a": "\xff"}'), Problem.JSON_DAMAGED, f"{STEM}.json", "UTF-8"),
    "JSON nested": (set_text(b"[" * 100_000), Problem.JSON_DAMAGED, f"{STEM}.json", "is not valid JSON"),
    "JSON is a list": (set_text(b"[]"), Problem.KEYS, f"{STEM}.json", "has no list `annotations`"),
    "PNG folder renamed": (rename_folder, Problem.PNG_PLACE, "panoptic/0.png", f"none in {STEM}/"),
    "surplus file": (add_entry("readme.txt"), Problem.SURPLUS_FILE, "readme.txt", "remove it"),
    "macOS file": (add_entry("__MACOSX/x/._1.png"), Problem.SURPLUS_FILE, "__MACOSX", "remove it"),
    "no image_id": (drop_key("image_id"), Problem.KEYS, "None", "lacks image_id"),
    "image_id is a list": (set_row("image_id", [30]), Problem.KEYS, "[30]", "lacks image_id"),
    "no file_name": (drop_key("file_name"), Problem.KEYS, IMAGE_30, "lacks file_name"),
    "no segments_info": (drop_key("segments_info"), Problem.KEYS, IMAGE_30, "lacks segments_info"),
    "annotation is null": (
        lambda one: one.content["annotations"].__setitem__(1, None),
        Problem.KEYS,
        "None",
        "lacks all keys",
    ),
    "image missing": (
        lambda one: (one.rows.pop(1), one.files.pop(one.png_of(1))),
        Problem.IMAGE_MISSING,
        IMAGE_30,
        "30.jpg",
    ),
    "image surplus": (surplus_image, Problem.IMAGE_SURPLUS, "31", "is not in"),
    "image twice": (lambda one: one.rows.append(one.rows[1]), Problem.IMAGE_TWICE, IMAGE_30, "more than once"),
    "PNG missing": (lambda one: one.files.pop(one.png_of(1)), Problem.PNG_MISSING, IMAGE_30, "1.png"),
    "PNG climbing": (
        lambda one: (one.rows[1].update(file_name="../0.png"), one.files.pop(one.png_of(1))),
        Problem.PNG_MISSING,
        IMAGE_30,
        "../0.png",
    ),
    "PNG shared": (share_png, Problem.PNG_SHARED, IMAGE_30, "belongs to another image"),
    "PNG unlisted": (add_entry(f"{STEM}/9.png"), Problem.PNG_UNLISTED, f"{STEM}/9.png", "not listed by any annotation"),
    "PNG cut": (set_png(png()[:-20]), Problem.PNG_DAMAGED, IMAGE_30, "truncated"),
    "PNG scrambled": (set_png(png()[:40] + bytes(30) + png()[-12:]), Problem.PNG_DAMAGED, IMAGE_30, "corrupt"),
    "JPEG": (set_png(b"\xff\xd8\xff" + bytes(99)), Problem.PNG_FORMAT, IMAGE_30, "is not a PNG"),
    "gray PNG": (set_png(png(mode="L")), Problem.PNG_FORMAT, IMAGE_30, "color type 0"),
    "palette PNG": (set_png(png(mode="P")), Problem.PNG_FORMAT, IMAGE_30, "color type 3"),
    "PNG with alpha": (set_png(png(mode="RGBA")), Problem.PNG_FORMAT, IMAGE_30, "color type 6"),
    "PNG too wide": (set_png(png(width=WIDTH + 1)), Problem.PNG_SIZE, IMAGE_30, "21x12 (width x height); expected 20x"),
    "PNG bomb": (set_png(huge_header(png())), Problem.PNG_SIZE, IMAGE_30, f"{2**30}x12"),
    "segment id twice": (
        lambda one: one.rows[1]["segments_info"].append(dict(one.rows[1]["segments_info"][0])),
        Problem.SEGMENT_TWICE,
        IMAGE_30,
        "unique ids within the image",
    ),
    "segment without id": (
        lambda one: one.rows[1]["segments_info"][0].pop("id"),
        Problem.KEYS,
        IMAGE_30,
        "integers id and category_id",
    ),
    "segment without category": (
        lambda one: one.rows[1]["segments_info"][0].pop("category_id"),
        Problem.KEYS,
        IMAGE_30,
        "integers id and category_id",
    ),
    "segment id as text": (set_segment(id="70000"), Problem.KEYS, IMAGE_30, "integers"),
    "segment id 0": (set_segment(id=0), Problem.SEGMENT_ID, IMAGE_30, "0 is void"),
    "segment id too large": (set_segment(id=256**3), Problem.SEGMENT_ID, IMAGE_30, "16777215"),
    "segment only in the PNG": (surplus_segment, Problem.SEGMENT_UNLISTED, IMAGE_30, "segment ids 70000"),
    "all pixels unlisted": (empty_ids, Problem.SEGMENT_UNLISTED, IMAGE_30, "16777215"),
    "segment only in the JSON": (
        add_segment(id=5, category_id=1),
        Problem.SEGMENT_NOT_DRAWN,
        IMAGE_30,
        "segment ids 5",
    ),
    "unknown category": (set_segment(category_id=12), Problem.CATEGORY_UNKNOWN, IMAGE_30, "category_id 12"),
    "two segments of one stuff": (two_stuff, Problem.STUFF_TWICE, IMAGE_30, "(sky-other-merged)"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_corruption_gives_one_finding(tmp_path: Path, name: str) -> None:
    damage, problem, image, words = DAMAGE[name]
    one = submission(tmp_path)
    damage(one)
    one.write()
    before = sorted(tmp_path.rglob("*"))
    report = one.check()
    assert report.counts == {problem: 1} and not report.is_good
    (finding,) = report.findings
    assert finding.problem is problem and finding.image.startswith(image)
    assert words in finding.sentence and "\n" not in finding.sentence
    if image == IMAGE_30:
        assert re.search(r"\b30\b", finding.sentence), "the sentence names the image"
    assert sorted(tmp_path.rglob("*")) == before, "nothing is unpacked"


def test_every_kind_of_problem_has_a_test() -> None:
    here = {problem for _, problem, _, _ in DAMAGE.values()}
    assert here == set(Problem) - {Problem.ZIP_DAMAGED}


@pytest.mark.parametrize("data", [b"", b"no zip at all", b"PK\x05\x06"])
def test_not_a_zip(tmp_path: Path, data: bytes) -> None:
    one = submission(tmp_path)
    one.zip_path.write_bytes(data)
    assert one.check().counts == {Problem.ZIP_DAMAGED: 1}


def test_truncated_zip(tmp_path: Path) -> None:
    one = submission(tmp_path)
    one.write()
    one.zip_path.write_bytes(one.zip_path.read_bytes()[:-30])
    assert one.check().counts == {Problem.ZIP_DAMAGED: 1}


def flip(path: Path, name: str, offset: int, value: bytes, central: bool = True) -> None:
    """Overwrite bytes of an entry in the table of contents, or of its data."""
    data = bytearray(path.read_bytes())
    start = data.rindex(name.encode()) - 46 if central else data.index(name.encode()) + len(name)
    data[start + offset : start + offset + len(value)] = value
    path.write_bytes(bytes(data))


def test_flipped_bytes_in_the_data(tmp_path: Path) -> None:
    one = submission(tmp_path)
    one.write()
    flip(one.zip_path, f"{STEM}/1.png", 20, b"\xaa\x55\xaa", central=False)
    report = one.check()
    assert report.counts == {Problem.PNG_DAMAGED: 1} and report.findings[0].image == "30"


@pytest.mark.parametrize(
    ("offset", "value", "words"),
    [
        (8, b"\x01\x00", "encrypted"),
        (10, b"\x0c\x00", "uses a compression method"),
        (24, (MAX_PNG_BYTES + 1).to_bytes(4, "little"), "like a zip bomb"),
    ],
)
def test_entries_rejected_by_the_table_of_contents(tmp_path: Path, offset: int, value: bytes, words: str) -> None:
    one = submission(tmp_path)
    one.write()
    flip(one.zip_path, f"{STEM}/1.png", offset, value)
    report = one.check()
    assert report.counts == {Problem.UNSAFE_ENTRY: 1} and words in report.findings[0].sentence


@pytest.mark.slow
def test_an_entry_larger_than_declared_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = submission(tmp_path)
    one.files[one.png_of(1)] = bytes(50_000_000)
    one.write()
    flip(one.zip_path, f"{STEM}/1.png", 24, (1000).to_bytes(4, "little"))
    sizes: list[int] = []
    read = zipfile.ZipExtFile._read1  # type: ignore[attr-defined]

    def recorded(file: zipfile.ZipExtFile, size: int) -> bytes:
        sizes.append(size)
        data: bytes = read(file, size)
        return data

    monkeypatch.setattr(zipfile.ZipExtFile, "_read1", recorded)
    assert one.check().counts == {Problem.PNG_DAMAGED: 1}
    assert sizes and max(sizes) < 10_000


def test_findings_are_counted_and_the_first_kept(tmp_path: Path) -> None:
    one = submission(tmp_path)
    for number in range(1000, 1000 + 3 * EXAMPLES):
        one.rows.insert(0, {**one.rows[-1], "image_id": number, "file_name": f"{number}.png"})
    one.files.pop(one.png_of(0))
    one.write()
    report = one.check()
    missing, surplus = Problem.PNG_MISSING, Problem.IMAGE_SURPLUS
    assert report.counts == {surplus: 3 * EXAMPLES, missing: 3 * EXAMPLES + 1}
    assert list(report.counts) == [surplus, missing], "in the order of Problem"
    images = [finding.image for finding in report.findings if finding.problem is surplus]
    assert images == [str(1000 + k) for k in range(EXAMPLES)], "sorted as numbers"
    assert [finding.image for finding in report.findings if finding.problem is missing][0] == "7"


def test_the_order_of_the_json_does_not_matter(tmp_path: Path) -> None:
    one = submission(tmp_path)
    for row in one.rows:
        row["segments_info"][0]["category_id"] = 999
    one.write()
    first = one.check()
    one.rows.reverse()
    one.write()
    assert one.check() == first and [finding.image for finding in first.findings] == ["7", "30", "200"]


def test_sizes_are_not_checked_if_the_image_info_has_none(tmp_path: Path) -> None:
    one = submission(tmp_path)
    info = json.loads(one.info.read_text())
    for row in info["images"]:
        del row["width"]
    one.info.write_text(json.dumps(info))
    one.files[one.png_of(1)] = png(width=WIDTH + 5)
    one.write()
    assert one.check().is_good
    one.files[one.png_of(1)] = huge_header(png())
    one.write()
    assert one.check().counts == {Problem.PNG_SIZE: 1}


def test_cityscapes_train_ids_are_found(tmp_path: Path) -> None:
    one = submission(tmp_path, "cityscapes")
    one.rows[1]["segments_info"][0]["category_id"] = 1  # sidewalk as a trainId; not an evaluated label id
    one.write()
    report = one.check("cityscapes")
    assert report.counts == {Problem.CATEGORY_UNKNOWN: 1} and report.findings[0].image == "berlin_000001_000019"


def test_cityscapes_ids_come_from_the_file_names(tmp_path: Path) -> None:
    one = submission(tmp_path, "cityscapes")
    rows = [
        {"id": number, "file_name": f"berlin/{name}_leftImg8bit.png", "width": WIDTH, "height": HEIGHT}
        for number, name in enumerate(IDS["cityscapes"])
    ]
    one.info.write_text(json.dumps({"images": rows}))
    one.write()
    assert one.check("cityscapes").is_good


def test_cityscapes_categories_match_the_published_ones(shared: Path) -> None:
    rows = json.loads((shared / "data" / "cityscapes_mini" / "panoptic_cityscapes_categories.json").read_text())
    theirs = {(row["id"], row["name"], bool(row["isthing"])) for row in rows}
    assert {(one.id, one.name, one.is_thing) for one in CITYSCAPES.categories} == theirs


@pytest.mark.parametrize(
    ("form", "content", "words"),
    [
        ("coco", "{", "is not valid JSON"),
        ("coco", "[]", "has no `images`"),
        ("coco", '{"images": []}', "has no `images`"),
        ("coco", '{"images": [{"id": 1}]}', "expected an object with id and file_name"),
        ("coco", '{"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}]}', "image 1 is listed twice"),
        ("ade20k", '{"images": [{"id": 1, "file_name": "a"}]}', "has no `categories` with isthing"),
        ("cityscapes", '{"images": [{"id": 1, "file_name": "a.png"}]}', "has no Cityscapes id"),
    ],
)
def test_invalid_image_info(tmp_path: Path, form: FormName, content: str, words: str) -> None:
    path = tmp_path / "info.json"
    path.write_text(content)
    with pytest.raises(DataError, match=re.escape(words)):
        read_image_list(path, FORMS[form])


def test_missing_files(tmp_path: Path) -> None:
    one = submission(tmp_path)
    with pytest.raises(DataError, match="cannot read"):
        one.check()
    one.write()
    one.info.unlink()
    with pytest.raises(DataError, match="image info .* is missing"):
        one.check()


@pytest.mark.parametrize(
    ("form", "name", "fits"),
    [
        ("coco", f"{STEM}.zip", True),
        ("coco", "panoptic_val2017_a_b_results.zip", True),
        ("coco", "panoptic_test-challenge2017_a_results.zip", True),
        ("coco", "panoptic_test2017_a_results.zip", False),
        ("coco", "panoptic_test-dev2017__results.zip", False),
        ("coco", f"{STEM}.ZIP", False),
        ("cityscapes", "anything.zip", True),
        ("cityscapes", "anything", False),
    ],
)
def test_names(form: FormName, name: str, fits: bool) -> None:
    if fits:
        FORMS[form].check_name(Path(name))
    else:
        with pytest.raises(DataError, match=re.escape(FORMS[form].zip_name)):
            FORMS[form].check_name(Path(name))
