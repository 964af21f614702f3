"""Tuning: the cache gives the same results as the model, the search finds the best, and gains are held-out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.structures import PanopticMap, Sample, Segment
from panformer_cli.engine.checkpoints.checkpoint import load_model, read_checkpoint, read_training_state
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.evaluation import tune as tuning_module
from panformer_cli.engine.evaluation.compare import CompareOptions
from panformer_cli.engine.evaluation.tune import (
    CachedImages,
    Search,
    TuneRequest,
    cached_images,
    halves,
    save_thresholds,
    search_and_judge,
    tune,
    tuned_path,
)
from panformer_cli.engine.inference import Predictor
from panformer_cli.engine.runs import RunFolder
from panformer_cli.errors import DataError, PanformerError
from panformer_cli.metrics.image_overlap import compare
from panformer_cli.metrics.quality import PanopticQuality
from panformer_cli.models.families import FAMILIES
from panformer_cli.models.panoptic_segformer.merge_cache import MergeCache, cache_of
from panformer_cli.models.panoptic_segformer.postprocessing import Candidates, merge_masks
from panformer_cli.models.panoptic_segformer.settings import MergingSettings
from panformer_cli.reporting import SilentReporter
from panformer_cli.settings import InferenceSettings
from tests.engine.ranks import in_processes
from tests.engine.small import ALONE, small_scenes
from tests.models.panoptic_segformer.small import table
from tests.models.panoptic_segformer.test_merge_cache import SIZE, candidates_of, sample_of, without_boxes
from tests.release_files import save_as_mmcv, stub_state

TABLE = table(things=3, stuff=2)
QUIET = SilentReporter()
OTHER = MergingSettings(score_threshold=0.35, thing_overlap=0.7, stuff_overlap=0.1)


@pytest.mark.slow
def test_cached_images_give_the_same_results_as_the_model(trained: RunFolder, scenes: Path, tmp_path: Path) -> None:
    request = TuneRequest(trained.best, tmp_path / "out", options=CompareOptions(resamples=20))
    tuning = tune(request, ALONE, QUIET)
    checkpoint, data = read_checkpoint(trained.best), CocoPanoptic(scenes, "val")
    predictor = Predictor.of(checkpoint, ALONE)
    files = cached_images(checkpoint, data, request, QUIET)
    load_cache = FAMILIES[checkpoint.recipe.model.family].load_tuning_cache
    segments = 0
    for sample, file in zip(data, files, strict=True):
        live = compare(predictor(sample.image).panoptic, sample.annotation, sample.image_id, sample.file_name)
        kept = load_cache(file).overlap(checkpoint.recipe.inference, checkpoint.categories)
        assert without_boxes(kept) == without_boxes(live)
        segments += len(live.predictions)
    assert segments > 0
    assert tuning.cache_bytes == sum(file.stat().st_size for file in files)
    content = json.loads((tmp_path / "out" / "tune.json").read_text())
    assert content == json.loads(json.dumps(tuning.to_json()))
    assert content["before"] == {"top_k": 100, "score_threshold": 0.0, "thing_overlap": 0.4, "stuff_overlap": 0.2}
    assert content["searched"]["images"] == content["held_out"]["images"] == 2
    assert content["searched"]["pq_after"] >= content["searched"]["pq_before"]


@pytest.mark.slow
def test_an_interrupted_run_can_be_resumed(
    trained: RunFolder, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = TuneRequest(trained.best, tmp_path, options=CompareOptions(resamples=5))
    first = tune(request, ALONE, QUIET)
    files = cached_images(read_checkpoint(trained.best), CocoPanoptic(scenes, "val"), request, QUIET)
    before = [file.stat().st_mtime_ns for file in files]
    files[2].unlink()
    assert tune(request, ALONE, QUIET).to_json() == first.to_json()
    assert [old == file.stat().st_mtime_ns for old, file in zip(before, files, strict=True)] == [1, 1, 0, 1]
    monkeypatch.setattr(tuning_module, "_predict_missing", None)  # there is nothing left to predict
    assert tune(request, ALONE, QUIET).to_json() == first.to_json()


@pytest.mark.slow
def test_the_cache_depends_on_checkpoint_and_split(trained: RunFolder, scenes: Path, tmp_path: Path) -> None:
    checkpoint, request = read_checkpoint(trained.best), TuneRequest(trained.best, tmp_path)
    val, train = CocoPanoptic(scenes, "val"), CocoPanoptic(scenes, "train")
    folders = [
        cached_images(checkpoint, val, request, QUIET)[0].parent,
        cached_images(checkpoint, train, request, QUIET)[0].parent,
        cached_images(read_checkpoint(trained.last), val, request, QUIET)[0].parent,
        cached_images(checkpoint, val, replace(request, precision="bf16"), QUIET)[0].parent,
    ]
    assert len(set(folders)) == 4


def tune_in(process: Process, request: TuneRequest) -> tuple[InferenceSettings, dict[str, Any]]:
    tuning = tune(request, process, QUIET)
    return tuning.after, tuning.held_out.to_json()


@pytest.mark.slow
def test_processes_share_the_images(trained: RunFolder, tmp_path: Path) -> None:
    options = CompareOptions(resamples=5)
    one = tune(TuneRequest(trained.best, tmp_path / "1", options=options), ALONE, QUIET)
    ranks = in_processes(2, tune_in, TuneRequest(trained.best, tmp_path / "2", options=options))
    assert ranks == 2 * [(one.after, one.held_out.to_json())]


def blobs(folder: Path, count: int) -> tuple[CachedImages, list[tuple[Candidates, Sample]]]:
    """Return images as cache files and in memory; other thresholds than the recipe's are better for them."""
    images = []
    for seed in range(count):
        candidates, sample = candidates_of(seed), sample_of(seed)
        merged = merge_masks(candidates, TABLE, MergingSettings(score_threshold=0.2, thing_overlap=0.6))
        images.append((candidates, replace(sample, annotation=replace(merged, ids=np.roll(merged.ids, 1, axis=1)))))
    files = [folder / f"{index:06d}.npz" for index in range(count)]
    for file, (candidates, sample) in zip(files, images, strict=True):
        cache_of(candidates, sample, 0.05).save(file)
    return CachedImages(files, MergeCache.load), images


