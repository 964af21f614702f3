"""Comparing two evaluations: metrics, changes, and sets that cannot be compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.engine.evaluation.compare import CompareOptions, Comparison, EvaluatedSet, compare_sets
from panformer_cli.engine.evaluation.compare_inputs import compare_inputs
from panformer_cli.errors import DataError
from panformer_cli.metrics.bootstrap import paired_intervals
from panformer_cli.metrics.image_overlap import ImageOverlap
from panformer_cli.metrics.quality import PanopticQuality, PanopticResult
from panformer_cli.reporting import SilentReporter
from tests.metrics.test_bootstrap import TABLE, record_of, resamples_of
from tests.storage.test_plain_json import nested

OPTIONS = CompareOptions(resamples=30, seed=2, listed=3)


def overlaps_of(noise: float, count: int = 12) -> list[ImageOverlap]:
    return [record_of(seed, 100 + seed, noise) for seed in range(count)]


def result_of(overlaps: Sequence[ImageOverlap]) -> PanopticResult:
    quality = PanopticQuality(TABLE)
    for overlap in overlaps:
        quality.update(overlap)
    return quality.result()


def folder_of(path: Path, overlaps: Sequence[ImageOverlap]) -> Path:
    """Write a result folder as an evaluation does, and return its path."""
    path.mkdir()
    (path / "records.jsonl").write_text("".join(json.dumps(overlap.to_json()) + "\n" for overlap in overlaps))
    (path / "metrics.json").write_text(json.dumps({"images": len(overlaps), "categories": TABLE.to_coco()}))
    return path


def compare_folders(first: Path, second: Path, options: CompareOptions) -> Comparison:
    return compare_inputs((first, second), None, None, options, SilentReporter())


A, B = overlaps_of(noise=0.4), overlaps_of(noise=0.15)


def test_metrics_intervals_and_shares(tmp_path: Path) -> None:
    found = compare_folders(folder_of(tmp_path / "a", A), folder_of(tmp_path / "b", B[::-1]), OPTIONS)
    before, after = result_of(A), result_of(B)
    assert (found.first, found.second, found.images) == (before, after, 12)
    assert found.paired == paired_intervals(resamples_of(A, 30, 2), resamples_of(B, 30, 2))
    assert found.difference()["stuff"]["rq"] == after.stuff.rq - before.stuff.rq
    content = json.loads(json.dumps(found.to_json()))
    assert (content["a"]["name"], content["b"]["name"]) == (str(tmp_path / "a"), str(tmp_path / "b"))
    assert content["a"]["all"]["pq"] == before.all.pq < content["b"]["all"]["pq"] == after.all.pq
    low, high = content["difference"]["intervals"]["all"]["pq"]
    assert low < content["difference"]["all"]["pq"] < high
    assert content["better"]["all"] == 1.0
    assert (content["resamples"], content["seed"], content["images"]) == (30, 2, 12)


def test_what_changed_most() -> None:
    found = compare_sets(EvaluatedSet("A", TABLE, A), EvaluatedSet("B", TABLE, B), OPTIONS)
    alone = {
        one.file_name: result_of([other]).all.pq - result_of([one]).all.pq for one, other in zip(A, B, strict=True)
    }
    ordered = sorted(alone, key=lambda name: alone[name], reverse=True)
    assert [change.file_name for change in found.gained] == ordered[:3]
    assert [change.file_name for change in found.lost] == [name for name in ordered[:-4:-1] if alone[name] < 0]
    for change in (*found.gained, *found.lost):
        assert change.difference == pytest.approx(alone[change.file_name])
        assert change.difference == change.second - change.first
    differences = [row.difference for row in found.classes]
    assert differences == sorted(differences, key=lambda value: -(value or 0))
    by_id = {row.category_id: row.pq for row in result_of(B).categories}
    assert {row.category_id: row.second for row in found.classes} == by_id
    assert len(found.classes) == 5


def test_swapping_the_sets_flips_every_sign() -> None:
    sets = EvaluatedSet("A", TABLE, A), EvaluatedSet("B", TABLE, B)
    forth, back = compare_sets(*sets, OPTIONS), compare_sets(*sets[::-1], OPTIONS)
    assert forth.gained[0].difference == -back.lost[0].difference
    low, high = forth.paired.difference.all.pq
    assert back.paired.difference.all.pq == pytest.approx((-high, -low))
    assert back.classes[-1].category_id == forth.classes[0].category_id


def test_a_class_that_only_one_side_predicts_has_no_difference() -> None:
    one = A[0]
    new = Category(77, "new", True)
    categories = CategoryTable([*TABLE.categories, new])
    renamed = tuple(replace(segment, category_id=77) for segment in one.predictions)
    first, second = ([one], [replace(one, predictions=renamed)])
    found = compare_sets(EvaluatedSet("A", categories, first), EvaluatedSet("B", categories, second), OPTIONS)
    assert found.classes[-1].category_id == 77
    assert (found.classes[-1].first, found.classes[-1].second, found.classes[-1].difference) == (None, 0.0, None)


@pytest.mark.parametrize(("first", "second", "message"), [
    (A, B[:10], r"^A has 2 images \(110\.jpg, 111\.jpg\) that B lacks; expected the same images; evaluate both on one"),
    (A[3:], B[:11], r"^A has 1 image .*\(111\.jpg\) that B lacks and B has 3 images \(100\.jpg, 101\.jpg, 102\.jpg\) "),
    (A, [], r"A has 12 images \(100\.jpg, .*, 104\.jpg, and 7 more\) that B lacks"),
    (A, [*B[:-1], replace(B[-1], truth=B[-1].truth[::-1])], r"different ground truth for 1 image \(111"),
    (A, [*B, B[0]], r"^B: image 100 \(100\.jpg\) appears twice; expected every image once"),
    ([], [], "of 0 images"),
])  # fmt: skip
def test_sets_that_cannot_be_compared(first: list[ImageOverlap], second: list[ImageOverlap], message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        compare_sets(EvaluatedSet("A", TABLE, first), EvaluatedSet("B", TABLE, second), OPTIONS)
    assert "\n" not in str(error.value)


def test_other_categories_are_refused() -> None:
    fewer = CategoryTable(TABLE.categories[1:])
    with pytest.raises(DataError, match="^A and B have different categories"):
        compare_sets(EvaluatedSet("A", TABLE, A), EvaluatedSet("B", fewer, B), OPTIONS)


def _spoil(folder: Path, **content: Any) -> None:
    (folder / "metrics.json").write_text(json.dumps(content))


def test_folders_without_an_evaluation(tmp_path: Path) -> None:
    good = folder_of(tmp_path / "good", A)
    with pytest.raises(DataError, match=r"none does not exist; expected a folder that .* --annotations GT\.json"):
        compare_folders(good, tmp_path / "none", OPTIONS)
    with pytest.raises(DataError, match=r"metrics\.json is a file; expected a folder"):
        compare_folders(good / "metrics.json", good, OPTIONS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty has no metrics\.json; expected the result folder of an evaluation by"):
        compare_folders(good, tmp_path / "empty", OPTIONS)
    no_overlaps = folder_of(tmp_path / "old", A)
    (no_overlaps / "records.jsonl").unlink()
    with pytest.raises(DataError, match=r"old has no records\.jsonl"):
        compare_folders(no_overlaps, good, OPTIONS)
    corrupt = folder_of(tmp_path / "corrupt", A)
    _spoil(corrupt, images=12)
    with pytest.raises(
        DataError, match=r"corrupt.metrics\.json is corrupt or from another version: KeyError.*evaluate"
    ):
        compare_folders(good, corrupt, OPTIONS)
    (corrupt / "metrics.json").write_text(f'{{"categories": {nested(5000)}}}')
    with pytest.raises(DataError, match=r"metrics\.json is corrupt or from another version: .*levels deep"):
        compare_folders(good, corrupt, OPTIONS)


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"image_id": 3}', "null", '"text"'])
def test_a_corrupt_line_is_named(line: str, tmp_path: Path) -> None:
    good, corrupt = folder_of(tmp_path / "good", A), folder_of(tmp_path / "corrupt", A[:4])
    with (corrupt / "records.jsonl").open("a") as file:
        file.write(line)
    with pytest.raises(DataError, match=r"records\.jsonl, line 5 is corrupt or truncated: .*; evaluate again"):
        compare_folders(good, corrupt, OPTIONS)
