"""Invalid input: one line on stderr that says what is wrong, where, and what to do; exit code 2; no traceback."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from panformer_cli.engine.checkpoints import run_checkpoints
from panformer_cli.engine.checkpoints.checkpoint import read_checkpoint
from panformer_cli.engine.runs import RunFolder
from tests.conftest import REPOSITORY
from tests.engine.small import SMALL, run_small, small_checkpoint, small_recipe, small_scenes
from tests.helpers import files_of_at_most, made_once, run
from tests.release_files import save_as_mmcv, stub_state

ANNOTATION, IMAGE, PNG = (
    "annotations/panoptic_val.json",
    "images/val/000000.png",
    "annotations/panoptic_val/000000.png",
)


@pytest.fixture(scope="session")
def original(request: pytest.FixtureRequest) -> Path:
    """A data set, a model with random weights and a trained run; tests work on copies."""

    def make(folder: Path) -> None:
        data = small_scenes(folder / "data", 4, 2)
        small_checkpoint(folder / "model.safetensors", data)
        run_small(small_recipe(data, "train.max_steps=1"), folder / "run")

    return made_once(request, "original", make)


@pytest.fixture
def folder(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: `data` and `model.safetensors` are copies, `run` links to the trained run."""
    for path in (original / "data").rglob("*"):
        if path.is_file():
            target = tmp_path / "data" / path.relative_to(original / "data")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    (tmp_path / "model.safetensors").write_bytes((original / "model.safetensors").read_bytes())
    (tmp_path / "run").symlink_to(original / "run")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(*more: str, data: str = "data") -> list[str]:
    """Return a command line that trains a very small model for one step."""
    settings = [*SMALL, f"data.root={data}", "train.max_steps=1", "model.dropout=0.0"]
    return ["train", "tiny", *(word for setting in settings for word in ("--set", setting)), *more]


EVALUATE = ["evaluate", "model.safetensors", "--data", "data", "--split", "val", "--out", "out"]
PREDICT = ["predict", "data/images/val", "--checkpoint", "model.safetensors", "--out", "out"]
VISUALIZE = ["visualize", "--data", "data", "--split", "val", "--out", "out"]


