"""The cache of `evaluate tune` gives the result of merging at any of its thresholds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from panformer_cli.data.coco.panoptic_writer import segments_of
from panformer_cli.data.structures import PanopticMap, Sample
from panformer_cli.errors import DataError, PanformerError
from panformer_cli.metrics.image_overlap import ImageOverlap, compare
from panformer_cli.models.families import FAMILIES
from panformer_cli.models.hugging_face.architectures import ARCHITECTURES, ArchitectureName
from panformer_cli.models.hugging_face.prediction import QueryPrediction, Rules
from panformer_cli.models.hugging_face.query_masks import QueryMasks
from panformer_cli.models.hugging_face.settings import QueryMergingSettings
from tests.golden.hf_models import table_of

SIZE = (30, 40)
TABLE = table_of(5, 3)
FAMILY = FAMILIES["hugging_face"]


def prediction_of(name: ArchitectureName, seed: int, score_threshold: float = 0.8) -> QueryPrediction:
    """Return random masks, blobs of a few cells, of queries whose scores are spread; label 5 has no category."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randn(12, 7, generator=generator) * 3
    masks = torch.randn(12, 6, 8, generator=generator) * 4
    rules = Rules(ARCHITECTURES[name], (0, 1, 2, 3, 4, -1), (None, None, None, 3, 4, None), TABLE)
    settings = QueryMergingSettings(score_threshold=score_threshold)
    return QueryPrediction(QueryMasks(classes, masks, (32, 40), (30, 40), SIZE), rules, settings)


@pytest.fixture
def sample() -> Sample:
    blocks = np.random.default_rng(1).integers(0, 5, (3, 4)).astype(np.int32)
    ids = np.kron(blocks, np.ones((10, 10), np.int32))
    truth = PanopticMap(ids, segments_of(ids, {1: 0, 2: 1, 3: 3, 4: 4}))
    return Sample(np.zeros((*SIZE, 3), np.uint8), truth, 7, "a.jpg", "a.png")


def without_boxes(overlap: ImageOverlap) -> ImageOverlap:
    segments = tuple(replace(segment, bbox=(0, 0, 0, 0)) for segment in overlap.predictions)
    return replace(overlap, predictions=segments)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mask2former", "maskformer", "detr"])
def test_it_equals_merging_at_every_setting(name: ArchitectureName, sample: Sample, tmp_path: Path) -> None:
    prediction = prediction_of(name, seed=2, score_threshold=0.72)
    FAMILY.tuning_cache(prediction, sample).save(tmp_path / "7.json")
    cache = FAMILY.load_tuning_cache(tmp_path / "7.json")
    numbers = set()
    grid = prediction.settings.grid
    for score in (*grid["score_threshold"], 0.72):
        for overlap in grid["overlap_threshold"]:
            settings = replace(prediction.settings, score_threshold=score, overlap_threshold=overlap)
            panoptic = replace(prediction, settings=settings).panoptic
            expected = without_boxes(compare(panoptic, sample.annotation, 7, "a.jpg"))
            actual = cache.overlap(settings, TABLE)
            assert actual.predictions == expected.predictions
            assert np.array_equal(actual.overlap, expected.overlap)
            assert (actual.truth, actual.size, actual.image_id) == (expected.truth, expected.size, 7)
            numbers.add(len(actual.predictions))
    assert len(numbers) > 2, "the thresholds matter"


def test_only_the_original_rules_can_be_tuned(sample: Sample) -> None:
    prediction = prediction_of("mask2former", seed=2)
    prediction = replace(prediction, settings=QueryMergingSettings(post_processing="transformers"))
    with pytest.raises(PanformerError, match="inference.post_processing is transformers"):
        FAMILY.tuning_cache(prediction, sample)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"rounds": [{}]}'])
def test_a_corrupt_file(content: str, tmp_path: Path) -> None:
    (tmp_path / "7.json").write_text(content)
    with pytest.raises(DataError, match="is corrupt"):
        FAMILY.load_tuning_cache(tmp_path / "7.json")
