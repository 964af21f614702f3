"""The report of an evaluation: the page and its images."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.coco.panoptic_png import write_panoptic_png
from panformer_cli.data.structures import PanopticMap, Segment
from panformer_cli.engine.evaluation.report import ReportRequest, write_report
from panformer_cli.engine.evaluation.report_images import THUMBNAIL_WIDTH, ImageFiles
from panformer_cli.errors import PanformerError
from panformer_cli.metrics.analysis.panoptic_analysis import PanopticAnalysis
from panformer_cli.metrics.image_overlap import ImageOverlap, compare
from panformer_cli.metrics.quality import PanopticQuality
from panformer_cli.reporting import SilentReporter
from tests.data.coco.coco_files import BALL, BOX, SKY, write_coco
from tests.pages.html import Html
from tests.pages.layer_files import decoded, sides_of


class Evaluated:
    """Scenes of `coco_files` with predictions: image 0 is correct, the box of image 1 is predicted as a ball, and
    image 2 has only a sky that is too small."""

    def __init__(self, folder: Path) -> None:
        write_coco(folder / "data")
        data = CocoPanoptic(folder / "data", "val")
        self.categories = data.categories
        self.files: dict[int | str, ImageFiles] = {}
        self.overlaps: list[ImageOverlap] = []
        for index, sample in enumerate(data):
            png = folder / "predictions" / f"{index}.png"
            prediction = self.prediction(index, sample.annotation)
            write_panoptic_png(png, prediction.ids)
            self.files[sample.image_id] = ImageFiles(data.image_path(index), data.png_path(index), png)
            self.overlaps.append(compare(prediction, sample.annotation, sample.image_id, sample.file_name))

    def prediction(self, index: int, truth: PanopticMap) -> PanopticMap:
        ids = np.select([truth.ids == 300, truth.ids > 300], [1, 2]).astype(np.int32)
        if index == 2:
            ids = np.where(np.arange(60) < 45, ids == 1, 0).astype(np.int32)
        categories = {1: SKY, 2: BALL if index == 1 else BOX}
        found = sorted(set(np.unique(ids).tolist()) - {0})
        rows = (Segment(i, categories[i], int((ids == i).sum()), (0, 0, 1, 1), score=i / 4) for i in found)
        return PanopticMap(ids, tuple(rows))

    def metrics(self) -> dict[str, Any]:
        quality = PanopticQuality(self.categories)
        for overlap in self.overlaps:
            quality.update(overlap)
        result = quality.result()
        groups = {name: asdict(getattr(result, name)) for name in ("all", "things", "stuff")}
        per_class = {str(row.category_id): asdict(row) for row in result.categories if row.counts}
        intervals = {"all": {"pq": [1.5, 99.5], "sq": [1.0, 2.0], "rq": [1.0, 2.0]}}
        return {"images": 3, "panoptic": {**groups, "per_class": per_class}, "intervals": intervals}

    def analysis(self) -> dict[str, Any]:
        analysis = PanopticAnalysis(self.categories)
        for overlap in self.overlaps:
            analysis.update(overlap)
        content: dict[str, Any] = json.loads(json.dumps(analysis.to_json()))
        return content

    def write(self, out: Path, overlaps: Iterator[ImageOverlap] | None = None, **changes: Any) -> Path:
        request = ReportRequest(out, self.metrics(), self.analysis(), self.categories, self.files.__getitem__)
        return write_report(replace(request, **changes), overlaps or iter(self.overlaps), 3, SilentReporter())


@pytest.fixture
def evaluated(tmp_path: Path) -> Evaluated:
    return Evaluated(tmp_path)


def page_of(path: Path) -> tuple[Html, list[dict[str, Any]]]:
    page = Html.of_file(path)
    return page, json.loads(page.raw["application/json"])["images"]


def test_the_page_and_its_images(evaluated: Evaluated, tmp_path: Path) -> None:
    path = evaluated.write(tmp_path / "out")
    assert path == tmp_path / "out" / "index.html"
    page, images = page_of(path)
    pictures = {image["src"] for image in page.all("img") if image.get("src")}
    pictures |= {image[kind] for image in images for kind in ("small", "large")}
    written = {file.relative_to(tmp_path / "out").as_posix() for file in (tmp_path / "out").rglob("*.jpg")}
    assert pictures == written and len(written) == 9
    small = cv2.imread(str(tmp_path / "out" / "images" / "rows" / "000001.jpg"))
    assert small is not None and small.shape == (85, THUMBNAIL_WIDTH, 3) and abs(int(small.mean()) - 30) <= 2
    large = cv2.imread(str(tmp_path / "out" / "images" / "large" / "000002.jpg"))
    assert large is not None and large.shape == (40, 60, 3)
    # Image 2 loses the box and a quarter of the sky, image 1 a box and a ball; image 0 nothing.
    assert [image["name"] for image in images] == ["1.png", "2.png", "0.png"]
    assert images[2]["detail"] == "PQ 100.0, TP 2, FP 0, FN 0"
    headings = [name for name, attributes in page.elements if name == "h2"]
    assert len(headings) == 11 and "1.5 to 99.5" in page.text
    for heading in ("Lost PQ by cause", "Potential gain by class", "Confused classes", "Score calibration"):
        assert heading in page.text


def test_layers_have_the_maps_that_were_evaluated(evaluated: Evaluated, tmp_path: Path) -> None:
    _, images = page_of(evaluated.write(tmp_path / "out"))
    image = images[0]
    assert image["size"] == [40, 60]
    truth, prediction = sides_of(tmp_path / "out" / image["layers"])
    maps = [decoded(side["map"], (40, 60)) for side in (truth, prediction)]
    states = [
        (row["name"], row["state"], int((maps[0] == index).sum())) for index, row in enumerate(truth["segments"], 1)
    ]
    box = 10 * 21
    assert sorted(states) == [("ball", "crowd", 50), ("box", "missed", box), ("sky", "matched", 1200 - box)]
    found = [(row["name"], row["state"], row["score"]) for row in prediction["segments"]]
    assert sorted(found) == [("ball", "false positive", 0.5), ("sky", "matched", 0.25)]
    assert (maps[1] > 0).sum() == 1200


def test_the_number_of_close_ups(evaluated: Evaluated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("panformer_cli.engine.evaluation.report.CLOSE_UPS", 1)
    page, images = page_of(evaluated.write(tmp_path / "one"))
    assert [image["name"] for image in images] == ["1.png", "0.png"]
    assert page.text.count("2.png") == 2  # in the table of all images, and in that of the worst


def test_without_photos_the_page_shows_maps_and_without_maps_only_the_list(
    evaluated: Evaluated, tmp_path: Path
) -> None:
    everything = dict(evaluated.files)
    evaluated.files = {key: replace(files, photo=None) for key, files in everything.items()}
    page, images = page_of(evaluated.write(tmp_path / "maps"))
    assert (
        not [image for image in images if "large" in image]
        and len(images) == 3
        and not [i for i in page.all("img") if "src" in i]
    )
    evaluated.files = {key: replace(files, prediction=None) for key, files in everything.items()}
    page, images = page_of(evaluated.write(tmp_path / "list"))
    assert images == [] and len(page.all("img")) == 3


def test_names_are_escaped(evaluated: Evaluated, tmp_path: Path) -> None:
    name = '</script><script>alert("1")</script>/../../x.jpg'
    evaluated.overlaps[1] = replace(evaluated.overlaps[1], file_name=name)
    path = evaluated.write(tmp_path / "out")
    page, images = page_of(path)
    assert images[0]["name"] == name and name in page.text and len(page.all("script")) == 2
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        ".panformer_page.json",
        "images",
        "index.html",
    ]


def test_files_that_do_not_match_are_named(evaluated: Evaluated, tmp_path: Path) -> None:
    files = evaluated.files[101]
    assert files.photo and files.prediction
    write_panoptic_png(files.prediction, np.ones((20, 60), np.int32))
    with pytest.raises(PanformerError, match=r"1.png is 60x20 and 1.png was evaluated at 60x40; expected the file"):
        evaluated.write(tmp_path / "out")
    files.prediction.unlink()
    with pytest.raises(PanformerError, match=r"the panoptic PNG .*1.png is missing"):
        evaluated.write(tmp_path / "out")
    files.photo.write_bytes(b"not an image")
    with pytest.raises(PanformerError, match=r"1.png cannot be decoded"):
        evaluated.write(tmp_path / "out")
    assert not (tmp_path / "out" / "index.html").exists()


@pytest.mark.slow
def test_five_thousand_images_are_read_once_and_fit_a_page(evaluated: Evaluated, tmp_path: Path) -> None:
    wrong = evaluated.overlaps[1]

    def stream() -> Iterator[ImageOverlap]:
        for number in range(5000):
            yield replace(wrong, image_id=number, file_name=f"folder/{number:012}.jpg")

    files = replace(evaluated.files[101], photo=None)
    path = evaluated.write(tmp_path / "out", stream(), files=lambda _: files)
    page, images = page_of(path)
    assert len(page.all("tr")) > 5000 and len(images) == 24
    assert [image["name"][-8:] for image in images[:2]] == ["0000.jpg", "0001.jpg"]  # ties keep the order of the images
    assert path.stat().st_size < 5e6
