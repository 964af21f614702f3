"""Tune the merging thresholds on one half of a split, and measure the gain on the other.

The model runs once. One cache file per image (`models.base.TuningCache`) gives the result for any thresholds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.coco.panoptic_png import expect_reads
from panformer_cli.engine.checkpoints.checkpoint import (
    Checkpoint,
    check_can_be_saved,
    load_model,
    load_weights,
    read_checkpoint,
    read_training_state,
    save_checkpoint,
)
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.evaluation.compare import CompareOptions, Comparison, EvaluatedSet, compare_sets
from panformer_cli.engine.evaluation.evaluate import open_both
from panformer_cli.engine.inference import Predictor
from panformer_cli.engine.inference_changes import InferenceChanges
from panformer_cli.engine.precision import PrecisionChoice
from panformer_cli.engine.runs import check_results_folder
from panformer_cli.errors import DataError, PanformerError
from panformer_cli.metrics.quality import PanopticQuality
from panformer_cli.models.base import TuningCache
from panformer_cli.models.families import FAMILIES
from panformer_cli.reporting import Reporter
from panformer_cli.settings import InferenceSettings
from panformer_cli.storage.files import sha256_of, write_json


@dataclass(frozen=True)
class TuneRequest:
    """What to tune.

    Attributes:
        out: Folder for tune.json and `cache/`. Images that are in the cache are not predicted again.
        data_root: Folder of the data set; None for the one in the checkpoint's recipe.
        split: Split to tune on; None for the validation split of the checkpoint's recipe.
        batch_size: As in `EvaluateRequest`.
        precision: As in `EvaluateRequest`.
        options: Seed of the halves and of the bootstrap, number of resamples, and number of images to list.
        changes: As in `EvaluateRequest`.
    """

    checkpoint: Path
    out: Path
    data_root: Path | None = None
    split: str | None = None
    batch_size: int = 1
    precision: PrecisionChoice = "fp32"
    options: CompareOptions = field(default_factory=CompareOptions)
    changes: InferenceChanges = InferenceChanges()


@dataclass(frozen=True)
class Tuning:
    """The result of tuning.

    Attributes:
        before: Thresholds of the checkpoint.
        after: Thresholds with the highest PQ on the searched half.
        searched: Number of images in that half.
        searched_pq: Their PQ before and after, in percent; None if they have no classes. It is too high, since the
            thresholds were chosen for it.
        settings: Number of settings tried.
        held_out: Comparison of before and after on the other half, which the search did not see.
        cache: Folder of the cache.
        cache_bytes: Size of the cache.
    """

    before: InferenceSettings
    after: InferenceSettings
    searched: int
    searched_pq: tuple[float | None, float | None]
    settings: int
    held_out: Comparison
    cache: Path
    cache_bytes: int

    @property
    def is_gain(self) -> bool:
        """Whether the held-out gain in PQ is significant, see `Comparison.verdict`."""
        return self.held_out.verdict("all") == "b"

    def to_json(self) -> dict[str, Any]:
        """Return the content of tune.json.

        `{"before": {"score_threshold": ..., ...}, "after": ..., "searched": {"images", "settings", "pq_before",
        "pq_after"}, "held_out": Comparison.to_json, "gain": true or false, "cache": {"folder", "bytes"}}`.
        """
        return {
            "before": asdict(self.before),
            "after": asdict(self.after),
            "searched": {
                "images": self.searched,
                "settings": self.settings,
                "pq_before": self.searched_pq[0],
                "pq_after": self.searched_pq[1],
            },
            "held_out": self.held_out.to_json(),
            "gain": self.is_gain,
            "cache": {"folder": str(self.cache), "bytes": self.cache_bytes},
        }


def tune(request: TuneRequest, process: Process, reporter: Reporter) -> Tuning:
    """Search for the best thresholds and write `OUT/tune.json`; all ranks return the same result.

    Raises:
        PanformerError: The checkpoint or the data cannot be used, they have different categories, or the split has
            fewer than two images.
    """
    process.on_first(lambda: check_results_folder(request.out))
    if request.changes.hf_post_processing:
        raise PanformerError(
            "--hf-post-processing cannot be tuned: the merging of the original project is; leave the option out"
        )
    checkpoint, dataset = open_both(request, process, reporter)
    if len(dataset) < 2:
        raise DataError(
            f"{dataset.layout.annotation} has 1 image; expected 2 or more: one half to search, one to measure"
        )
    if not checkpoint.recipe.inference.grid:
        raise PanformerError(f"the model family {checkpoint.recipe.model.family} has no thresholds to tune")
    images = process.on_first(lambda: cached_images(checkpoint, dataset, request, reporter))
    if not process.on_first(lambda: all(path.is_file() for path in images)):
        _predict_missing(request, checkpoint, dataset, images, process, reporter)
    return process.on_first(lambda: _tune_on(images, request, checkpoint, reporter))


def _tune_on(images: list[Path], request: TuneRequest, checkpoint: Checkpoint, reporter: Reporter) -> Tuning:
    recipe = checkpoint.recipe
    cached = CachedImages(images, FAMILIES[recipe.model.family].load_tuning_cache)
    tuning = search_and_judge(cached, recipe.inference, checkpoint.categories, request.options, reporter)
    write_json(request.out / "tune.json", tuning.to_json())
    return tuning


@dataclass(frozen=True)
class CachedImages:
    """The cache files of some images, and the function that reads one."""

    paths: Sequence[Path]
    load: Callable[[Path], TuningCache]

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[TuningCache]:
        return map(self.load, self.paths)

    @property
    def size(self) -> int:
        """Size of the files in bytes."""
        return sum(path.stat().st_size for path in self.paths)


def search_and_judge(
    images: CachedImages,
    before: InferenceSettings,
    categories: CategoryTable,
    options: CompareOptions,
    reporter: Reporter,
) -> Tuning:
    """Search on one half of the images, starting at `before`, and compare before and after on the other."""
    searched, held_out = halves(images, options.seed)
    search = Search(searched, categories, reporter)
    after = search.best_from(before)
    sets = [
        _evaluated_set("before tuning", held_out, before, categories),
        _evaluated_set("after tuning", held_out, after, categories),
    ]
    return Tuning(
        before,
        after,
        len(searched),
        (search.pq(before), search.pq(after)),
        len(search.known),
        compare_sets(sets[0], sets[1], options),
        images.paths[0].parent,
        images.size,
    )


def _evaluated_set(
    name: str, images: CachedImages, settings: InferenceSettings, categories: CategoryTable
) -> EvaluatedSet:
    """Return the overlaps of all images at `settings`; each is computed when it is read."""
    return EvaluatedSet(name, categories, (image.overlap(settings, categories) for image in images))


def halves(images: CachedImages, seed: int) -> tuple[CachedImages, CachedImages]:
    """Return two random halves that depend only on the seed; if the number is odd, the second has one more."""
    order = np.random.default_rng(seed).permutation(len(images)).tolist()
    first = set(order[: len(order) // 2])
    return (
        replace(images, paths=[path for index, path in enumerate(images.paths) if index in first]),
        replace(images, paths=[path for index, path in enumerate(images.paths) if index not in first]),
    )


class Search:
    """Coordinate search: set one threshold at a time to the best value in the settings' `grid`, until none changes.

    Attributes:
        known: PQ on `images`, in percent, of every setting that was tried; 0 without classes.
        without_classes: The settings with which neither predictions nor ground truth have a segment.
    """

    def __init__(self, images: CachedImages, categories: CategoryTable, reporter: Reporter) -> None:
        self.images = images
        self.categories = categories
        self.reporter = reporter
        self.known: dict[InferenceSettings, float] = {}
        self.without_classes: set[InferenceSettings] = set()

    def pq(self, setting: InferenceSettings) -> float | None:
        """Return the PQ of a setting that was tried, in percent; None without classes."""
        return None if setting in self.without_classes else self.known[setting]

    def best_from(self, start: InferenceSettings) -> InferenceSettings:
        """Return the best setting found, which is `start` itself unless another one is better."""
        best, changed = start, True
        while changed:
            before = best
            for name, values in start.grid.items():
                settings = [best, *(_with(best, name, value) for value in values)]
                self._measure([setting for setting in dict.fromkeys(settings) if setting not in self.known], name)
                best = max(settings, key=self.known.__getitem__)  # the first of equal ones: no change without a gain
            changed = best != before
        return best

    def _measure(self, settings: list[InferenceSettings], name: str) -> None:
        """Compute PQ of all settings in one pass over the images."""
        if not settings:
            return
        qualities = [PanopticQuality(self.categories) for _ in settings]
        with self.reporter.progress(f"Searching {name.replace('_', ' ')}", len(self.images)) as progress:
            for image in self.images:
                for quality, setting in zip(qualities, settings, strict=True):
                    quality.update(image.overlap(setting, self.categories))
                progress.advance()
        for setting, quality in zip(settings, qualities, strict=True):
            group = quality.result().all
            self.known[setting] = group.pq
            if not group.n:
                self.without_classes.add(setting)


def _with(recipe: InferenceSettings, name: str, value: float) -> InferenceSettings:
    changes: dict[str, Any] = {name: value}
    return replace(recipe, **changes)


def cached_images(
    checkpoint: Checkpoint, dataset: CocoPanoptic, request: TuneRequest, reporter: Reporter
) -> list[Path]:
    """Return the cache file of every image, which may not exist yet.

    The name of its folder is a hash of everything that the files depend on.
    """
    depends = {
        "checkpoint": sha256_of(checkpoint.path, reporter),
        "annotation": sha256_of(dataset.layout.annotation, reporter),
        "split": str(dataset.layout.annotation),
        "precision": request.precision,
        **request.changes.differences(),
    }
    key = hashlib.sha256(json.dumps(depends).encode()).hexdigest()[:16]
    return [request.out / "cache" / key / f"{index:06d}.npz" for index in range(len(dataset))]


def _predict_missing(
    request: TuneRequest,
    checkpoint: Checkpoint,
    dataset: CocoPanoptic,
    files: list[Path],
    process: Process,
    reporter: Reporter,
) -> None:
    own = range(process.rank, len(files), process.world_size)
    missing = [index for index in own if not files[index].is_file()]
    predictor, family = Predictor.of(checkpoint, process, request.precision), FAMILIES[checkpoint.recipe.model.family]
    with reporter.progress("Predicting", len(own), len(own) - len(missing)) as progress:
        expect_reads(len(missing))
        samples = ((index, dataset[index]) for index in missing)
        pairs = (((index, sample), sample.image) for index, sample in samples)
        for (index, sample), prediction in predictor.stream(pairs, request.batch_size):
            family.tuning_cache(prediction, sample).save(files[index])
            progress.advance()
    process.wait()


def tuned_path(checkpoint: Path) -> Path:
    """Return the default path of a tuned checkpoint: beside the original."""
    return checkpoint.with_name(f"{checkpoint.stem}-tuned.safetensors")


def save_thresholds(checkpoint: Path, thresholds: InferenceSettings, out: Path, overwrite: bool = False) -> None:
    """Write a copy of `checkpoint` with other thresholds.

    Args:
        checkpoint: The checkpoint to copy.
        thresholds: The new thresholds.
        out: The file to write. It may be `checkpoint` itself, unless that is an official file.
        overwrite: Whether to overwrite an existing file.

    Raises:
        PanformerError: `out` exists and may not be overwritten, or cannot be written.
        CheckpointError: `checkpoint` cannot be used.
    """
    old = read_checkpoint(checkpoint)
    check_can_be_saved(old)
    if out.exists() and (not overwrite or (old.official and out.samefile(checkpoint))):
        raise PanformerError(
            f"{out} already exists; expected a new file for the tuned checkpoint; move the existing file away"
        )
    state = read_training_state(old) if old.training_state else None
    recipe = replace(old.recipe, inference=thresholds)
    model = load_model(old)
    load_weights(model, old, averaged=False)  # averaged weights are part of `state`
    save_checkpoint(out, model, recipe, old.categories, old.progress, state)
