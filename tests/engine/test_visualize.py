from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from panformer_cli.cli.visualize import visualize as command
from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.images import read_image
from panformer_cli.engine.curves import curves, read_metrics
from panformer_cli.engine.visualize import VisualizeRequest, visualize
from panformer_cli.errors import PanformerError
from panformer_cli.reporting import SilentReporter
from panformer_cli.visualization.colors import with_colors
from panformer_cli.visualization.drawing import DrawOptions, draw_panoptic
from tests.data.coco.coco_files import write_coco
from tests.engine.small import StopAfter
from tests.pages.html import Html
from tests.pages.layer_files import sides_of

TRAIN = [
    {"kind": "train", "step": 10, "epoch": 0, "lr": 1e-3, "loss": 3.0, "losses": {"thing_mask": 2.0, "<i>": 1.0}},
    {"kind": "train", "step": 20, "epoch": 0, "lr": 5e-4, "loss": 2.0, "losses": {"thing_mask": 1.5, "<i>": 0.5}},
]
EVAL = {"kind": "eval", "step": 20, "epoch": 0, "pq": 43.2, "pq_things": 40.0, "pq_stuff": None, "sq": 80.0, "rq": 50.0}


def write_metrics(folder: Path, rows: list[dict[str, Any]], end: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + end)
    return path


def write_predictions(annotation: Path, folder: Path) -> Path:
    """Write panoptic.json and panoptic/ as `predict` does, with the ground truth as predictions."""
    shutil.copytree(annotation.with_suffix(""), folder / "panoptic")
    shutil.copy(annotation, folder / "panoptic.json")
    return folder / "panoptic.json"


def change(path: Path, change_content: Any) -> None:
    content = json.loads(path.read_text())
    change_content(content)
    path.write_text(json.dumps(content))


def run(out: Path, **settings: Any) -> tuple[Html, list[str]]:
    """Visualize, and return the page and the sizes of the images as WIDTHxHEIGHT."""
    result = visualize(VisualizeRequest(out, **settings), SilentReporter())
    assert result.page == out / "index.html"
    sizes = []
    for path in result.overlays:
        overlay = cv2.imread(str(path))
        assert overlay is not None
        sizes.append(f"{overlay.shape[1]}x{overlay.shape[0]}")
    return Html.of_file(result.page), sizes


def images_of(page: Html) -> Any:
    return json.loads(page.raw["application/json"])["images"]


def test_ground_truth(tmp_path: Path) -> None:
    write_coco(tmp_path / "data")
    page, sizes = run(tmp_path / "out", data_root=tmp_path / "data", split="val")
    assert sizes == ["60x40"] * 3
    images = images_of(page)
    assert [image["drawing"] for image in images] == [f"overlays/{i}.jpg" for i in range(3)]
    assert [image["detail"] for image in images] == ["3 segments"] * 3
    assert page.text.index("sky 3") and "box 3" in page.text and "ball 3" in page.text
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        ".panformer_page.json",
        "images",
        "index.html",
        "overlays",
    ]


def test_limit(tmp_path: Path) -> None:
    write_coco(tmp_path / "data")
    _, sizes = run(tmp_path / "out", data_root=tmp_path / "data", split="val", limit=2)
    assert len(sizes) == 2 == len(list((tmp_path / "out" / "overlays").iterdir()))
    _, sizes = run(tmp_path / "out", data_root=tmp_path / "data", split="val", limit=99)
    assert len(sizes) == 3


def test_predictions_on_a_folder_of_images(tmp_path: Path) -> None:
    annotation = write_coco(tmp_path / "data")
    predictions = write_predictions(annotation, tmp_path / "out")
    page, sizes = run(tmp_path / "viz", predictions=predictions, images=tmp_path / "data" / "images" / "val")
    assert sizes == ["60x40"] * 3 and [image["detail"] for image in images_of(page)] == ["3 segments"] * 3


def test_images_in_other_folders_are_found_by_name_only_if_it_is_unique(tmp_path: Path) -> None:
    annotation = write_coco(tmp_path / "data")
    images = tmp_path / "data" / "images" / "val"
    predictions = write_predictions(annotation, tmp_path / "out")
    change(predictions, lambda content: content["images"][0].update(file_name="sub/0.png"))
    _, sizes = run(tmp_path / "viz", predictions=predictions, images=images)
    assert len(sizes) == 3
    change(predictions, lambda content: content["images"][1].update(file_name="0.png"))
    with pytest.raises(PanformerError, match=r"the image .*sub/0\.png is missing"):
        run(tmp_path / "viz", predictions=predictions, images=images)


