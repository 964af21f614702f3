"""PQ under corruptions: selected images, resuming, means, and the paper's numbers."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest

from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from panformer_cli.data.corruptions.frost_texture import frost_source
from panformer_cli.data.structures import PanopticMap, Sample
from panformer_cli.engine.checkpoints.published import PUBLISHED
from panformer_cli.engine.evaluation.evaluate import Samples
from panformer_cli.engine.evaluation.result_store import ResultStore
from panformer_cli.engine.evaluation.robustness import (
    CorruptedImages,
    Robustness,
    RobustnessOptions,
    choose_images,
    measure_robustness,
    parse_corruptions,
    parse_severities,
)
from panformer_cli.errors import PanformerError
from tests.data.coco.coco_files import write_coco
from tests.engine.small import StopAfter


class GrayImages:
    """Ten gray images of 8 x 8 pixels with the ids 100 to 109."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int, /) -> Sample:
        if not 0 <= index < 10:
            raise IndexError(index)
        image = np.full((8, 8, 3), 10 + 5 * index, np.uint8)
        return Sample(image, PanopticMap(np.zeros((8, 8), np.int32), ()), 100 + index, f"{index}.png", f"{index}.png")


class MeanGray:
    """A fake model whose "PQ" is the mean gray level; it counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, samples: Samples) -> dict[str, Any]:
        self.calls += 1
        return {"pq": fmean(float(samples[index].image.mean()) for index in range(len(samples))), "n": len(samples)}


def measure(folder: Path, options: RobustnessOptions, model: MeanGray, **settings: Any) -> Robustness:
    return measure_robustness(GrayImages(), model, options, ResultStore(folder, settings), StopAfter())


def test_chosen_images_are_drawn_by_the_seed() -> None:
    chosen = choose_images(4, 0, 10)
    assert len(set(chosen)) == 4
    assert list(chosen) == sorted(chosen)
    assert set(chosen) <= set(choose_images(7, 0, 10)) <= set(range(10))
    assert len({choose_images(4, seed, 10) for seed in range(20)}) > 10
    assert choose_images(None, 3, 5) == choose_images(99, 3, 5) == (0, 1, 2, 3, 4)


def test_corrupted_images_keep_their_annotation(tmp_path: Path) -> None:
    write_coco(tmp_path)
    data = CocoPanoptic(tmp_path, "val")
    foggy = CorruptedImages(data, "fog", 2, seed=5)
    assert len(foggy) == len(data) == 3
    for index in range(3):
        before, after = data[index], foggy[index]
        assert (after.image == corrupt(before.image, "fog", 2, 5, before.image_id)).all()
        assert (after.image != before.image).any()
        assert (after.annotation.ids == before.annotation.ids).all()
        assert (after.image_id, after.file_name) == (before.image_id, before.file_name)


def test_an_image_is_corrupted_the_same_way_in_every_subset() -> None:
    alone = CorruptedImages(GrayImages(), "shot_noise", 3, 0)[7].image
    assert (CorruptedImages(GrayImages(), "shot_noise", 3, 0)[6].image != alone).any()
    assert (corrupt(GrayImages()[7].image, "shot_noise", 3, 0, 107) == alone).all()


def test_means_by_hand(tmp_path: Path) -> None:
    # Brightness adds 0.1, 0.2, ... of 255 to a gray level below 127, truncated; contrast leaves one color.
    options = RobustnessOptions(("brightness", "contrast"), (1, 2, 3))
    result = measure(tmp_path, options, MeanGray())
    clean = fmean(10 + 5 * index for index in range(10))
    brightness, contrast = result.rows
    expected = {1: clean + 25.5, 2: clean + 51, 3: clean + 76.5}
    for severity, level in expected.items():
        assert brightness.by_severity[severity] == pytest.approx(level - 0.5, abs=0.51)
    assert contrast.pq == pytest.approx(clean - 0.5, abs=0.51)
    assert (result.images, result.clean) == (10, clean)
    assert brightness.pq == pytest.approx(fmean(pq for pq in brightness.by_severity.values() if pq is not None))
    assert brightness.pq is not None and contrast.pq is not None and result.mean is not None
    assert result.mean == pytest.approx((brightness.pq + contrast.pq) / 2)
    assert result.kept == pytest.approx(100 * result.mean / clean)
    assert [row.group for row in result.rows] == ["digital", "digital"]
    assert json.loads(json.dumps(result.to_json()))["rows"][0]["corruption"] == "brightness"


def test_a_seeded_subset_is_evaluated(tmp_path: Path) -> None:
    options = RobustnessOptions(("contrast",), (1,), images=3, seed=4)
    result = measure(tmp_path, options, MeanGray())
    assert result.images == 3
    assert result.clean == pytest.approx(fmean(10 + 5 * index for index in choose_images(3, 4, 10)))


def test_finished_corruptions_are_not_evaluated_again(tmp_path: Path) -> None:
    first, second = MeanGray(), MeanGray()
    half = measure(tmp_path, RobustnessOptions(("fog",), (1, 2)), first, checkpoint="a.pt")
    assert first.calls == 3, "clean and two severities"
    whole = measure(tmp_path, RobustnessOptions(("fog", "snow"), (1, 2, 5)), second, checkpoint="a.pt")
    assert second.calls == 1 + 3
    assert whole.rows[0].by_severity[1] == half.rows[0].by_severity[1]
    unbroken = measure(tmp_path / "other", RobustnessOptions(("fog", "snow"), (1, 2, 5)), MeanGray(), checkpoint="a.pt")
    assert whole == unbroken


def test_an_interruption_keeps_finished_results(tmp_path: Path) -> None:
    class Stopped(MeanGray):
        def __call__(self, samples: Samples) -> dict[str, Any]:
            if self.calls == 3:
                raise KeyboardInterrupt
            return super().__call__(samples)

    options = RobustnessOptions(("fog", "snow"), (1, 2))
    with pytest.raises(KeyboardInterrupt):
        measure(tmp_path, options, Stopped())
    rest = MeanGray()
    measure(tmp_path, options, rest)
    assert rest.calls == 2


@pytest.mark.parametrize(
    ("settings", "options", "expected_message"),
    [
        ({"checkpoint": "b.pt"}, {}, "checkpoint 'a.pt', not 'b.pt'"),
        ({"checkpoint": "a.pt", "precision": "bf16"}, {}, "precision None, not 'bf16'"),
        ({"checkpoint": "a.pt"}, {"seed": 1}, "seed 0, not 1"),
        ({"checkpoint": "a.pt"}, {"images": 4}, "images 10, not 4"),
    ],
)
def test_other_settings_are_rejected(
    tmp_path: Path, settings: dict[str, str], options: dict[str, int], expected_message: str
) -> None:
    measure(tmp_path, RobustnessOptions(("fog",), (1,)), MeanGray(), checkpoint="a.pt")
    with pytest.raises(PanformerError) as caught:
        measure(tmp_path, RobustnessOptions(("fog",), (1,), **options), MeanGray(), **settings)
    assert expected_message in str(caught.value)
    assert "choose another folder" in str(caught.value)


def test_results_with_another_frost_texture_are_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = RobustnessOptions(("frost", "fog"), (1,))
    measure(tmp_path, options, MeanGray())
    now = frost_source()
    other = "generated" if now == "photographs" else "photographs"
    monkeypatch.setattr("panformer_cli.engine.evaluation.result_store.frost_source", lambda: other)
    model = MeanGray()
    with pytest.raises(PanformerError, match=f"frost_1.json was computed with frost {now!r}"):
        measure(tmp_path, options, model)
    measure(tmp_path, RobustnessOptions(("fog",), (1,)), model)
    assert model.calls == 0


@pytest.mark.parametrize("content", ["{", "[]", '{"settings": {}}', '{"settings": {}, "figures": {"pq": "high"}}'])
def test_a_corrupt_result_is_reported(tmp_path: Path, content: str) -> None:
    (tmp_path / "clean.json").write_text(content)
    with pytest.raises(PanformerError, match=r"clean\.json is corrupt .* delete it"):
        measure(tmp_path, RobustnessOptions(("fog",), (1,)), MeanGray())


def test_only_rank_0_writes(tmp_path: Path) -> None:
    store = ResultStore(tmp_path, {}, writes=False)
    measure_robustness(GrayImages(), MeanGray(), RobustnessOptions(("fog",), (1,)), store, StopAfter())
    assert list(tmp_path.iterdir()) == []


def test_results_and_the_frost_warning_are_reported(tmp_path: Path) -> None:
    reporter = StopAfter()
    options = RobustnessOptions(("frost",), (2,))
    measure_robustness(GrayImages(), MeanGray(), options, ResultStore(tmp_path, {}), reporter)
    assert reporter.messages[0] == "clean: PQ 32.5"
    assert reporter.messages[1].startswith("frost, severity 2: PQ ")
    assert all("not the published photographs" in warning for warning in reporter.warnings)


def test_the_means_of_the_paper_match_its_rows() -> None:
    assert {name for name, weights in PUBLISHED.items() if weights.robustness} == {"r50", "pvtv2b5", "swinl"}
    for paper in (weights.robustness for weights in PUBLISHED.values() if weights.robustness):
        assert len(paper.pq) == 16
        # The printed mean and its sixteen values are all rounded.
        assert fmean(paper.pq) == pytest.approx(paper.mean, abs=0.1)
        assert max(paper.pq) < paper.clean


def test_rows_have_the_value_of_the_paper(tmp_path: Path) -> None:
    options = RobustnessOptions(("fog", "motion_blur", "frost"), (1,))
    store = ResultStore(tmp_path, {})
    result = measure_robustness(GrayImages(), MeanGray(), options, store, StopAfter(), PUBLISHED["r50"].robustness)
    assert [row.paper for row in result.rows] == [41.9, 26.9, 32.3]
    assert result.paper is not None
    assert result.paper.mean == 32.9


@pytest.mark.parametrize(
    ("text", "expected"),
    [("all", CORRUPTIONS), ("fog", ("fog",)), (" snow, fog ,snow", ("snow", "fog"))],
)
def test_lists_of_corruptions(text: str, expected: tuple[str, ...]) -> None:
    assert parse_corruptions(text) == expected


@pytest.mark.parametrize(
    ("text", "expected_message"),
    [
        ("", "is empty"),
        (",", "is empty"),
        ("fog,snwo", "'snwo'; did you mean snow?"),
        ("all,fog", "unknown corruption 'all'"),
    ],
)
def test_invalid_lists_of_corruptions_are_reported(text: str, expected_message: str) -> None:
    with pytest.raises(PanformerError) as caught:
        parse_corruptions(text)
    assert expected_message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"), [("3", (3,)), ("1-5", SEVERITIES), ("5,1,1", (1, 5)), ("1-2, 4", (1, 2, 4)), ("2-2", (2,))]
)
def test_lists_of_severities(text: str, expected: tuple[int, ...]) -> None:
    assert parse_severities(text) == expected


@pytest.mark.parametrize("text", ["", "0", "6", "1-6", "5-1", "a", "1-", "-1", "1.5", "1--2", "1-999999999999", "1,,2"])
def test_invalid_severities_are_reported(text: str) -> None:
    with pytest.raises(PanformerError, match="severity"):
        parse_severities(text)


@pytest.mark.parametrize(
    ("wrong", "expected_message"),
    [
        ({"images": 0}, "number of images is 0; expected 1 or more"),
        ({"seed": -1}, "seed is -1; expected 0 or more"),
        ({"severities": (7,)}, "is 7; expected 1"),
        ({"corruptions": ()}, "at least one"),
        ({"corruptions": ("rain",)}, "unknown corruption 'rain'"),
    ],
)
def test_invalid_options_are_reported(wrong: dict[str, Any], expected_message: str) -> None:
    with pytest.raises(PanformerError) as caught:
        RobustnessOptions(**wrong)
    assert expected_message in str(caught.value)
