"""`predict --gallery`: the files of its images, the page, and what replaces it."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest

from panformer_cli.engine.outputs.file_list import write_list
from panformer_cli.engine.outputs.gallery import write_gallery_page
from panformer_cli.engine.outputs.options import OutputOptions
from panformer_cli.engine.outputs.registry import Saving
from panformer_cli.engine.outputs.writing import OutputWriter
from panformer_cli.engine.predict import PredictRequest, predict
from panformer_cli.engine.results import PanopticResults, check_images_are_free
from panformer_cli.engine.runs import RunFolder
from panformer_cli.errors import PanformerError
from panformer_cli.reporting import SilentReporter
from panformer_cli.visualization.drawing import category_colors
from tests.engine.outputs.results_of import CATEGORIES, files, segmented
from tests.engine.small import ALONE
from tests.engine.test_predict import picture
from tests.pages.html import Html
from tests.pages.layer_files import decoded, sides_of


def write(out: Path, *names: str, save: tuple[str, ...] = ("overlay", "json"), gallery: bool = True) -> Path:
    """Write the results of images and their gallery, as `predict` does."""
    saving = Saving.of(save, gallery)
    check_images_are_free(out, saving.in_the_way(out, names))
    PanopticResults.begin(out, {})
    write_list(out, saving.folders)
    writer = OutputWriter(PanopticResults(out, CATEGORIES, ALONE, has_json="json" in save), saving, CATEGORIES)
    with closing(writer.results.log):
        for index, name in enumerate(names):
            writer.write(index, segmented(index, name), name)
    content = writer.results.finish() or json.loads((out / "panoptic.json").read_text())
    if not gallery:
        return out
    rows = zip(content["images"], content["annotations"], strict=True)
    return write_gallery_page(out, rows, CATEGORIES, "best", "overlay" in save)


def data_of(page: Path) -> Any:
    return json.loads(Html.of_file(page).raw["application/json"])


@pytest.mark.parametrize("save", [("overlay", "json"), ("segments",)])
def test_the_page_shows_every_image_and_links_to_files_that_exist(tmp_path: Path, save: tuple[str, ...]) -> None:
    names = ["a#b %41?'\"é.jpg", "deep/down/b.png"]
    page = write(tmp_path, *names, save=save)
    assert page == tmp_path / "gallery" / "index.html"
    data = data_of(page)
    assert [image["name"] for image in data["images"]] == names
    for image in data["images"]:
        linked = [unquote(image[kind]) for kind in ("small", "large", "layers", "drawing") if kind in image]
        assert len(linked) == (4 if "overlay" in save else 3)
        assert all((page.parent / path).is_file() for path in linked)
        [side] = sides_of(page.parent / unquote(image["layers"]))
        assert (image["size"], image["smallSize"]) == ([8, 10], [8, 10])
        expected = np.zeros((8, 10), np.int64)  # traffic light, Škoda and sky in the order of the ids 3, 4, 7
        expected[:4], expected[2:5, 1:4], expected[5:7, 5:9] = 3, 1, 2
        assert np.array_equal(decoded(side["map"], (8, 10)), expected)
    assert sorted(data["categories"]) == ["sky-other", "traffic light", "Škoda/VW: 2"]
    assert [image["segments"][1::2] for image in data["images"]] == [[-1, -1, -1]] * 2
    assert "Checkpointbest" in Html.of_file(page).lines()
    red, green, blue = category_colors(CATEGORIES)[CATEGORIES.label(1)]
    assert f"rgb({red}, {green}, {blue})" in page.read_text()


def test_a_rerun_replaces_the_gallery_and_one_without_it_deletes_it(tmp_path: Path) -> None:
    write(tmp_path, "a.png", "b.png")
    assert sum(name.startswith("gallery/") for name in files(tmp_path)) == 7
    (tmp_path / "gallery" / "mine.txt").touch()
    page = write(tmp_path, "c.png")
    assert [image["name"] for image in data_of(page)["images"]] == ["c.png"]
    shown = {name for name in files(tmp_path) if name.startswith("gallery/")}
    assert shown == {
        "gallery/mine.txt",
        "gallery/index.html",
        *(f"gallery/images/{kind}" for kind in ("small/c.jpg", "large/c.jpg", "layers/c.js")),
    }
    write(tmp_path, "c.png", gallery=False)
    assert [name for name in files(tmp_path) if name.startswith("gallery/")] == ["gallery/mine.txt"]


def test_files_of_the_user_are_not_replaced(tmp_path: Path) -> None:
    mine = tmp_path / "gallery" / "images" / "large" / "a.jpg"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(PanformerError, match=r"a\.jpg is not a result of panformer and would be replaced"):
        write(tmp_path, "a.png")
    assert mine.read_text() == "mine"


@pytest.mark.slow
def test_predictions_with_a_gallery(trained: RunFolder, tmp_path: Path) -> None:
    picture(tmp_path / "photos" / "a b#1.png", (70, 50))
    picture(tmp_path / "photos" / "deep" / "c.jpg", (40, 64))
    request = PredictRequest(
        [str(tmp_path / "photos")], trained.best, tmp_path / "out", output=OutputOptions(gallery=True)
    )
    result = predict(request, ALONE, SilentReporter())
    assert result.gallery == tmp_path / "out" / "gallery" / "index.html"
    images = data_of(result.gallery)["images"]
    assert [(image["name"], image["size"]) for image in images] == [("a b#1.png", [50, 70]), ("deep/c.jpg", [64, 40])]
    again = predict(replace(request, inputs=[str(tmp_path)]), ALONE, SilentReporter())
    assert len(again.content["images"]) == 2, "images of the gallery are no inputs"
    (tmp_path / "out" / "gallery" / "index.html").write_text("mine")
    with pytest.raises(PanformerError, match=r"index\.html is not a page of panformer and would be replaced"):
        predict(request, ALONE, SilentReporter())