def test_both_side_by_side(tmp_path: Path) -> None:
    annotation = write_coco(tmp_path / "data")
    predictions = write_predictions(annotation, tmp_path / "out")

    def renumber(content: Any) -> None:
        for rows in (content["images"], content["annotations"]):
            rows.reverse()
        for image, row in zip(content["images"], content["annotations"], strict=True):
            image["id"] = row["image_id"] = f"p{image['id']}"
        content["annotations"][0]["segments_info"] = []

    change(predictions, renumber)
    page, sizes = run(tmp_path / "viz", predictions=predictions, data_root=tmp_path / "data", split="val")
    assert all(int(size.split("x")[0]) > 120 and int(size.split("x")[1]) > 50 for size in sizes)
    details = {image["name"]: image["detail"] for image in images_of(page)}
    assert details == {
        "0.png": "ground truth: 3 segments, prediction: 3 segments",
        "1.png": "ground truth: 3 segments, prediction: 3 segments",
        "2.png": "ground truth: 3 segments, prediction: 0 segments",
    }
    sides = {image["name"]: sides_of(tmp_path / "viz" / image["layers"]) for image in images_of(page)}
    assert {row["state"] for side in sides["0.png"] for row in side["segments"]} == {"matched", "crowd", "ignored"}
    # The map of image 2 has ids without a segment, so it cannot be evaluated.
    assert not [row for row in sides["2.png"][0]["segments"] if row.get("state", "crowd") != "crowd"]
    # Equal maps of an image look the same; the emptied one does not.
    for number, alike in (("0", True), ("2", False)):
        overlay = cv2.imread(str(tmp_path / "viz" / "overlays" / f"{number}.jpg"))
        assert overlay is not None
        difference = np.abs(overlay[-38:-2, 4:56].astype(int) - overlay[-38:-2, -56:-4]).mean()
        assert (difference < 4) == alike


def recolored(color: list[int] | None, name: str) -> Any:
    """Return a function that gives the category `name` of a panoptic JSON a color and all categories other ids."""

    def change_content(content: Any) -> None:
        for row in content["categories"]:
            row["id"] += 100
            row.pop("color", None)
            if row["name"] == name and color:
                row["color"] = color
        for annotation in content["annotations"]:
            for segment in annotation["segments_info"]:
                segment["category_id"] += 100

    return change_content


def test_a_category_has_one_color_in_truth_and_prediction(tmp_path: Path) -> None:
    annotation = write_coco(tmp_path / "data")
    predictions = write_predictions(annotation, tmp_path / "out")
    change(predictions, recolored([250, 3, 3], "sky"))
    page, _ = run(tmp_path / "viz", predictions=predictions, data_root=tmp_path / "data", split="val")
    assert page.text.index("sky 3") and page.text.index("box 3")  # those of the predictions, in the truth's colors
    overlay = cv2.imread(str(tmp_path / "viz" / "overlays" / "0.jpg"))
    assert overlay is not None
    assert np.abs(overlay[-38:-2, 4:56].astype(int) - overlay[-38:-2, -56:-4]).mean() < 4


def test_safe_colors(tmp_path: Path) -> None:
    write_coco(tmp_path / "data")
    arguments = ["--data", str(tmp_path / "data"), "--split", "val", "--limit", "1", "--no-labels"]
    images = {}
    for name in ("standard", "safe"):
        out = tmp_path / name
        assert CliRunner().invoke(command, [*arguments, "--out", str(out), "--colors", name]).exit_code == 0
        images[name] = read_image(out / "overlays" / "0.jpg").astype(int)
    data = CocoPanoptic(tmp_path / "data", "val")
    sample, (table,) = data[0], with_colors(data.categories, palette="safe")
    expected = draw_panoptic(sample.image, sample.annotation, table, DrawOptions(labels=False))
    assert np.abs(images["safe"] - expected).mean() < 6
    assert np.abs(images["standard"] - expected).mean() > 15


def test_equal_names_in_two_folders_do_not_overwrite_each_other(tmp_path: Path) -> None:
    annotation = write_coco(tmp_path / "data", images=2)
    images = tmp_path / "data" / "images" / "val"
    cv2.imwrite(str(images / "0.jpg"), np.zeros((40, 60, 3), np.uint8))
    change(annotation, lambda content: content["images"][1].update(file_name="0.jpg"))
    page, _ = run(tmp_path / "out", data_root=tmp_path / "data", split="val")
    assert [image["drawing"] for image in images_of(page)] == ["overlays/0.jpg", "overlays/0_2.jpg"]


