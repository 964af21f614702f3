"""The cache of tuning gives the results of merging, at any thresholds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from panformer_cli.errors import DataError
from panformer_cli.metrics.image_overlap import compare
from panformer_cli.models.knet.family import KNetFamily
from panformer_cli.models.knet.merge_cache import WinnerCache
from panformer_cli.models.knet.output import KNetOutput
from panformer_cli.models.knet.postprocessing import KernelPrediction, scored_masks
from panformer_cli.models.knet.settings import WinnerSettings
from tests.models.knet.test_postprocessing import output_of
from tests.models.panoptic_segformer.test_merge_cache import SIZE, TABLE, THINGS, sample_of, without_boxes


def prediction_of(output: KNetOutput, settings: WinnerSettings) -> KernelPrediction:
    return KernelPrediction(scored_masks(output, 0, SIZE, THINGS), TABLE, settings)


@pytest.mark.parametrize("seed", range(4))
def test_cached_images_give_the_results_of_merging(seed: int, tmp_path: Path) -> None:
    output, sample, family = output_of(seed), sample_of(seed), KNetFamily()
    family.tuning_cache(prediction_of(output, WinnerSettings()), sample).save(tmp_path / "a.json")
    cached = family.load_tuning_cache(tmp_path / "a.json")
    numbers = set()
    for score in (0.0, 0.3, 0.5, 0.7, 0.95, 1.0):
        for won in (0.0, 0.3, 0.6, 1.0):
            settings = WinnerSettings(score, won)
            live = prediction_of(output, settings).panoptic
            expected = compare(live, sample.annotation, sample.image_id, sample.file_name)
            assert without_boxes(cached.overlap(settings, TABLE)) == without_boxes(expected)
            numbers.add(len(live.segments))
    assert len(numbers) > 2


def test_an_image_whose_pixels_are_won_by_one_kernel(tmp_path: Path) -> None:
    output, sample = output_of(0), sample_of(0)
    output = output._replace(masks=torch.full_like(output.masks, -50.0))
    output.masks[:, 0] = 50.0
    cached = KNetFamily().tuning_cache(prediction_of(output, WinnerSettings()), sample)
    assert len(cached.overlap(WinnerSettings(0.0, 0.0), TABLE).predictions) == 1
    assert cached.overlap(WinnerSettings(1.0, 0.0), TABLE).predictions == ()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"whole": 3, "own": []}', '{"own": [1]}', "[" * 100_000])
def test_a_corrupt_file_is_reported(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"a\.json is corrupt: .*; delete it and run the command again"):
        WinnerCache.load(path)
