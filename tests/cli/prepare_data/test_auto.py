"""`panformer prepare-data auto`: it prints and runs the command of the form that it finds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from tests.cli.prepare_folders import SOURCES, cvat, labelme, masks, save_image, yolo
from tests.helpers import run


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "in"


CONVERTED = [source for source in SOURCES if source.__name__ not in ("coco_images", "coco_pngs")]


@pytest.mark.parametrize("source", CONVERTED, ids=lambda source: source.__name__)
def test_it_runs_the_command(
    root: Path, source: Callable[[Path], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    words = source(root)
    out = root.parent / "out"
    assert run("prepare-data", "auto", "--root", str(root), "--out", str(out), "--workers", "1") == 0
    found, command = capsys.readouterr().out.splitlines()[:2]
    assert found.startswith(f"{root}: ") and "(found " in found
    assert command == " ".join(
        ["Command: panformer prepare-data", words[0], f"--root {root} --out {out}", *words[1:], "--workers 1"]
    )
    assert (out / "manifest.json").is_file()


def test_options_are_passed_to_the_command(root: Path) -> None:
    labelme(root)
    out = root.parent / "out"
    assert run("prepare-data", "auto", "--root", str(root), "--stuff", "car", "--out", str(out), "--workers", "1") == 0
    assert [(c.name, c.is_thing) for c in CocoPanoptic(out, "train").categories.categories] == [("car", False)]


def test_a_class_file_after_an_equals_sign(root: Path) -> None:
    masks(root)
    classes = (root / "classes.csv").rename(root.parent / "mine.csv")
    out = root.parent / "out"
    options = ["--out", str(out), "--workers", "1", f"--classes={classes}"]
    assert run("prepare-data", "auto", "--root", str(root), *options) == 0
    assert (out / "manifest.json").is_file()


def test_a_class_file_in_the_folder_is_used(root: Path) -> None:
    """As `prepare-data export` writes it, since CVAT has no stuff."""
    cvat(root)
    (root / "classes.csv").write_text("id,name,isthing\n7,car,0\n")
    out = root.parent / "out"
    assert run("prepare-data", "auto", "--root", str(root), "--out", str(out), "--workers", "1") == 0
    assert [(c.id, c.is_thing) for c in CocoPanoptic(out, "train").categories.categories] == [(7, False)]


def test_a_dry_run_only_prints(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cvat(root)
    assert run("prepare-data", "auto", "--root", str(root), "--dry-run", "--stuff", "a road") == 0
    assert capsys.readouterr().out == (
        f"{root}: CVAT's XML (found annotations.xml has <annotations>)\n"
        f"Command: panformer prepare-data cvat --root {root} --out DIR --stuff 'a road'\n"
    )
    assert [path.name for path in root.parent.iterdir()] == ["in"]


def test_several_forms_are_listed_and_none_is_run(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labelme(root)
    yolo(root)
    out = root.parent / "out"
    assert run("prepare-data", "auto", "--root", str(root), "--out", str(out)) == 2
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert "has 2 forms; run the command of the one you want:" in lines[0]
    assert lines[1].endswith(f"panformer prepare-data labelme --root {root} --out {out}")
    assert lines[2].endswith(f"panformer prepare-data yolo --root {root} --out {out}")
    assert printed.out == "" and not out.exists()


def test_a_prepared_data_set_is_verified(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labelme(root)
    out = str(root.parent / "out")
    assert run("prepare-data", "labelme", "--root", str(root), "--out", out, "--workers", "1") == 0
    capsys.readouterr()
    assert run("prepare-data", "auto", "--root", out) == 0
    printed = capsys.readouterr().out
    assert "a prepared data set, which needs no conversion" in printed and "no errors found" in printed


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (labelme, [], "the command needs an output folder; pass --out DIR."),
        (labelme, ["--out", "x", "--void", "3"], "No such option"),
        (lambda root: (masks(root), (root / "classes.csv").unlink()), ["--out", "x"], "pass --classes FILE."),
        (lambda root: save_image(root / "a.jpg"), [], "has no labels in a known form; found 1 file with .jpg"),
        (lambda root: None, [], "does not exist"),
    ],
)
def test_what_is_missing(
    root: Path,
    make: Callable[[Path], object],
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make(root)
    assert run("prepare-data", "auto", "--root", str(root), *options) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_the_command_for_another_form_is_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """CVAT also exports COCO, which another command converts."""
    labelme(root)
    for name in ("cvat", "yolo"):
        assert run("prepare-data", name, "--root", str(root), "--out", str(root.parent / "out")) == 2
        error = " ".join(capsys.readouterr().err.split())
        assert f"has the form of labelme: `panformer prepare-data labelme --root {root} --out DIR`" in error


def test_the_recorded_cases(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = {
        "coco-instances-layouts/result_json": "coco-instances",
        "coco-instances-layouts/images__annotations_coco_json": "coco-instances",
        "labelme-imagedata-only": "labelme",
        "labelme-other-encoding": "labelme",
        "png-pairs-two-channel": "png-pairs",
        "same-picture-twice-message/cvat": "cvat",
        "yolo-one-percent-outside/data": "yolo",
        "yolo-without-split-folders/data": "yolo",
        "yolo-without-split-folders/paths_in_yaml": "yolo",
        "category-names/dup": "custom",
    }
    for folder, command in expected.items():
        assert run("prepare-data", "auto", "--dry-run", "--root", str(shared / "cases" / folder)) == 0
        assert f"Command: panformer prepare-data {command} " in capsys.readouterr().out