def assert_error(
    arguments: list[str], expected: list[str], capsys: pytest.CaptureFixture[str], problems: int = 1
) -> str:
    """Check that there is one `Error:` line, and one line per problem if there are several, with all of `expected`."""
    capsys.readouterr()
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    assert re.fullmatch(r"(Checkpoint: .*\n)?", out)
    lines = [line for line in err.splitlines() if not line.startswith(("Run folder: ", "Image ids are those of "))]
    assert len(lines) == (1 if problems == 1 else 1 + problems), err
    assert lines[0].startswith("Error: ")
    assert "Traceback" not in err
    assert lines[0].count("Error") == 1
    for words in expected:
        assert words in "\n".join(lines)
    return err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trian", "tiny"], ["No such command 'trian'", "Did you mean 'train'?", "See `panformer --help`."]),
        (["fly"], ["No such command 'fly'", "Expected one of demo, prepare-data, train"]),
        (["prepare-data", "scene"], ["No such command 'scene'", "Did you mean 'scenes'?"]),
        (["train", "tiny", "--gpuss", "2"], ["No such option", "--gpuss", "--gpus", "See `panformer train --help`."]),
        (["train"], ["Missing argument 'RECIPE'", "See `panformer train --help`."]),
        (["train", "tiny", "more"], ["unexpected extra argument", "more"]),
        (["train", "tiny", "--cpu-processes", "zwei"], ["'zwei' is not a valid integer"]),
        (["visualize"], ["nothing to draw", "--data, --predictions, --run"]),
    ],
)
def test_unknown_commands_and_options(
    arguments: list[str], expected: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_error(arguments, expected, capsys)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "expected", "problems"),
    [
        (None, ["the recipe 'mine.yaml' does not exist", "built-in recipes", "tiny"], 1),
        ("model: [1, 2", ["mine.yaml is not a recipe in YAML", "line"], 1),
        ("", ["mine.yaml is empty", "expected a recipe with settings"], 1),
        ("- a\n- b\n", ["mine.yaml contains", "expected a recipe with settings"], 1),
        ("train: {lr_ratee: 1}", ["mine.yaml: unknown key train.lr_ratee"], 1),
        ("train: {epochz: 1}", ["unknown key train.epochz; did you mean train.epochs?"], 1),
        ("model: {embed_dim: big}", ["model.embed_dim is 'big': expected a whole number"], 1),
        ("data: {flip_probability: 2}", ["data.flip_probability is 2.0: expected 0 to 1"], 1),
        ("model: {backbone: resnet5}", ["model.backbone is 'resnet5': expected one of resnet18, resnet50"], 1),
        (
            "model: {headz: 8, dropout: 7}\ntrain: {lr: fast, epochs: 0}\n",
            [
                "mine.yaml has 4 problems:",
                "did you mean model.heads?",
                "model.dropout is 7",
                "train.lr is",
                "train.epo",
            ],
            4,
        ),
    ],
)
def test_invalid_recipes(
    content: str | None, expected: list[str], problems: int, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        Path("mine.yaml").write_text(content)
    assert_error(["train", "mine.yaml"], expected, capsys, problems)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("train.lrr=1", ["unknown key train.lrr; did you mean train.lr?"]),
        ("train.lr", ["--set train.lr: expected key=value, such as"]),
        ("train.lr=fast", ["train.lr is 'fast': expected a number"]),
        ("model=3", ["model is a section: set one of its keys, such as model."]),
        ("model.backbone_weights=none.pth", ["none.pth: no such file"]),
        (
            "train.images_per_forward=3",
            ["train.batch_size is 4: expected a multiple of train.images_per_forward (3)", "set train.batch_size to 3"],
        ),
        ("data.train_split=vall", ["no split 'vall' in ", "available splits: train, val", "did you mean 'val'?"]),
        ("data.root=", ["data.root is not set", "--set data.root=DIR"]),
    ],
)
def test_invalid_settings(setting: str, expected: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_error(train("--out", "new", "--set", setting), expected, capsys)


def remove(name: str) -> Callable[[Path], None]:
    return lambda data: (data / name).unlink()


def cut(name: str, kept: int) -> Callable[[Path], Any]:
    return lambda data: (data / name).write_bytes((data / name).read_bytes()[:kept])


def edit(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(data: Path) -> None:
        content = json.loads((data / ANNOTATION).read_text())
        change(content)
        (data / ANNOTATION).write_text(json.dumps(content))

    return apply


def to_palette(data: Path) -> None:
    Image.open(data / PNG).convert("P").save(data / PNG)


def resized(name: str) -> Callable[[Path], None]:
    return lambda data: Image.open(data / name).resize((32, 48), Image.Resampling.NEAREST).save(data / name)


def with_another_id(data: Path) -> None:
    pixels = np.array(Image.open(data / PNG))
    pixels[0, 0] = (9, 9, 9)
    Image.fromarray(pixels).save(data / PNG)


def first_segment(content: dict[str, Any]) -> dict[str, Any]:
    segment: dict[str, Any] = content["annotations"][0]["segments_info"][0]
    return segment


DATA_ERRORS: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "JSON missing": (remove(ANNOTATION), ["no split 'val' in data", "panoptic_val.json", "available splits: train"]),
    "JSON truncated": (
        cut(ANNOTATION, 500),
        ["panoptic_val.json is not valid JSON, or is truncated", "expected a COCO pan"],
    ),
    "JSON empty": (cut(ANNOTATION, 0), ["panoptic_val.json is empty (0 bytes)"]),
    "PNG missing": (remove(PNG), ["the panoptic PNG data/" + PNG + " is missing"]),
    "PNG truncated": (cut(PNG, 60), [PNG, "corrupt or truncated"]),
    "PNG palette": (to_palette, [PNG, "is an 8-bit palette PNG; expected an 8-bit RGB PNG"]),
    "PNG of another size": (resized(PNG), [PNG + " is 32x48", "gives 64x64", "expected equal sizes"]),
    "PNG with another id": (
        with_another_id,
        [PNG, "disagree: segment ids 592137 only in the PNG", "expected the same"],
    ),
    "image missing": (remove(IMAGE), ["the image data/" + IMAGE + " is missing"]),
    "image truncated": (cut(IMAGE, 100), [IMAGE, "corrupt or"]),
    "image of another size": (resized(IMAGE), [IMAGE + " is 32x48", "is 64x64", "expected equal sizes"]),
    "category unknown": (
        edit(lambda content: first_segment(content).update(category_id=777)),
        ["panoptic_val.json: image 0: segment", "has the category_id 777; expected an id in `categories`"],
    ),
    "category table empty": (
        edit(lambda content: content["categories"].clear()),
        ["panoptic_val.json: the category table is empty; expected a list `categories`"],
    ),
    "category without a name": (
        edit(lambda content: content["categories"][0].pop("name")),
        ["panoptic_val.json: the category", "has no name; expected id, name, isthing"],
    ),
    "no image": (
        edit(lambda content: content["annotations"].clear()),
        ["contains no annotated image; expected at least one"],
    ),
    "image name outside": (
        edit(lambda content: content["images"][0].update(file_name="../../../secret.png")),
        [
            "panoptic_val.json: the file name '../../../secret.png' points outside ",
            "data/images/val; expected a name insi",
        ],
    ),
    "PNG name outside": (
        edit(lambda content: content["annotations"][0].update(file_name="/etc/passwd")),
        ["panoptic_val.json: the file name '/etc/passwd' points outside data/annotations/panoptic_val"],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", DATA_ERRORS)
@pytest.mark.parametrize("command", [EVALUATE, VISUALIZE], ids=["evaluate", "visualize"])
def test_invalid_data(command: list[str], case: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corrupt, expected = DATA_ERRORS[case]
    corrupt(folder / "data")
    assert_error(command, expected, capsys)
    assert not Path("secret.png").exists()


@pytest.mark.parametrize("case", ["JSON truncated", "PNG palette", "image truncated", "image name outside"])
def test_invalid_data_in_training(case: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corrupt, expected = DATA_ERRORS[case]
    corrupt(folder / "data")
    settings = ("data.train_split=val", "data.val_split=train", "train.batch_size=2", "train.images_per_forward=2")
    overrides = [word for setting in settings for word in ("--set", setting)]
    assert_error(train("--out", "new", *overrides), expected, capsys)


@pytest.mark.parametrize(
    "arguments",
    [
        train("--out", "new", data="nowhere"),
        ["evaluate", "model.safetensors", "--data", "nowhere", "--out", "out"],
        ["prepare-data", "coco", "--root", "nowhere"],
        ["visualize", "--data", "nowhere"],
    ],
    ids=["train", "evaluate", "prepare-data", "visualize"],
)
def test_missing_data_folder(arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_error(arguments, ["nowhere does not exist; expected a folder in COCO's layout", "pass its path"], capsys)
    assert not Path("new").exists()


def touch(path: str) -> None:
    Path(path).touch()


@pytest.mark.parametrize(
    "arguments",
    [
        [*PREDICT[:-1], "circle"],
        [*PREDICT[:-1], "circle/out"],
        ["prepare-data", "subset", "--root", "data", "--images", "1", "--out", "circle"],
    ],
    ids=["predict", "predict into it", "prepare-data"],
)
def test_circular_links(arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("circle").symlink_to("circle")
    expected = f"{arguments[-1]}: the symbolic links in this path form a loop; expected links to a file or folder"
    assert_error(arguments, [expected], capsys)


class _Malicious:
    """Its pickle creates the file `ran` when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        # One of our functions: the module of a built-in differs between Python versions (io.open, _io.open).
        return touch, ("ran",)


def make_pickle(path: Path) -> None:
    torch.save({"state_dict": _Malicious()}, path)


def make_old_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"state_dict": _Malicious()}))


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_release_file(path: Path, **options: Any) -> None:
    save_as_mmcv(stub_state("r50"), path, **options)


def make_truncated_release_file(path: Path, **options: Any) -> None:
    make_release_file(path, **options)
    path.write_bytes(path.read_bytes()[:-1000])


def make_state(*names: str) -> Callable[[Path], Any]:
    return lambda path: save_as_mmcv({name: torch.zeros(1) for name in names}, path)


def make_release_file_with_few_categories(path: Path) -> None:
    save_as_mmcv(stub_state("r50") | {"bbox_head.stuff_query.weight": torch.zeros(7, 512)}, path)


CHECKPOINT_ERRORS: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "missing": (Path.unlink, ["checkpoint model.safetensors: no such file; give a checkpoint"]),
    "truncated": (
        lambda path: path.write_bytes(path.read_bytes()[:1000]),
        ["weights model.safetensors: the file is corrupt or truncated; download or copy it again"],
    ),
    "truncated archive": (make_truncated_release_file, ["weights model.safetensors: the file is corrupt or truncated"]),
    "truncated legacy file": (
        lambda path: make_truncated_release_file(path, _use_new_zipfile_serialization=False),
        ["weights model.safetensors: the file is corrupt or truncated"],
    ),
    "empty": (lambda path: path.write_bytes(b""), ["weights model.safetensors: the file is empty (0 bytes); download"]),
    "PDF": (lambda path: path.write_bytes(b"%PDF-1.7\n"), ["the file is a PDF document, not weights; pass a .safe"]),
    "web page": (
        lambda path: path.write_bytes(b"<!doctype html>\n<html>Not Found</html>"),
        ["the file is a web page (HTML or XML), not weights: the download failed; download the file again"],
    ),
    "something else": (
        lambda path: path.write_bytes(b"hello"),
        ["is neither a safetensors file nor written by torch."],
    ),
    "pickle": (
        make_pickle,
        ["the pickle needs tests.test_bad_input.touch, more than tensors and plain containers, and was not loaded"],
    ),
    "old pickle": (
        make_old_pickle,
        ["is a pickle that was not written by torch.save; it was not loaded, because a pickle"],
    ),
    "a folder": (make_folder, ["checkpoint model.safetensors is a folder without best, last or model.safetensors"]),
    "no state dict": (
        lambda path: torch.save([1, 2], path),
        ["the file contains no state dict; expected tensors by na"],
    ),
    "K-Net without a backbone": (
        make_state("backbone.conv1.weight", "rpn_head.init_kernels.weight", "roi_head.mask_head.0.fc_cls.weight"),
        ["checkpoint model.safetensors is a K-Net without a backbone; expected tensors of a ResNet (backbone."],
    ),
    "semantic K-Net": (
        make_state("backbone.conv1.weight", "decode_head.kernel_generate_head.conv_seg.weight"),
        ["checkpoint model.safetensors is a K-Net for semantic segmentation, which finds no objects; use a panop"],
    ),
    "another detector": (
        make_state("backbone.conv1.weight", "rpn_head.rpn_conv.weight", "roi_head.bbox_head.fc_cls.weight"),
        ["is a checkpoint of another model in the format of MMDetection", "its tensors are backbone.conv1.weight, "],
    ),
    "ImageNet weights": (
        make_state("conv1.weight", "layer1.0.conv1.weight"),
        ["contains only backbone weights", "--set model.backbone_weights=FILE", "its tensors are conv1.weight"],
    ),
    "unknown tensors": (make_state("weight"), ["is not a checkpoint of Panoptic SegFormer or K-Net: its tensors"]),
    "other categories than COCO's": (
        make_release_file_with_few_categories,
        ["trained on 80 things and 7 stuff classes, not on COCO's 80 and 53", "`panformer weights import model.safet"],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CHECKPOINT_ERRORS)
@pytest.mark.parametrize(
    "command",
    [EVALUATE, PREDICT, train("--out", "new", "--init-from", "model.safetensors")],
    ids=["evaluate", "predict", "train"],
)
def test_invalid_checkpoints(command: list[str], case: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corrupt, expected = CHECKPOINT_ERRORS[case]
    corrupt(Path("model.safetensors"))
    assert_error(command, expected, capsys)
    assert not Path("ran").exists()
    assert not Path("out").exists()


def test_a_pickle_of_backbone_weights_is_not_executed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_pickle(Path("backbone.pth"))
    arguments = train("--out", "new", "--set", "model.backbone_weights=backbone.pth")
    expected = [
        "backbone.pth: the pickle needs tests.test_bad_input.touch, more than tensors and plain containers, and was"
    ]
    assert_error(arguments, expected, capsys)
    assert not Path("ran").exists()


@pytest.mark.slow
def test_an_official_checkpoint_without_some_tensors(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = stub_state("r50")
    sparse = "bbox_head.cls_branches.3.weight"
    state[sparse] = torch.ones(80, 256).to_sparse()
    missing = "bbox_head.transformer.encoder.layers.3.ffns.0.layers.1.bias"
    del state[missing]
    save_as_mmcv(state | {"bbox_head.more.weight": torch.ones(1)}, Path("r50.pth"))
    expected = [
        f"checkpoint r50.pth (recipe r50, 133 categories) does not match this model: missing: {missing}; unexpected"
    ]
    arguments = ["predict", "data/images/val", "--checkpoint", "r50.pth", "--out", "out"]
    assert_error(arguments, [*expected, "unexpected: bbox_head.more.weight; not plain floating-"], capsys)


@pytest.mark.slow
def test_an_official_checkpoint_of_another_recipe(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_release_file(Path("r50.pth"))
    expected = ["checkpoint r50.pth is from recipe r50 with the backbone resnet50, but this model has timm/lcnet_035"]
    assert "(recipe" not in assert_error(train("--out", "new", "--init-from", "r50.pth"), expected, capsys)
    expected = [
        "checkpoint r50.pth has the backbone resnet50 (recipe r50), but the recipe swinl has swin_large; omit --recipe"
    ]
    assert_error(["weights", "import", "r50.pth", "--out", "new2", "--recipe", "swinl"], expected, capsys)
    assert not Path("new2").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["model.safetensors", "--out", "new"],
            "model.safetensors is already a checkpoint of panformer; use it direct",
        ),
        (["r50.pth", "--out", "run"], "--out run has other files than an earlier import; expected a new or empty"),
        (["r50.pth", "--out", "r50.pth"], "--out r50.pth is a file; expected a new or empty folder"),
        (["r50.pth", "--out", "r50.pth/new"], "cannot write r50.pth/new/model.safetensors: Not a directory"),
        (
            ["r50.pth", "--out", "new", "--categories", "none.json"],
            "Error: the panoptic JSON none.json is missing; check",
        ),
        (
            ["r50.pth", "--out", "new", "--categories", f"data/{ANNOTATION}"],
            "checkpoint r50.pth was trained on 80 things and 53 stuff classes, but --categories has 6 things",
        ),
    ],
)
def test_invalid_imports(arguments: list[str], expected: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_release_file(Path("r50.pth"))
    assert_error(["weights", "import", *arguments], [expected], capsys)
    assert not Path("new").exists()


def test_no_checkpoint_and_no_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = ["no checkpoint was given and there is no run in", "published weights (r50_1x, r50", "panformer train R"]
    assert_error(["evaluate"], expected, capsys)


@pytest.mark.slow
def test_a_checkpoint_of_another_recipe(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_checkpoint(Path("other.safetensors"), Path("data"), "model.encoder_layers=2")
    expected = [
        "checkpoint other.safetensors (recipe tiny, 11 categories) does not match this model: ",
        "unexpected: encoder.layers.1.",
    ]
    assert_error(train("--out", "new", "--init-from", "other.safetensors"), expected, capsys)
    assert_error(
        train("--resume", "--out", "run", "--set", "model.encoder_layers=2"),
        [
            "--resume: the run in run is of recipe tiny with a different model: model.encoder_layers was 1 and is 2",
            "omit these settings to resume with those of the run",
        ],
        capsys,
    )


def test_nothing_to_resume(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_error(train("--resume"), ["--resume: there is no run of tiny in runs/tiny; omit --resume"], capsys)
    assert_error(train("--resume", "--out", "new"), ["--resume: new has no last.safetensors"], capsys)
    both = train("--resume", "--out", "run", "--init-from", "model.safetensors")
    assert_error(both, ["--resume and --init-from are both given"], capsys)


def test_the_folder_of_another_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = RunFolder(folder / "run").last.read_bytes()
    assert_error(train("--out", "run"), ["--out run has another run; add --resume to continue that run"], capsys)
    for command in (EVALUATE, PREDICT):
        assert_error([*command, "--out", "run"], ["--out run has a training run; choose another folder"], capsys)
    assert_error(
        ["prepare-data", "scenes", "--out", "run"], ["run already contains other files; choose another"], capsys
    )
    assert RunFolder(folder / "run").last.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (train("--out", "file"), ["--out file is a file; expected a new or empty folder"]),
        (train("--out", "file/new"), ["cannot write file/new: Not a directory", "choose another folder"]),
        ([*EVALUATE, "--out", "file"], ["--out file is a file; expected a folder"]),
        ([*EVALUATE, "--out", "file/new"], ["cannot write file/new/", "Not a directory", "choose another folder"]),
        ([*PREDICT, "--out", "file/new"], ["cannot write file/new: ", "Not a directory", "choose another folder"]),
        ([*VISUALIZE, "--out", "file/new"], ["file/new", "Not a directory"]),
        ([*VISUALIZE, "--out", "file"], ["'file'", "is a file"]),
        (["prepare-data", "scenes", "--out", "file"], ["cannot write scenes to file: Not a directory"]),
        (
            ["predict", "none.jpg", *PREDICT[2:]],
            ["no such image, video, folder or pattern: none.jpg; give image files"],
        ),
        (["predict", "x" * 300, *PREDICT[2:]], ["cannot be the name of a file: it is too long; expected a path"]),
        (["predict", "empty", *PREDICT[2:]], ["the folder empty has no images; expected files with the suffixes ."]),
        (["visualize", "--run", "empty"], ["empty/metrics.jsonl cannot be read: No such file"]),
        (["evaluate", "x" * 300], ["xxx: File name too long; check the path"]),
        (train("--out", "x" * 300), ["xxx: File name too long; check the path"]),
        (train(data="x" * 300), ["xxx: File name too long; check the path"]),
    ],
)
def test_invalid_files_and_folders(
    arguments: list[str], expected: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").write_text("")
    Path("empty").mkdir()
    assert_error(arguments, expected, capsys)


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
@pytest.mark.parametrize("command", [train("--out", "readonly/new"), [*EVALUATE, "--out", "readonly/new"]])
def test_missing_permission(command: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("readonly").mkdir(mode=0o500)
    assert_error(command, ["cannot write readonly/new/", "Permission denied", "choose another folder"], capsys)


@pytest.mark.slow
def test_a_full_disk_keeps_the_old_checkpoint(
    original: Path, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_checkpoints, "PATIENCE_SECONDS", 0.5)
    run_small(small_recipe(folder / "data", "train.max_steps=1"), folder / "mine")
    mine = RunFolder(Path("mine"))
    before = mine.last.read_bytes()
    with files_of_at_most(1_000_000):
        arguments = train("--resume", "--out", "mine", "--set", "train.max_steps=2")
        expected = [
            "cannot write mine/last.safetensors: File too large; the existing file is unchanged",
            "free some space",
        ]
        capsys.readouterr()
        assert run(*arguments) == 2
    err = capsys.readouterr().err
    errors = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    for words in expected:
        assert words in errors[0]
    assert "Traceback" not in err
    assert mine.last.read_bytes() == before
    assert [path for path in Path("mine").iterdir() if path.suffix == ".tmp"] == []


@pytest.mark.slow
def test_file_names_in_predictions_cannot_point_outside(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*EVALUATE) == 0
    saved = Path("out/panoptic.json")
    content = json.loads(saved.read_text())
    for key, name in (("images", "../../stolen"), ("annotations", "../../../etc/passwd")):
        changed = json.loads(json.dumps(content))
        changed[key][0]["file_name"] = name
        saved.write_text(json.dumps(changed))
        arguments = ["visualize", "--predictions", str(saved), "--images", "data/images/val", "--out", "viz"]
        assert_error(arguments, [f"the file name '{name}' points outside", "expected a name inside it"], capsys)
    assert not Path("stolen.jpg").exists()


@pytest.mark.slow
def test_ctrl_c_in_training_saves_and_prints_how_to_resume(folder: Path) -> None:
    """tests/engine/distributed/test_interruptions.py stops two processes."""
    many = ["--set", "train.max_steps=100000", "--set", "train.epochs=100000", "--out", "mine"]
    many += ["--set", "train.images_per_forward=1"]
    command = [sys.executable, "-m", "panformer_cli", *train(), *many]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    # A new session, as in a terminal: Ctrl-C reaches all of its processes.
    training = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    assert training.stderr is not None
    try:
        for line in training.stderr:  # printed after the first epoch, so there is a step to save
            if line.startswith("Step "):
                break
        os.killpg(training.pid, signal.SIGINT)
        rest = training.stderr.read()
        assert training.wait() == 130, rest
    finally:
        if training.poll() is None:
            os.killpg(training.pid, signal.SIGKILL)
    mine = RunFolder(Path("mine"))
    step = read_checkpoint(mine.last).progress.step
    assert step >= 1
    resume = ["train", "--resume", "mine"]
    assert rest.splitlines()[-1] == (
        f"Stopped; step {step} of 100000 is saved; resume with: panformer {' '.join(resume)}"
    )
    assert "Traceback" not in rest
    # The printed command works unchanged.
    assert run(*resume, "--set", f"train.max_steps={step + 1}") == 0
    assert read_checkpoint(mine.last).progress.step == step + 1
