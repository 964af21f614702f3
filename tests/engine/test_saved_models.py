"""Models that transformers saved, as `hf:FOLDER`, with every command and from Python."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import panformer
from panformer_cli.data.coco.coco_categories import COCO
from panformer_cli.data.coco.panoptic_png import read_panoptic_png
from panformer_cli.engine.checkpoints.checkpoint import Checkpoint, TrainProgress
from panformer_cli.engine.inference_changes import InferenceChanges
from panformer_cli.errors import PanformerError
from panformer_cli.recipe import Recipe
from panformer_cli.settings import DataSettings
from tests.conftest import REPOSITORY
from tests.engine.small import categories_of, run_command, small_scenes
from tests.helpers import files_of, made_once, run
from tests.hub_server import HubServer
from tests.hub_server import environment as hub_environment
from tests.saved_models import save_tiny

CPU = ("--device", "cpu")
SMALL = ("--short-side", "64", "--long-side", "128")


@pytest.fixture(scope="module")
def data(request: pytest.FixtureRequest) -> Path:
    """Scenes, and a model whose labels have the names of their categories, except the last one."""

    def make(folder: Path) -> None:
        small_scenes(folder / "scenes", train_images=1, val_images=4)
        names = [category.name.replace(" ", "_").upper() for category in categories_of(folder / "scenes").categories]
        save_tiny(folder / "model", names=dict(enumerate([*names[:-1], "unicorn"])))

    return made_once(request, "saved_models", make)


@pytest.fixture(scope="module")
def coco(request: pytest.FixtureRequest) -> Path:
    """Models with COCO's labels, and images of two sizes."""

    def make(folder: Path) -> None:
        draws = np.random.default_rng(0)
        (folder / "images").mkdir(parents=True)
        for number, size in enumerate([(80, 60), (100, 48), (80, 60)]):
            pixels = Image.fromarray(draws.integers(0, 255, (6, 8, 3), dtype=np.uint8))
            pixels.resize(size, Image.Resampling.BICUBIC).save(folder / "images" / f"{number}.png")
        for architecture in ("eomt", "mask2former"):
            save_tiny(folder / architecture, architecture)

    return made_once(request, "saved_coco_models", make)


@pytest.mark.slow
def test_predictions_are_those_of_the_python_interface_and_ignore_their_neighbors(tmp_path: Path, coco: Path) -> None:
    for architecture in ("eomt", "mask2former"):
        checkpoint, out = f"hf:{coco / architecture}", tmp_path / architecture
        arguments = ("--checkpoint", checkpoint, *SMALL, "--batch-size", "3", "--save", "panoptic,json", *CPU)
        run_command("predict", coco / "images", "--out", out, *arguments)
        model = panformer.load(checkpoint, device="cpu", short_side=64, long_side=128)
        content = json.loads((out / "panoptic.json").read_text())
        assert [row["name"] for row in content["categories"]] == list(model.names.values())
        found = 0
        for annotation in content["annotations"]:
            result = model(coco / "images" / annotation["file_name"])
            png = read_panoptic_png(out / "panoptic" / annotation["file_name"])
            assert np.array_equal(result.panoptic.ids, png)
            rows = [(row["id"], row["category_id"], row["area"]) for row in annotation["segments_info"]]
            assert rows == [(segment.id, segment.category_id, segment.area) for segment in result.segments]
            found += len(rows)
        assert found >= 3
        assert repr(model).startswith(f"Model({coco / architecture}, 133 categories")