def test_no_single_threshold_could_be_better(tmp_path: Path) -> None:
    cached, images = blobs(tmp_path, 4)

    def quality_at(settings: InferenceSettings) -> float:
        assert isinstance(settings, MergingSettings)
        quality = PanopticQuality(TABLE)
        for candidates, sample in images:
            merged = merge_masks(candidates, TABLE, settings)
            quality.update(compare(merged, sample.annotation, sample.image_id, sample.file_name))
        return quality.result().all.pq

    start = MergingSettings(score_threshold=0.6, thing_overlap=0.1, stuff_overlap=0.1)
    search = Search(cached, TABLE, QUIET)
    best = search.best_from(start)
    assert search.known[best] == quality_at(best) > search.known[start] == quality_at(start)
    assert best.grid == MergingSettings.grid
    for name, values in best.grid.items():
        for value in values:
            changed = replace(best, **{name: value})
            assert quality_at(changed) <= search.known[best]


def faint_objects(folder: Path, count: int, score: float) -> CachedImages:
    """Return images with one object each and a perfect candidate of about this score."""
    files = [folder / f"{index:06d}.npz" for index in range(count)]
    for index, file in enumerate(files):
        mask = np.zeros((1, *SIZE), np.float32)
        mask[0, 2 : 12 + index % 5, 3:20] = 1
        candidates = Candidates(np.array([0]), np.array([score], np.float32), mask, np.zeros((1, 4), np.float32), SIZE)
        segment = Segment(1, TABLE.by_label(0).id, int(mask.sum()), (0, 0, 1, 1))
        truth = PanopticMap(mask[0].astype(np.int32), (segment,))
        sample = Sample(np.zeros((*SIZE, 3), np.uint8), truth, index, f"{index}.jpg", f"{index}.png")
        cache_of(candidates, sample, 0.05).save(file)
    return CachedImages(files, MergeCache.load)


