"""Thresholds of merging, searched on one half of a split and judged on the other.

The model runs once. One file per image (`models.base.TuningCache`) gives the result at any thresholds.
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
    load_model,
    read_checkpoint,
    read_training_state,
    save_checkpoint,
)
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.evaluation.compare import CompareOptions, Comparison, EvaluatedSet, compare_sets
from panformer_cli.engine.evaluation.evaluate import open_split
from panformer_cli.engine.inference import Predictor
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

    out: folder of tune.json and, in `cache/`, of what the model saw; given again, done images are not predicted again.
    data_root, split: None for those of the checkpoint's recipe.
    options: seed of the halves and of the bootstrap, resamples, and images to list.
    batch_size, precision: as in `EvaluateRequest`.
    """

    checkpoint: Path
    out: Path
    data_root: Path | None = None
    split: str | None = None
    batch_size: int = 1
    precision: PrecisionChoice = "fp32"
    options: CompareOptions = field(default_factory=CompareOptions)


@dataclass(frozen=True)
class Tuning:
    """What came out.

    before, after: thresholds of the checkpoint, and those with the highest PQ on the searched half.
    searched: images of that half. searched_pq: their PQ before and after, percent: too good, since chosen for it.
    settings: how many were tried.
    held_out: before against after on the other half, which the search did not see.
    cache: the folder of what the model saw. cache_bytes: its size.
    """

    before: InferenceSettings
    after: InferenceSettings
    searched: int
    searched_pq: tuple[float, float]
    settings: int
    held_out: Comparison
    cache: Path
    cache_bytes: int

    @property
    def is_gain(self) -> bool:
        """Whether the whole interval of the held-out gain in PQ is above 0."""
        return self.held_out.paired.difference.all.pq.low > 0

    def to_json(self) -> dict[str, Any]:
        """`{"before": {"score_threshold": ..., ...}, "after": ..., "searched": {"images", "settings", "pq_before",
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
    """Search thresholds and write `OUT/tune.json`; the result is equal on all ranks.

    Raises:
        PanformerError: checkpoint or data cannot be used, do not go together, or are too few to be halved.
    """
    checkpoint = read_checkpoint(request.checkpoint)
    process.on_first(lambda: check_results_folder(request.out))
    dataset = process.first_then_others(lambda: open_split(checkpoint, request.data_root, request.split))
    if len(dataset) < 2:
        raise DataError(
            f"{dataset.layout.annotation} has 1 image; expected 2 or more: one half to search, one to judge"
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
    """The files of some images, and what reads one."""

    paths: Sequence[Path]
    load: Callable[[Path], TuningCache]

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[TuningCache]:
        return map(self.load, self.paths)

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(path.stat().st_size for path in self.paths)


def search_and_judge(
    images: CachedImages,
    before: InferenceSettings,
    categories: CategoryTable,
    options: CompareOptions,
    reporter: Reporter,
) -> Tuning:
    """Search from `before` on one half of the images, and compare before and after on the other."""
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
        (search.known[before], search.known[after]),
        len(search.known),
        compare_sets(sets[0], sets[1], options),
        images.paths[0].parent,
        images.size,
    )


def _evaluated_set(
    name: str, images: CachedImages, settings: InferenceSettings, categories: CategoryTable
) -> EvaluatedSet:
    """Return the overlaps of all images at `settings`, computed one at a time as they are read."""
    return EvaluatedSet(name, categories, (image.overlap(settings, categories) for image in images))


def halves(images: CachedImages, seed: int) -> tuple[CachedImages, CachedImages]:
    """Return two halves drawn at random, which depend on the seed; of an odd number the second has one more."""
    order = np.random.default_rng(seed).permutation(len(images)).tolist()
    first = set(order[: len(order) // 2])
    return (
        replace(images, paths=[path for place, path in enumerate(images.paths) if place in first]),
        replace(images, paths=[path for place, path in enumerate(images.paths) if place not in first]),
    )


class Search:
    """Coordinate search: one threshold at a time takes the best value of the settings' `grid`, until none changes.

    known: PQ in percent of every setting that was tried, on `images`.
    """

    def __init__(self, images: CachedImages, categories: CategoryTable, reporter: Reporter) -> None:
        self.images = images
        self.categories = categories
        self.reporter = reporter
        self.known: dict[InferenceSettings, float] = {}

    def best_from(self, start: InferenceSettings) -> InferenceSettings:
        """The best setting found; `start` itself, unless another one is better."""
        best, changed = start, True
        while changed:
            before = best
            for name, values in start.grid.items():
                settings = [best, *(_with(best, name, value) for value in values)]
                self._measure([setting for setting in dict.fromkeys(settings) if setting not in self.known], name)
                best = max(settings, key=self.known.__getitem__)  # of equal ones the first: no change without a gain
            changed = best != before
        return best

    def _measure(self, settings: list[InferenceSettings], name: str) -> None:
        """Count all settings in one pass over the images."""
        if not settings:
            return
        qualities = [PanopticQuality(self.categories) for _ in settings]
        with self.reporter.progress(f"Searching {name.replace('_', ' ')}", len(self.images)) as progress:
            for image in self.images:
                for quality, setting in zip(qualities, settings, strict=True):
                    quality.update(image.overlap(setting, self.categories))
                progress.advance()
        self.known |= {setting: quality.result().all.pq for setting, quality in zip(settings, qualities, strict=True)}


def _with(recipe: InferenceSettings, name: str, value: float) -> InferenceSettings:
    changes: dict[str, Any] = {name: value}
    return replace(recipe, **changes)


def cached_images(
    checkpoint: Checkpoint, dataset: CocoPanoptic, request: TuneRequest, reporter: Reporter
) -> list[Path]:
    """The file of every image, there or not yet, in a folder that belongs to all that the files depend on."""
    depends = {
        "checkpoint": sha256_of(checkpoint.path, reporter),
        "annotation": sha256_of(dataset.layout.annotation, reporter),
        "split": str(dataset.layout.annotation),
        "precision": request.precision,
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
    """Where a tuned checkpoint goes unless told otherwise: beside the one that it is made from."""
    return checkpoint.with_name(f"{checkpoint.stem}-tuned.safetensors")


def save_thresholds(checkpoint: Path, thresholds: InferenceSettings, out: Path, overwrite: bool = False) -> None:
    """Write `checkpoint` anew with other thresholds; all else in it stays.

    out: a new file, or with `overwrite` one that is there, such as `checkpoint` itself; but no authors' file.

    Raises:
        PanformerError: `out` is there and is not to be overwritten, or cannot be written.
        CheckpointError: `checkpoint` cannot be used.
    """
    old = read_checkpoint(checkpoint)
    if out.exists() and (not overwrite or (old.official and out.samefile(checkpoint))):
        raise PanformerError(
            f"{out} is there already; expected a new file for the tuned checkpoint; move the old one away"
        )
    state = read_training_state(old) if old.training_state else None
    recipe = replace(old.recipe, inference=thresholds)
    save_checkpoint(out, load_model(old), recipe, old.categories, old.progress, state)
