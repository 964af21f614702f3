"""Comparing run folders, checkpoints, result folders and predictions; ties, and too few images."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from panformer_cli.cli.evaluate.compare import compare as command
from panformer_cli.engine.evaluation.compare import CompareOptions, EvaluatedSet, compare_sets, few_images_note
from panformer_cli.engine.evaluation.compare_inputs import compare_inputs, evaluation_of
from panformer_cli.engine.evaluation.evaluate import EvaluateRequest, evaluate
from panformer_cli.engine.runs import RunFolder
from panformer_cli.errors import DataError
from panformer_cli.metrics.bootstrap import images_needed
from panformer_cli.metrics.image_overlap import ImageOverlap
from panformer_cli.reporting import SilentReporter
from tests.engine.evaluation.test_compare import A, B, folder_of
from tests.engine.small import ALONE
from tests.metrics.test_bootstrap import TABLE
from tests.pages.html import Html

OPTIONS = CompareOptions(resamples=20)


@pytest.fixture(scope="module")
def evaluated(trained: RunFolder, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    copy = RunFolder(shutil.copytree(trained.path, tmp_path_factory.mktemp("evaluated") / "run"))
    evaluate(EvaluateRequest(copy.best, copy.path / "evaluation", scenes, "val"), ALONE, SilentReporter())
    return copy


@pytest.fixture
def run(evaluated: RunFolder, tmp_path: Path) -> RunFolder:
    """Return a copy of a run that is evaluated."""
    return RunFolder(shutil.copytree(evaluated.path, tmp_path / "run"))


@pytest.mark.slow
def test_runs_checkpoints_folders_and_predictions_can_be_mixed(run: RunFolder, scenes: Path) -> None:
    results = run.path / "evaluation"
    annotation = scenes / "annotations" / "panoptic_val.json"
    for first, second in ((run.path, run.best), (results, run.path), (run.best, results / "panoptic.json")):
        found = compare_inputs((first, second), annotation, None, OPTIONS, SilentReporter())
        assert found.names == (str(first), str(second)) and found.images == 4
        assert found.verdict("all") == "same" and found.to_json()["same"] == {"all": 1, "things": 1, "stuff": 1}


@pytest.mark.slow
def test_an_evaluation_of_other_weights_is_not_used(run: RunFolder) -> None:
    os.utime(run.best, (1, 1))
    for given in (run.path, run.best, run.last):
        with pytest.raises(DataError, match=rf"of other weights.*first: panformer evaluate {given}; to keep both"):
            evaluation_of(given)
    assert evaluation_of(run.path / "evaluation") == run.path / "evaluation"


@pytest.mark.slow
def test_a_run_that_was_moved_keeps_its_evaluation(run: RunFolder, tmp_path: Path) -> None:
    moved = RunFolder(Path(shutil.move(run.path, tmp_path / "elsewhere")))
    for given in (moved.path, moved.best):
        assert evaluation_of(given) == moved.path / "evaluation"


@pytest.mark.parametrize("name", ["", "best.safetensors"])
def test_what_is_not_evaluated_is_reported_with_the_command(trained: RunFolder, tmp_path: Path, name: str) -> None:
    copy = shutil.copytree(trained.path, tmp_path / "run")
    with pytest.raises(DataError, match=rf"has no evaluation in {copy}/evaluation; .*evaluate {copy / name}$"):
        evaluation_of(copy / name)


def compared(first: Sequence[ImageOverlap], second: Sequence[ImageOverlap]) -> dict[str, object]:
    sets = (EvaluatedSet("A", TABLE, first), EvaluatedSet("B", TABLE, second))
    return compare_sets(sets[0], sets[1], OPTIONS).to_json()


def test_ties_are_named(tmp_path: Path) -> None:
    assert compared(A, A)["verdict"] == {"all": "same", "things": "same", "stuff": "same"}
    folders = [str(folder_of(tmp_path / name, overlaps)) for name, overlaps in (("a", A), ("b", A), ("c", B))]
    printed = CliRunner().invoke(command, folders[:2], catch_exceptions=False).output
    assert printed.count("the same") == 3 and "0.0 to 0.0" in printed and "better  " not in printed
    printed = CliRunner().invoke(command, folders[1:], catch_exceptions=False).output
    assert "B is better" in printed and "the same" not in printed
    printed = CliRunner().invoke(command, folders[:0:-1], catch_exceptions=False).output
    assert "A is better" in printed


def test_a_few_images_are_not_significant() -> None:
    """One image has an interval without width: every resample is that image."""
    content = compared(A[:1], B[:1])
    assert content["verdict"] == {"all": "chance", "things": "same", "stuff": "chance"}
    assert "1 image cannot show a difference of 1 point" in few_images_note(content)
    assert "at least 10 images are needed" in few_images_note(content)


def test_equal_sets_do_not_ask_for_more_images() -> None:
    assert few_images_note(compared(A[:2], A[:2])) == ""


def test_the_number_of_images_for_one_point() -> None:
    """With as many images as it says, 1.96 standard errors of a mean are one point, by simulation."""
    rng = np.random.default_rng(0)
    spread = 12.0
    error = spread / math.sqrt(50)
    needed = images_needed(error, 50)
    means = rng.normal(0, spread, (4000, needed)).mean(axis=1)
    assert 1.96 * means.std() == pytest.approx(1, rel=0.05)
    assert images_needed(error, 50, points=2) == pytest.approx(needed / 4, abs=1)


def test_the_note_names_the_number_of_images() -> None:
    content = compared(A, B)
    needed = content["images_needed"]
    assert isinstance(needed, dict) and needed["all"] > 12
    assert f"12 images cannot show a difference of 1 point of PQ between these two: about {needed['all']} images" in (
        few_images_note(content)
    )


def test_different_images_under_one_id_are_refused() -> None:
    renamed = [replace(overlap, file_name=f"other_{overlap.file_name}") for overlap in B]
    with pytest.raises(DataError) as caught:
        compared(A, renamed)
    assert "different file names under 12 of 12 image ids (image 100 is 100.jpg and other_100.jpg; " in str(
        caught.value
    )
    assert "and 9 more" in str(caught.value)


def test_ids_as_text_are_named() -> None:
    with pytest.raises(DataError, match=r"the image ids are numbers in A \(100\) and text in B \('100'\)"):
        compared(A, [replace(overlap, image_id=str(overlap.image_id)) for overlap in B])


def test_the_page(tmp_path: Path) -> None:
    first, second = folder_of(tmp_path / "a<b>", A), folder_of(tmp_path / "b", B)
    arguments = [str(first), str(second), "--report", str(tmp_path / "report"), "--json"]
    printed = CliRunner().invoke(command, arguments, catch_exceptions=False).stdout
    content = json.loads(printed)
    page = Html.of_file(tmp_path / "report" / "index.html")
    for text in (str(first), f"{content['a']['all']['pq']:.1f}", f"{content['difference']['all']['pq']:.1f}"):
        assert text in page.text
    assert "B is better" in page.text and "cannot show a difference of 1 point" in page.text
    assert len(page.all("table")) == 3
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"index.html"}