@pytest.mark.slow
def test_every_command_that_runs_a_model(
    tmp_path: Path, data: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(data / "model", "model")
    on = ("--data", str(data / "scenes"), "--split", "val", *CPU)
    unknown = categories_of(data / "scenes").categories[-1].name

    run_command("evaluate", "hf:model", *on, "--metrics", "all", "--hf-post-processing", "--label-errors")
    printed = capfd.readouterr()
    assert "Checkpoint: hf:model" in printed.out
    assert "Merging of the original project and of transformers, percent" in printed.out
    assert f"no label for 1 of 11 categories, which are never predicted: {unknown}" in " ".join(printed.err.split())
    metrics = json.loads(Path("model/evaluation/metrics.json").read_text())
    other = json.loads(Path("model/evaluation/hf_post_processing/metrics.json").read_text())
    assert metrics["images"] == other["images"] == 4
    assert other["settings"]["hf_post_processing"] is True
    # A folder is recognized without the prefix, and the evaluation is complete.
    run_command("evaluate", "model", *on, "--metrics", "all", "--resume")
    assert "already complete" in capfd.readouterr().err

    run_command("evaluate", "hf:model", *on, "--out", "half", "--short-side", "32")
    capfd.readouterr()
    run_command("evaluate", "compare", "hf:model", "half", "--bootstrap", "5", "--json")
    compared = json.loads(capfd.readouterr().out)
    assert [compared[side]["name"] for side in "ab"] == ["hf:model", "half"]
    run_command("evaluate", "tune", "hf:model", *on)
    assert json.loads(Path("model/tuning/tune.json").read_text())["searched"]["images"] == 2
    run_command("evaluate", "robustness", "hf:model", *on, "--corruptions", "fog", "--severity", "1", "--out", "fog")
    assert Path("fog/robustness.json").is_file()
    run_command("benchmark", "hf:model", "--size", "64x64", "--repeat", "1", *CPU)
    assert "hf:model, model: 64x64" in capfd.readouterr().out

    annotation = data / "scenes" / "annotations" / "panoptic_val.json"
    images = data / "scenes" / "images" / "val"
    Path("map.json").write_text(json.dumps({"unicorn": 1, "0": 1}))
    labels = ("--label-map", "map.json", "--categories", str(annotation))
    run_command("predict", images, "--out", "out", "--checkpoint", "hf:model", *labels, "--gallery", *CPU)
    saved = json.loads(Path("out/panoptic.json").read_text())
    assert saved["categories"] == json.loads(annotation.read_text())["categories"]
    assert {row["category_id"] for part in saved["annotations"] for row in part["segments_info"]} <= {1}
    run_command("visualize", "--predictions", "out/panoptic.json", "--images", images, "--out", "page")
    assert Path("page/index.html").is_file()


@pytest.mark.slow
def test_several_processes_download_once_and_predict_the_same(tmp_path: Path, coco: Path, hub: HubServer) -> None:
    hub.add("user/model", files_of(coco / "mask2former"))
    (tmp_path / "cache").mkdir()
    program = (
        sys.executable,
        "-m",
        "panformer_cli",
        "predict",
        coco / "images",
        "--checkpoint",
        "hf:user/model",
        *SMALL,
    )
    environment = {**os.environ, **hub_environment(hub.url, tmp_path / "cache"), "PYTHONPATH": str(REPOSITORY)}
    command = (*program, "--out", tmp_path / "two", "--cpu-processes", "2")
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("Loading hf:user/model ...\n")
    assert "Checkpoint: hf:user/model\n" in done.stdout
    assert [request.method for request in hub.requests if request.server == "storage"] == ["GET"]
    run_command("predict", coco / "images", "--out", tmp_path / "one", "--checkpoint", f"hf:{coco}/mask2former", *SMALL)
    two, one = (json.loads((tmp_path / name / "panoptic.json").read_text()) for name in ("two", "one"))
    assert two["annotations"] == one["annotations"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (
            ("train", "tiny", "--set", "data.root=DATA", "--init-from", "hf:MODEL"),
            "can be run (predict, evaluate, benchmark), but not trained",
        ),
        (("weights", "import", "hf:a/b", "--out", "out"), "but not trained, imported or averaged"),
        (("weights", "average", "hf:MODEL", "MODEL", "--out", "out"), "but not trained, imported or averaged"),
        (("evaluate", "tune", "hf:MODEL", "--save"), "but not trained, imported or averaged"),
        (
            ("evaluate", "tune", "hf:MODEL", "--data", "DATA", "--split", "val", "--hf-post-processing"),
            "cannot be tuned",
        ),
        (("evaluate", "hf:MODEL"), "no data set was given"),
        (("predict", "DATA", "--out", "out", "--checkpoint", "hf:MODEL", "--label-map", "no.json"), "no.json"),
        (("predict", "DATA", "--out", "out", "--checkpoint", "hf:MODEL", "--tile", "64"), "--tile cannot be used"),
        (
            ("predict", "DATA", "--out", "out", "--checkpoint", "hf:MODEL", "--short-side", "99", "--long-side", "98"),
            "--short-side is 99 and --long-side 98",
        ),
    ],
)
def test_what_is_refused(
    tmp_path: Path,
    data: Path,
    command: tuple[str, ...],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [word.replace("MODEL", str(data / "model")).replace("DATA", str(data / "scenes")) for word in command]
    assert run(*words) == 2
    assert sentence in " ".join(capfd.readouterr().err.split())
    assert not Path("runs").exists()


def test_a_long_side_below_the_short_side_of_the_checkpoint() -> None:
    """It shortens the short side, and a short side above the long side of the checkpoint lengthens the long side."""
    recipe = Recipe(data=DataSettings(short_side=800, long_side=1333))
    checkpoint = Checkpoint(Path("file"), recipe, COCO, TrainProgress(), False, "0")
    for changes, sides in (
        (InferenceChanges(long_side=600), (600, 600)),
        (InferenceChanges(long_side=1000), (800, 1000)),
        (InferenceChanges(short_side=1500), (1500, 1500)),
        (InferenceChanges(short_side=600), (600, 1333)),
    ):
        data = changes.applied_to(checkpoint).recipe.data
        assert (data.short_side, data.long_side) == sides


@pytest.mark.slow
def test_options_of_saved_models_are_not_for_others(tmp_path: Path, coco: Path) -> None:
    del tmp_path
    with pytest.raises(PanformerError, match="label map: 'zebra crossing' is no label"):
        panformer.load(f"hf:{coco / 'eomt'}", device="cpu", label_map={"zebra crossing": 1})
    with pytest.raises(PanformerError, match="label_map has the category id 'a'; expected a number"):
        panformer.load(f"hf:{coco / 'eomt'}", device="cpu", label_map={"person": "a"})
