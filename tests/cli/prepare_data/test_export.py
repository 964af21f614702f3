"""The command `panformer prepare-data export`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from panformer_cli.cli.prepare_data import export as command
from panformer_cli.prepare.export.formats import FORMATS
from tests.helpers import run
from tests.prepare.export.labeled import SUMMER, masks_of, without_crowds, write_set


def test_the_command_offers_every_format() -> None:
    assert command.FORMATS == FORMATS


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "label-studio"])
def test_the_printed_command_converts_back(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_set(tmp_path / "in")
    assert run("prepare-data", "export", "--to", name, "--root", "in", "--out", "out", "--workers", "1") == 0
    *_, last = capsys.readouterr().out.splitlines()
    words = last.removeprefix("To convert the labels back: panformer ").split()
    assert run(*words, "--workers", "1") == 0
    assert without_crowds(masks_of(Path("DIR"))) == without_crowds(masks_of(Path("in")))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["coco-instances", "cvat", "labelme", "yolo"])
def test_the_real_sample_is_the_same_after_a_round_trip(shared: Path, tmp_path: Path, name: str) -> None:
    words = ["--root", str(shared / "data/coco_mini"), "--split", "val2017", "--shapes", "polygons"]
    out, split = tmp_path / "out", "val2017"
    assert run("prepare-data", "export", "--to", name, *words, "--out", str(out), "--workers", "1") == 0
    classes = [] if name == "yolo" else ["--classes", str(out / "classes.csv")]
    words = ["--root", str(out), *classes, "--out", str(tmp_path / "back"), "--workers", "1", "--overlap", "error"]
    assert run("prepare-data", name, *words) == 0
    before, after = masks_of(shared / "data/coco_mini", split), masks_of(tmp_path / "back", split)
    assert sum(map(len, before)) == 88
    assert without_crowds(after) == without_crowds(before)
    if name in ("coco-instances", "labelme"):
        assert after == before


def test_counts_and_losses_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_set(tmp_path / "in", score=0.5)
    words = ["--predictions", str(path), "--images", "in/images/val", "--min-score", "0.54", "--split", "mine"]
    assert run("prepare-data", "export", "--to", "label-studio", *words, "--out", "out", "--workers", "1") == 0
    printed = capsys.readouterr().out
    (row,) = [line.split() for line in printed.splitlines() if line.startswith(" mine ")]
    assert row == ["mine", "2", "10", "10", "0", "0"]
    assert "2 crowd segments left out, because Label Studio has no crowds" in printed
    assert "tasks_mine.json" in [file.name for file in Path("out").iterdir()]


def test_simplified_pixels_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_set(tmp_path / "in", ["a.png"])
    assert run("prepare-data", "export", "--to", "yolo", "--root", "in", "--out", "out", "--simplify", "3") == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Simplified")]
    words = line.split()
    assert words[:3] == ["Simplified", "outlines", "change"]
    assert 0 < int(words[3]) < int(words[5]) < 18 * 24


def test_probable_label_errors_of_an_evaluation_are_exported_for_review(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The predictions are the annotation, except that one car is of another class in the second image."""
    monkeypatch.chdir(tmp_path)
    truth = write_set(tmp_path / "in", [f"{number}.png" for number in range(6)])
    write_set(tmp_path / "predicted", [f"{number}.png" for number in range(6)], score=0.9)
    content = json.loads(truth.read_text())
    (car,) = (row for row in content["annotations"][1]["segments_info"] if row["id"] == 70000)
    car["category_id"] = SUMMER
    truth.write_text(json.dumps(content))
    words = ["predicted/annotations/panoptic_val.json", "--annotations", str(truth), "--bootstrap", "0"]
    assert run("evaluate", "predictions", *words, "--out", "evaluated", "--label-errors") == 0
    capsys.readouterr()
    words = ["--root", "in", "--review", "evaluated/label_errors.json", "--review-limit", "1", "--copy-images"]
    assert run("prepare-data", "export", "--to", "labelme", *words, "--out", "out", "--workers", "1") == 0
    assert "To review: 1 probable label error in 1 image, listed in out/review.csv" in capsys.readouterr().out
    assert sorted(path.name for path in Path("out/val").iterdir()) == ["1.json", "1.png"]
    (flag,) = json.loads(Path("out/val/1.json").read_text())["flags"]
    assert flag.startswith(
        "1. Wrong class (7 x 7 pixels at x 15, y 2): Annotated as l'été 日本, but the model sees car,"
    )
    assert not Path("out/val/1.png").samefile("in/images/val/1.png")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "pass either --root or --predictions."),
        (["--root", "in", "--predictions", "p.json"], "pass either --root or --predictions."),
        (["--root", "in", "--min-score", "0.5"], "--min-score needs --predictions; leave it out."),
        (["--root", "in", "--images", "in"], "--images needs --predictions; leave it out."),
        (["--predictions", "p.json"], "--predictions needs --images DIR, the folder of the predicted images."),
        (
            ["--predictions", "p.json", "--images", "in", "--split", "a", "--split", "b"],
            "--split was passed more than once; expected one name for the split of the predictions.",
        ),
        (["--root", "in", "--review-limit", "2"], "--review-limit limits --review: add --review label_errors.json."),
        (
            ["--predictions", "p.json", "--images", "in", "--review", "r.json"],
            "--review needs --root, the data set that was evaluated; leave out --predictions.",
        ),
        (["--root", "in", "--review", "r.json"], "the list of label errors r.json is missing"),
        (["--root", "nowhere"], "the data folder nowhere does not exist"),
        (["--predictions", "p.json", "--images", "in"], "p.json is missing"),
    ],
)
def test_options_that_do_not_fit_are_errors(
    tmp_path: Path,
    words: list[str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_set(tmp_path / "in", ["a.png"])
    assert run("prepare-data", "export", "--to", "cvat", "--out", "out", *words) == 2
    assert sentence in capsys.readouterr().err
    assert not Path("out").exists()