def test_names_are_escaped(tmp_path: Path) -> None:
    annotation = write_coco(tmp_path / "data", images=1)
    (tmp_path / "data" / "images" / "val" / "0.png").rename(tmp_path / "data" / "images" / "val" / "<b>&#.png")

    def rename(content: Any) -> None:
        content["images"][0]["file_name"] = "<b>&#.png"
        content["categories"][0]["name"] = "<script>x</script>"

    change(annotation, rename)
    page, _ = run(tmp_path / "out", data_root=tmp_path / "data", split="val")
    assert images_of(page)[0]["name"] == "<b>&#.png" and "<script>x</script>" in page.text
    assert images_of(page)[0]["drawing"] == "overlays/%3Cb%3E%26%23.jpg"


def test_curves_of_a_run(tmp_path: Path) -> None:
    write_metrics(tmp_path / "run", [*TRAIN, EVAL])
    page, sizes = run(tmp_path / "out", run=tmp_path / "run")
    assert not sizes and not page.all("dialog")
    labels = [chart["aria-label"] for chart in page.all("svg") if chart.get("aria-label")]
    assert labels == ["Panoptic quality", "Loss", "Parts of the loss", "Learning rate"]
    assert "<i>" in page.text and "PQ 43.2" in page.text


def test_curves_have_the_values_of_the_rows(tmp_path: Path) -> None:
    charts = curves(read_metrics(write_metrics(tmp_path, [*TRAIN, EVAL])))
    points = {series.name: list(series.points) for chart in charts for series in chart.series}
    assert points["loss"] == [(10, 3.0), (20, 2.0)]
    assert points["<i>"] == [(10, 1.0), (20, 0.5)]
    assert points["learning rate"] == [(10, 1e-3), (20, 5e-4)]
    assert points["PQ"] == [(20, 43.2)] and "PQ stuff" not in points


def test_a_truncated_last_line_is_ignored(tmp_path: Path) -> None:
    whole = json.dumps(EVAL)
    for length in range(len(whole)):
        rows = read_metrics(write_metrics(tmp_path, TRAIN, whole[:length]))
        assert [row["step"] for row in rows] == [10, 20]
    assert len(read_metrics(write_metrics(tmp_path, TRAIN, whole))) == 3


def test_steps_that_a_resumed_run_repeats_count_once(tmp_path: Path) -> None:
    again = {**TRAIN[1], "loss": 1.0}
    rows = read_metrics(write_metrics(tmp_path, [*TRAIN, EVAL, TRAIN[0], again]))
    assert [(row["kind"], row["step"], row.get("loss")) for row in rows if row["kind"] == "train"] == [
        ("train", 10, 3.0),
        ("train", 20, 1.0),
    ]


@pytest.mark.parametrize("line", ["{", "7", '{"step": 3}', '{"kind": "train", "step": "x"}', "[" * 100_000])
def test_a_corrupt_line_is_named(tmp_path: Path, line: str) -> None:
    path = write_metrics(tmp_path, TRAIN, line + "\n" + json.dumps(EVAL) + "\n")
    with pytest.raises(PanformerError, match=r"metrics.jsonl, line 3 is not a row of metrics; expected JSON"):
        read_metrics(path)


