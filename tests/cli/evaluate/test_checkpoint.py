"""`panformer evaluate` on a small checkpoint, and the subcommands that use its results."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.data.coco.pair_files import write_pairs
from tests.engine.small import small_checkpoint, small_scenes
from tests.helpers import run

IMAGES = 4


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, a checkpoint with random weights, and its evaluation in `evaluation`."""
    folder = tmp_path_factory.mktemp("made")
    data = small_scenes(folder / "data", 1, IMAGES)
    small_checkpoint(folder / "model.safetensors", data)
    words = ("--metrics", "all", "--bootstrap", "50", "--report", str(folder / "report"))
    assert run("evaluate", str(folder / "model.safetensors"), *words) == 0
    return folder


def printed(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    """Return what `panformer evaluate ARGUMENTS` prints on stdout."""
    capsys.readouterr()
    assert run("evaluate", *arguments) == code, capsys.readouterr().err
    return capsys.readouterr().out


@pytest.mark.slow
def test_a_report_is_written_with_the_metrics(made: Path) -> None:
    page = (made / "report" / "index.html").read_text(encoding="utf-8")
    metrics = json.loads((made / "evaluation" / "metrics.json").read_text())
    assert set(metrics) >= {"panoptic", "boundary", "semantic", "bbox", "segm", "intervals", "disagreements"}
    assert f"{metrics['panoptic']['all']['pq']:.1f}" in page
    assert all(f"{number:06d}.png" in page for number in range(IMAGES))
    thumbnails = [path for path in (made / "report" / "images").rglob("*") if path.is_file()]
    assert len(thumbnails) >= IMAGES


@pytest.mark.slow
def test_saved_predictions_give_the_same_metrics(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    live = json.loads((made / "evaluation" / "metrics.json").read_text())
    words = (
        "--predictions",
        str(made / "evaluation" / live["predictions"]),
        "--annotations",
        live["annotation"],
        "--bootstrap",
        "50",
    )
    again = json.loads(printed(capsys, *words, "--metrics", "panoptic,boundary,semantic", "--json"))
    for name in ("images", "panoptic", "boundary", "semantic", "intervals", "disagreements", "categories"):
        assert again[name] == live[name]


@pytest.mark.slow
def test_a_report_of_saved_predictions_shows_the_photos(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    live = json.loads((made / "evaluation" / "metrics.json").read_text())
    words = ("--predictions", str(made / "evaluation" / live["predictions"]), "--annotations", live["annotation"])
    out = printed(capsys, *words, "--report", str(tmp_path / "report"))
    assert f"Report: {tmp_path / 'report' / 'index.html'}" in out
    names = {str(path.relative_to(made / "report")) for path in (made / "report").rglob("*")}
    assert {str(path.relative_to(tmp_path / "report")) for path in (tmp_path / "report").rglob("*")} == names


def test_a_report_without_photos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = write_pairs(tmp_path / "data")
    printed(capsys, *pairs.words, "--report", str(tmp_path / "report"))
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert all(f"{number}.jpg" in page for number in range(3))


@pytest.mark.slow
def test_a_folder_compared_with_itself_changes_nothing(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(made / "evaluation")
    content = json.loads(printed(capsys, "compare", folder, folder, "--bootstrap", "30", "--json"))
    assert content["images"] == IMAGES
    assert content["difference"]["all"] == {"pq": 0, "sq": 0, "rq": 0}
    assert content["difference"]["intervals"]["all"]["pq"] == [0, 0]
    assert content["images_gained"] == content["images_lost"] == []
    metrics = json.loads((made / "evaluation" / "metrics.json").read_text())
    assert content["a"]["all"] == content["b"]["all"] == metrics["panoptic"]["all"]


def test_two_jsons_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs, other = write_pairs(tmp_path / "a"), write_pairs(tmp_path / "b")
    other.prediction.draw(lambda ids: ids.__setitem__(ids == 2, 0), 1)  # the box of image 101 is lost
    other.prediction.edit(lambda content: content["annotations"][1]["segments_info"].pop())
    words = (str(pairs.prediction.json), str(other.prediction.json), "--annotations", str(pairs.truth.json))
    content = json.loads(printed(capsys, "compare", *words, "--bootstrap", "30", "--json"))
    (lost,) = content["images_lost"]
    assert (lost["image_id"], lost["file_name"]) == (101, "1.jpg")
    assert content["images_gained"] == []
    assert content["difference"]["things"]["pq"] < 0
    assert content["difference"]["stuff"]["pq"] == 0
    table = printed(capsys, "compare", *words, "--bootstrap", "30")
    assert "PQ of 3 images" in table
    assert "1.jpg" in table


@pytest.mark.parametrize("name", ["metrics.json", "records.jsonl"])
def test_compare_needs_an_evaluation(name: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (made / "evaluation").iterdir():
        if path.is_file() and path.name != name:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    assert run("evaluate", "compare", str(made / "evaluation"), str(tmp_path)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert f"{tmp_path} has no {name}" in err


@pytest.mark.slow
def test_tune_reports_what_it_found(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("tune", str(made / "model.safetensors"), "--out", str(tmp_path))
    content = json.loads(printed(capsys, *words, "--json"))
    assert content["before"]["score_threshold"] == 0
    assert (content["searched"]["images"], content["held_out"]["images"]) == (2, 2)
    assert content["searched"]["pq_after"] >= content["searched"]["pq_before"]
    assert (tmp_path / "tune.json").is_file()
    table = printed(capsys, *words)
    assert "Thresholds" in table
    assert "held out" in table


@pytest.mark.slow
def test_robustness_on_a_sample_of_the_images(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (str(made / "model.safetensors"), "--out", str(tmp_path), "--corruptions", "fog", "--severity", "1")
    content = json.loads(printed(capsys, *words, "--images", "2", "--json"))
    assert content["images"] == 2
    (row,) = content["rows"]
    assert (row["corruption"], list(row["by_severity"])) == ("fog", ["1"])
    assert content["mean"] == row["pq"] == row["by_severity"]["1"]
    assert json.loads((tmp_path / "robustness.json").read_text()) == content
    table = printed(capsys, *words, "--images", "2")
    assert "PQ of 2 images" in table
    assert f"Results: {tmp_path / 'robustness.json'}" in table


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [(["--corruptions", "fogg"], "fogg"), (["--corruptions", "fog", "--severity", "9"], "9")],
)
def test_unknown_corruptions_and_severities_are_errors(
    arguments: list[str], expected: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("evaluate", str(made / "model.safetensors"), "--out", str(tmp_path / "out"), *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert expected in err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_submission_is_packed_and_checked(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = tmp_path / "ade20k_panoptic_val.zip"
    model, out = str(made / "model.safetensors"), str(tmp_path / "out")
    text = printed(capsys, model, "--out", out, "--submission", str(archive), "--form", "ade20k")
    assert f"Predictions and metrics: {out}" in text
    with zipfile.ZipFile(archive) as packed:
        names = packed.namelist()
        rows = json.loads(packed.read("ade20k_panoptic_val.json"))["annotations"]
    assert len(rows) == IMAGES
    assert set(names) == {"ade20k_panoptic_val.json", *(f"ade20k_panoptic_val/{row['file_name']}" for row in rows)}
    info = str(made / "data" / "annotations" / "panoptic_val.json")
    assert "is a valid submission: 4 images" in printed(
        capsys, "check-submission", str(archive), "--images", info, "--form", "ade20k"
    )
    assert_found(capsys, archive, info, names)


def assert_found(capsys: pytest.CaptureFixture[str], archive: Path, info: str, names: list[str]) -> None:
    """A zip that lacks one of its PNGs is rejected with exit code 1."""
    incomplete = archive.with_name("short.zip")
    with zipfile.ZipFile(archive) as whole, zipfile.ZipFile(incomplete, "w") as part:
        for name in names[:-1]:
            part.writestr(name.replace("ade20k_panoptic_val", "short"), whole.read(name))
    words = ("check-submission", str(incomplete), "--images", info, "--form", "ade20k", "--json")
    found: dict[str, Any] = json.loads(printed(capsys, *words, code=1))
    assert found["good"] is False
    missing = [finding for finding in found["findings"] if finding["problem"] == "png_missing"]
    assert found["counts"]["png_missing"] == len(missing) == 1
    assert any(names[-1].rsplit("/", 1)[1] in finding["sentence"] for finding in found["findings"])


def test_the_name_of_a_submission_is_checked_before_anything_is_predicted(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--out", str(tmp_path / "out"), "--submission", str(tmp_path / "mine.zip"))
    assert run("evaluate", str(made / "model.safetensors"), *words) == 2
    err = capsys.readouterr().err
    assert "invalid submission name mine.zip; expected a name such as panoptic_test-dev2017_" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_checkpoint_is_the_first_line(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(made / "model.safetensors"), "--out", str(tmp_path / "out"), "--bootstrap", "0"]
    assert printed(capsys, *words).splitlines()[0] == f"Checkpoint: {made / 'model.safetensors'}"
    assert json.loads(printed(capsys, *words, "--json"))["images"] == IMAGES
    photo = next(path for path in (made / "data" / "images").rglob("*.png"))
    predict = ["predict", str(photo), "--checkpoint", str(made / "model.safetensors"), "--out", str(tmp_path / "pred")]
    assert run(*predict) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"Checkpoint: {made / 'model.safetensors'}"


@pytest.mark.parametrize(
    ("words", "prefix"),
    [
        (["evaluate"], "Checkpoint"),
        (["evaluate", "tune"], "Checkpoint"),
        (["evaluate", "robustness"], "Checkpoint"),
        (["predict", "photo.png", "--out", "out"], "Checkpoint"),
        (["evaluate", "compare", "runs/mine/a", "runs"], "Checkpoint A"),
    ],
)
def test_the_checkpoint_is_printed_before_it_is_read(
    words: list[str], prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/mine/a").mkdir(parents=True)
    Path("runs/mine/a/last.safetensors").write_bytes(b"truncated")
    Image.new("RGB", (4, 4)).save("photo.png")
    reason = " (newest run)" if prefix == "Checkpoint" else ""
    assert run(*words) == 2
    assert capsys.readouterr().out == f"{prefix}: runs/mine/a/last.safetensors{reason}\n"
    assert run(*words, "--json") == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.startswith(f"{prefix}: runs/mine/a/last.safetensors{reason}\n")


@pytest.mark.slow
def test_another_data_set_may_have_another_split(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The checkpoint was trained with the split `val`; here, only `other` exists."""
    for name in ("images/val", "annotations/panoptic_val", "annotations/panoptic_val.json"):
        target = tmp_path / "data" / name.replace("val", "other")
        target.parent.mkdir(parents=True, exist_ok=True)
        source = made / "data" / name
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    words = [str(made / "model.safetensors"), "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    content = json.loads(printed(capsys, *words, "--json", "--bootstrap", "0"))
    assert content["annotation"] == str(tmp_path / "data" / "annotations" / "panoptic_other.json")