def test_a_gain_is_reported_with_its_interval(tmp_path: Path) -> None:
    images = faint_objects(tmp_path, 19, score=0.22)
    tuning = search_and_judge(images, MergingSettings(), TABLE, CompareOptions(resamples=50), QUIET)
    assert tuning.after == MergingSettings(score_threshold=0.05)
    assert tuning.searched_pq == (0.0, 100.0)
    assert (tuning.searched, tuning.held_out.images) == (9, 10)
    assert tuning.held_out.paired.difference.all.pq == (100.0, 100.0)
    assert tuning.is_gain
    assert tuning.to_json()["gain"] is True


def test_a_gain_on_a_few_images_is_not_significant(tmp_path: Path) -> None:
    images = faint_objects(tmp_path, 18, score=0.22)
    tuning = search_and_judge(images, MergingSettings(), TABLE, CompareOptions(resamples=50), QUIET)
    assert tuning.held_out.images == 9 and tuning.held_out.paired.difference.all.pq == (100.0, 100.0)
    assert not tuning.is_gain and tuning.to_json()["held_out"]["images_needed"]["all"] == 10


def test_without_a_better_threshold_there_is_no_gain(tmp_path: Path) -> None:
    images = faint_objects(tmp_path, 6, score=0.9)
    tuning = search_and_judge(images, OTHER, TABLE, CompareOptions(resamples=50), QUIET)
    assert tuning.after == tuning.before == OTHER, "of equal settings the old one stays"
    assert not tuning.is_gain


def test_the_halves_are_drawn_by_the_seed() -> None:
    images = CachedImages([Path(str(index)) for index in range(101)], MergeCache.load)
    searched, held_out = halves(images, seed=1)
    assert (len(searched), len(held_out)) == (50, 51)
    assert sorted([*searched.paths, *held_out.paths]) == sorted(images.paths)
    assert halves(images, 1) == (searched, held_out)
    assert halves(images, 2) != (searched, held_out)
    assert 10 < sum(int(path.name) < 50 for path in searched.paths) < 40, "neither half is the first"


@pytest.mark.slow
def test_only_the_thresholds_of_a_saved_checkpoint_change(trained: RunFolder, tmp_path: Path) -> None:
    out = tmp_path / "tuned.safetensors"
    save_thresholds(trained.last, OTHER, out)
    old, new = read_checkpoint(trained.last), read_checkpoint(out)
    assert new.recipe == replace(old.recipe, inference=OTHER)
    assert (new.categories, new.progress) == (old.categories, old.progress)
    weights, same = load_model(old).state_dict(), load_model(new).state_dict()
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    state = read_training_state(old)
    assert state.optimizer and read_training_state(new).optimizer.keys() == state.optimizer.keys()


@pytest.mark.slow
def test_a_checkpoint_is_overwritten_only_on_request(trained: RunFolder, tmp_path: Path) -> None:
    own = tmp_path / "a.safetensors"
    own.write_bytes(trained.best.read_bytes())
    with pytest.raises(PanformerError, match=r"a\.safetensors already exists; expected a new file"):
        save_thresholds(own, OTHER, own)
    assert own.read_bytes() == trained.best.read_bytes()
    save_thresholds(own, OTHER, own, overwrite=True)
    assert read_checkpoint(own).recipe.inference == OTHER
    assert tuned_path(own) == tmp_path / "a-tuned.safetensors"


@pytest.mark.slow
def test_tuning_an_official_file_writes_a_new_checkpoint(tmp_path: Path) -> None:
    source = save_as_mmcv(stub_state("r50"), tmp_path / "r50.pth")
    content = source.read_bytes()
    with pytest.raises(PanformerError, match=r"r50\.pth already exists"):
        save_thresholds(source, OTHER, source, overwrite=True)
    save_thresholds(source, OTHER, tuned_path(source))
    saved = read_checkpoint(tmp_path / "r50-tuned.safetensors")
    assert saved.recipe == replace(read_checkpoint(source).recipe, inference=OTHER)
    assert saved.official is None
    assert source.read_bytes() == content


def test_one_image_cannot_be_halved(trained: RunFolder, tmp_path: Path) -> None:
    data = small_scenes(tmp_path / "data", 1, 1)
    with pytest.raises(DataError, match="has 1 image; expected 2 or more"):
        tune(TuneRequest(trained.best, tmp_path / "out", data), ALONE, QUIET)
