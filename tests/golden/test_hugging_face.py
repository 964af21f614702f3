"""Models of transformers, compared with recordings: the original projects' merging, and tiny models from image to map.

README.md describes the recordings. Another folder with such recordings, `*merge*` and `*e2e*`, can be given as
`--recordings`.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from panformer_cli.data.images import read_image
from panformer_cli.engine.inference import Predictor
from panformer_cli.models.hugging_face.architectures import ARCHITECTURES
from panformer_cli.models.hugging_face.folder import read_folder
from panformer_cli.models.hugging_face.instances import best_pairs, one_per_query
from panformer_cli.models.hugging_face.prediction import FoundSegment, QueryPrediction, Rules
from panformer_cli.models.hugging_face.query_masks import QueryMasks
from panformer_cli.models.hugging_face.settings import PostProcessing, QueryMergingSettings
from panformer_cli.recipe import Recipe
from tests.golden.conftest import recordings_folder
from tests.golden.hf_models import Filling, table_of, tiny_network
from tests.golden.recordings import Array, FidelityTable, relative
from tests.golden.release import DATA

pytestmark = pytest.mark.slow

LOGITS = 1e-4
"""Limit of logits: largest difference / largest value."""
PIXELS = {"ties": 0.0, "": 0.002}
"""Limit of the share of pixels that differ, by case; pixels of `ties` do not depend on rounding."""
MAP_PIXELS = 0.01
"""The same for the maps of whole models."""


@cache
def recording(path: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return the JSON and the arrays of a recording."""
    with np.load(path.with_suffix(".npz")) as arrays:
        return json.loads(path.read_text()), dict(arrays)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize tests by the recordings in the folder."""
    folder = recordings_folder(metafunc.config)
    for argument, pattern, section in (("merge_case", "*merge*", "results"), ("model_case", "*e2e*", "families")):
        if argument in metafunc.fixturenames:
            cases = [
                (path, key) for path in sorted(folder.glob(f"{pattern}.json")) for key in recording(path)[0][section]
            ]
            metafunc.parametrize(argument, cases, ids=[f"{path.stem}-{key}" for path, key in cases])


MergeCase = tuple[Path, str]


def prediction_of(path: Path, key: str, post_processing: PostProcessing = "original") -> QueryPrediction:
    """Return the prediction from recorded logits.

    Args:
        path: of the recording.
        key: `<architecture>/<case>`.
        post_processing: the setting.
    """
    notes, arrays = recording(path)
    name, case = key.split("/")
    about, architecture = notes["cases"][case], ARCHITECTURES[name]  # type: ignore[index]
    logits = [torch.from_numpy(arrays[f"{case}/{kind}_logits_x8"].astype(np.float32) / 8) for kind in ("class", "mask")]
    resized, size = tuple(about["resized"]), tuple(about["image_size"])
    canvas = resized if name == "detr" else tuple(about["padded"])
    labels, things = about["num_classes"], about["things"]
    rules = Rules(
        architecture,
        tuple(range(labels)),
        tuple(None if label < things else label for label in range(labels)),
        table_of(labels, things),
    )
    settings = QueryMergingSettings(score_threshold=architecture.score_threshold, post_processing=post_processing)
    return QueryPrediction(QueryMasks(logits[0], logits[1], canvas, resized, size), rules, settings)


def listed(segments: list[FoundSegment]) -> list[tuple[int, int]]:
    return [(segment.id, segment.label) for segment in segments]


def recorded(rows: list[dict[str, int]]) -> list[tuple[int, int]]:
    return [(row["id"], row["label"]) for row in rows]


def test_merging_is_that_of_the_original_project(merge_case: MergeCase, fidelity: FidelityTable) -> None:
    path, key = merge_case
    notes, arrays = recording(path)
    name, case = key.split("/")
    ids, segments = prediction_of(path, key).label_map()
    assert listed(segments) == recorded(notes["results"][key]["segments"])
    share = float((ids != arrays[f"{key}/ids"]).mean())
    limit = PIXELS.get(case, PIXELS[""])
    fidelity.measure(f"merging, {case}: share of differing pixels", name, share, limit)


@pytest.mark.parametrize("post_processing", ["transformers", "transformers_defaults"])
def test_the_post_processing_of_transformers_can_be_used(
    merge_case: MergeCase, post_processing: PostProcessing
) -> None:
    pytest.importorskip("transformers", reason="needs panformer[hf]")
    path, key = merge_case
    notes, arrays = recording(path)
    expected = notes["results"][key][{"transformers": "transformers_matched"}.get(post_processing, post_processing)]
    prediction = prediction_of(path, key, post_processing)
    ids, segments = prediction.label_map()
    assert listed(segments) == recorded(expected["segments"])
    assert np.count_nonzero(ids == 0) == pytest.approx(expected["void_pixels"], abs=0.002 * ids.size)
    if post_processing == "transformers":
        assert float((ids != arrays[f"{key}/transformers_ids"]).mean()) <= PIXELS[""]
    assert {segment.id for segment in prediction.panoptic.segments} <= {segment.id for segment in segments}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("networks")


def test_a_model_gives_the_recorded_map(model_case: tuple[Path, str], folders: Path, fidelity: FidelityTable) -> None:
    path, name = model_case
    notes, arrays = recording(path)
    about = notes["families"][name]
    image = read_image(DATA / notes["image"])
    size = (image.shape[0], image.shape[1])
    predictor = predictor_of(notes, name, folders / f"{path.stem}-{name}")
    assert list(predictor.input_size(size)) == about["resized"]
    images, padding_mask = predictor.prepare([image])
    assert list(images.shape[-2:]) == about["input_size"]
    output = predictor.infer(images, padding_mask)

    def measure(what: str, ours: Array, theirs: str, limit: float) -> None:
        fidelity.measure(f"tiny models: {what}", name, relative(ours, arrays[f"{name}/{theirs}"]), limit)

    stride, by_class, by_mask = about["pixel_stride"], about["class_stride"], about["mask_stride"]
    measure("input", images[0, :, ::stride, ::stride].numpy(), "pixel_values", 1e-6)
    measure("class logits", output.class_logits[0, :, ::by_class].numpy(), "class_logits", LOGITS)
    measure("mask logits", output.mask_logits[0, :, ::by_mask, ::by_mask].numpy(), "mask_logits", LOGITS)
    prediction = predictor.postprocess(output, 0, size)
    assert isinstance(prediction, QueryPrediction)
    for threshold, ids_name, rows in ((None, "ids", "segments"), (0.5, "ids_score_0.5", "segments_score_05")):
        settings = prediction.settings if threshold is None else replace(prediction.settings, score_threshold=threshold)
        ids, segments = replace(prediction, settings=settings).label_map()
        assert listed(segments) == recorded(about[rows])
        share = float((ids != arrays[f"{name}/{ids_name}"]).mean())
        fidelity.measure("tiny models, panoptic map: share of differing pixels", name, share, MAP_PIXELS)
    check_instances(prediction.masks, name, about)


def predictor_of(notes: dict[str, Any], name: Any, folder: Path) -> Predictor:
    """Return the recorded model, saved by transformers and loaded from there."""
    about = notes["families"][name]
    network = tiny_network(name)
    Filling(about["salt"], about["class_gain"], about["mask_gain"], about["shift"]).fill(network)
    assert sum(parameter.numel() for parameter in network.parameters()) == about["parameters"]
    network.save_pretrained(folder)
    saved = read_folder(folder)
    data = saved.data
    if not name.startswith("eomt"):
        data = replace(data, short_side=notes["short"], long_side=notes["longest"])
    recipe = Recipe(model=saved.model, inference=saved.inference, data=data)
    return Predictor(saved.load(), recipe, torch.device("cpu"))


def check_instances(masks: QueryMasks, name: Any, about: dict[str, Any]) -> None:
    """Compare the best instances. The list of DETR also has stuff."""
    architecture = ARCHITECTURES[name]
    labels = range(250 if name == "detr" else 80)
    instances = one_per_query(masks, labels) if name == "detr" else best_pairs(masks, architecture.instances, labels)
    found = sorted(instances, key=lambda instance: -instance.score)
    assert len(found) == about["instances_count"]
    for instance, (label, score, area) in zip(found, about["instances_top"], strict=False):
        assert instance.label == label
        assert instance.score == pytest.approx(score, abs=1e-3)
        assert instance.area == pytest.approx(area, abs=0.01 * masks.size[0] * masks.size[1])