def test_a_run_without_metrics_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PanformerError, match="metrics .*cannot be read: No such file"):
        run(tmp_path / "out", run=tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "nothing to draw"),
        ({"predictions": Path("p.json")}, "give one of --data and --images"),
        (
            {"predictions": Path("p.json"), "images": Path("i"), "data_root": Path("d")},
            "give one of --data and --images",
        ),
        ({"run": Path("r"), "images": Path("i")}, "add --predictions"),
        ({"run": Path("r"), "limit": 0}, "expected 1 or more"),
    ],
)
def test_invalid_requests(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(PanformerError, match=message):
        VisualizeRequest(Path("out"), **settings)


def test_predictions_that_do_not_match_their_images(tmp_path: Path) -> None:
    annotation = write_coco(tmp_path / "data", images=1)
    predictions = write_predictions(annotation, tmp_path / "out")
    images = tmp_path / "data" / "images" / "val"
    cv2.imwrite(str(images / "0.png"), np.zeros((20, 60, 3), np.uint8))
    with pytest.raises(PanformerError, match=r"expected the image that was predicted"):
        run(tmp_path / "viz", predictions=predictions, images=images)
    change(predictions, lambda content: content["images"][0].update(file_name="other.png"))
    with pytest.raises(PanformerError, match=r"panoptic_val.json have different .*image 100 is other.png and 0"):
        run(tmp_path / "viz", predictions=predictions, data_root=tmp_path / "data", split="val")
    shutil.rmtree(tmp_path / "out" / "panoptic")
    with pytest.raises(PanformerError, match=r"folder of panoptic PNGs .*panoptic is missing"):
        run(tmp_path / "viz", predictions=predictions, images=images)


@pytest.mark.parametrize("name", ["../../evil.png", "/etc/evil.png"])
def test_names_that_point_outside_are_rejected(tmp_path: Path, name: str) -> None:
    annotation = write_coco(tmp_path / "data", images=1)
    predictions = write_predictions(annotation, tmp_path / "out")
    change(predictions, lambda content: content["images"][0].update(file_name=name))
    with pytest.raises(PanformerError, match="points outside"):
        run(tmp_path / "viz", predictions=predictions, images=tmp_path / "data" / "images" / "val")
    change(predictions, lambda content: content["images"][0].update(file_name="0.png"))
    change(predictions, lambda content: content["annotations"][0].update(file_name=name))
    with pytest.raises(PanformerError, match="points outside"):
        run(tmp_path / "viz", predictions=predictions, images=tmp_path / "data" / "images" / "val")


def test_the_command_prints_the_path_of_the_page(tmp_path: Path) -> None:
    write_coco(tmp_path / "data")
    arguments = ["--data", str(tmp_path / "data"), "--split", "val", "--out", str(tmp_path / "viz"), "--no-labels"]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert f"3 images drawn; open {tmp_path / 'viz' / 'index.html'}" in result.output


def test_without_split_the_one_that_exists_is_drawn(tmp_path: Path) -> None:
    write_coco(tmp_path / "data")
    page, sizes = run(tmp_path / "out", data_root=tmp_path / "data")
    assert sizes == ["60x40"] * 3 and f"{tmp_path.name}/data, val" in page.text and str(tmp_path) not in page.text


def test_images_are_paired_by_file_name_where_ids_differ(tmp_path: Path) -> None:
    annotation = write_coco(tmp_path / "data")
    predictions = write_predictions(annotation, tmp_path / "out")

    def renumber(content: Any) -> None:
        ids = [image["id"] for image in content["images"]]
        for rows, key in ((content["images"], "id"), (content["annotations"], "image_id")):
            for row in rows:
                row[key] = ids[(ids.index(row[key]) + 1) % len(ids)]
        content["annotations"][0]["segments_info"] = []

    change(predictions, renumber)
    reporter = StopAfter()
    request = VisualizeRequest(tmp_path / "viz", tmp_path / "data", predictions=predictions)
    page = Html.of_file(visualize(request, reporter).page)
    details = {image["name"]: image["detail"] for image in images_of(page)}
    assert details["0.png"] == "ground truth: 3 segments, prediction: 0 segments"
    assert len(reporter.messages) == 1 and "paired by file name" in reporter.messages[0]


def test_the_command_prints_the_checkpoint_of_the_predictions_or_the_run(tmp_path: Path) -> None:
    annotation = write_coco(tmp_path / "data")
    predictions = write_predictions(annotation, tmp_path / "out")
    group = {"pq": 1.0, "sq": 1.0, "rq": 1.0, "n": 1}
    panoptic = {"all": group, "things": group, "stuff": group, "per_class": {}}
    predictions.with_name("metrics.json").write_text(json.dumps({"checkpoint": "/a/best", "panoptic": panoptic}))
    write_metrics(tmp_path / "run", TRAIN)
    (tmp_path / "run" / "last.safetensors").touch()
    for words, checkpoint in (
        (["--predictions", str(predictions), "--data", str(tmp_path / "data")], "/a/best"),
        (["--run", str(tmp_path / "run")], str(tmp_path / "run" / "last.safetensors")),
    ):
        result = CliRunner().invoke(command, [*words, "--out", str(tmp_path / "viz")], catch_exceptions=False)
        assert result.stdout.splitlines()[0] == f"Checkpoint: {checkpoint}"


@pytest.mark.slow
def test_real_ground_truth(tmp_path: Path, shared: Path) -> None:
    page, sizes = run(tmp_path, data_root=shared / "data" / "coco_mini", split="val2017")
    assert sizes == ["640x426", "586x640", "640x480", "640x427", "640x360"]
    counts = [30, 2, 6, 18, 32]
    assert [image["detail"] for image in images_of(page)] == [f"{count} segments" for count in counts]
