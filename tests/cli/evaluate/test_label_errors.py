"""`--label-errors` of `panformer evaluate`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.data.coco.pair_files import Pairs, write_pairs
from tests.helpers import run


@pytest.fixture
def pairs(tmp_path: Path) -> Pairs:
    return write_pairs(tmp_path / "data")


def test_the_number_of_each_kind_and_the_page_are_printed(
    pairs: Pairs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run("evaluate", *pairs.words, "--out", str(out), "--label-errors") == 0
    printed = capsys.readouterr().out
    assert printed.count("Probable label errors") == 2 and "missing annotation" in printed
    assert f"Probable label errors: {out / 'label_errors' / 'index.html'}" in printed
    assert (out / "label_errors" / "index.html").is_file()


def test_json_output_stays_that_of_the_metrics(
    pairs: Pairs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run("evaluate", *pairs.words, "--out", str(out), "--label-errors", "--json") == 0
    assert json.loads(capsys.readouterr().out) == json.loads((out / "metrics.json").read_text())
    assert json.loads((out / "label_errors.json").read_text())["suspects"] == []


def test_the_list_needs_a_folder(pairs: Pairs, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", *pairs.words, "--label-errors") == 2
    assert (
        "--label-errors writes a list and a page to the folder for the results: add --out DIR."
        in capsys.readouterr().err
    )


def test_the_limit_needs_the_list(pairs: Pairs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*pairs.words, "--out", str(tmp_path / "out"), "--label-errors-limit"]
    assert run("evaluate", *words, "5") == 2
    assert "add --label-errors." in capsys.readouterr().err
    assert run("evaluate", *words, "0", "--label-errors") == 2
    assert "0 is not in the range x>=1" in capsys.readouterr().err


def test_a_file_in_the_place_of_the_page(pairs: Pairs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*pairs.words, "--out", str(tmp_path / "out")]
    for _ in range(2):
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / "label_errors").write_text("mine")
        assert run("evaluate", *words, "--label-errors") == 2
        assert f"{tmp_path / 'out' / 'label_errors'} is a file, and a page needs a folder" in capsys.readouterr().err
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["label_errors"], "nothing was evaluated"
        assert (tmp_path / "out" / "label_errors").read_text() == "mine"
        assert not (tmp_path / "out" / "label_errors.json").exists()


def test_pages_of_other_programs_are_refused_before_the_evaluation(
    pairs: Pairs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, page in (
        (["--report", str(tmp_path / "report")], tmp_path / "report/index.html"),
        (["--label-errors"], tmp_path / "out/label_errors/index.html"),
        (["--label-errors"], tmp_path / "out/label_errors.json"),
    ):
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text("mine")
        assert run("evaluate", *pairs.words, "--out", str(tmp_path / "out"), *words) == 2
        assert f"{page} is not a " in capsys.readouterr().err
        assert page.read_text() == "mine" and not (tmp_path / "out/metrics.json").exists()
        page.unlink()
