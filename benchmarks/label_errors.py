"""Measure how well `panformer evaluate --label-errors` finds label errors that were planted in generated scenes.

    python benchmarks/label_errors.py                                # predictions of a noise model
    python benchmarks/label_errors.py demo/run/best.safetensors      # predictions of a model (`panformer demo`)

Five kinds of errors are planted in equal numbers, at most one per image, in 5 % of the segments of the ground truth:

- missing annotation: a thing becomes part of the stuff around it;
- wrong class: a segment gets another class (things stay things, stuff stays stuff);
- merged instances: a thing gets the id of a thing of its class that is at most 8 pixels away;
- poor outline: a thing is dilated, eroded or shifted until its IoU with the correct outline is below 0.75;
- surplus label: stuff in the shape of a thing of another image becomes a thing.

Three lists are compared: that of --label-errors, and two that contain every ground truth segment and every prediction
without a match in descending loss. `1 - IoU x score` uses the best prediction of the same class; `cross-entropy + Dice`
uses the prediction with the largest overlap, like a training loss. Precision is the fraction of correct entries among
the first 50; an entry is correct if its segment is a planted error or overlaps one with IoU above 0.5. Recall is the
fraction of the errors that the first entries contain, as many as 10 % of the segments of the ground truth.

The noise model starts from the correct ground truth: it misses things, the small ones more often; confuses classes;
predicts things that do not exist; moves outlines by smooth noise; and gives correct segments higher scores (Beta(8, 2))
than wrong ones (Beta(4, 3)). It is bad at stars: it misses and invents three times as many of them.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from panformer_cli.console import print_table
from panformer_cli.data.coco.panoptic_writer import segments_of
from panformer_cli.data.scenes.generator import generate_scene
from panformer_cli.data.scenes.options import SceneOptions
from panformer_cli.data.scenes.patterns import STUFF_IDS, THING_IDS, scene_categories
from panformer_cli.data.structures import IdMap, ImageArray, PanopticMap
from panformer_cli.engine.checkpoints.checkpoint import read_checkpoint
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.inference import Predictor
from panformer_cli.metrics.analysis.label_errors import Kind, find_label_errors, ranked
from panformer_cli.metrics.analysis.usual_behavior import UsualBehavior, clipped_score
from panformer_cli.metrics.image_overlap import ImageOverlap, compare
from panformer_cli.metrics.matching import match_segments

CATEGORIES = scene_categories()
SHARE, FIRST, RECALL_AT = 0.05, 50, 0.1
KINDS = [kind for kind in Kind if kind is not Kind.SPLIT_INSTANCE]
Mask = npt.NDArray[np.bool_]
Random = np.random.Generator


@dataclass(frozen=True)
class Error:
    """A planted error: its image, its kind, the wrong segment (0 for a missing annotation), and its (H, W) mask."""

    image: int
    kind: Kind
    segment: int
    mask: Mask


@dataclass(frozen=True)
class Entry:
    """An entry of a list: its image, and the ids of the ground truth and predicted segments that it suspects."""

    image: int
    truth: tuple[int, ...]
    predictions: tuple[int, ...]
    kind: Kind | None = None


# --- planting


@dataclass
class Draft:
    """An annotation that is being changed."""

    ids: IdMap
    categories: dict[int, int]
    crowds: set[int]

    @classmethod
    def of(cls, truth: PanopticMap) -> Draft:
        categories = {segment.id: segment.category_id for segment in truth.segments}
        return cls(truth.ids.copy(), categories, {segment.id for segment in truth.segments if segment.is_crowd})

    def finished(self) -> PanopticMap:
        return PanopticMap(self.ids, segments_of(self.ids, self.categories, self.crowds))

    def is_thing(self, segment: int) -> bool:
        return CATEGORIES.by_id(self.categories[segment]).is_thing

    @property
    def segments(self) -> list[int]:
        return [segment for segment in self.categories if segment not in self.crowds]

    @property
    def things(self) -> list[int]:
        return [segment for segment in self.segments if self.is_thing(segment)]

    def stuff_around(self, mask: Mask) -> int:
        """Return the stuff that borders most on a mask, or 0 (void)."""
        ring = self.ids[ndimage.binary_dilation(mask, iterations=2) & ~mask]
        counts = Counter(i for i in ring.tolist() if i in self.categories and not self.is_thing(i))
        return counts.most_common(1)[0][0] if counts else 0

    def is_background(self) -> Mask:
        """Return the pixels of stuff and void."""
        return np.isin(self.ids, [0, *(segment for segment in self.segments if not self.is_thing(segment))])


Shapes = list[Mask]
Planter = Callable[[Draft, Random, Shapes], "tuple[int, Mask] | None"]
"""Changes a draft and returns the wrong segment with its mask; returns None if the image does not allow it."""


def plant_missing(draft: Draft, random: Random, shapes: Shapes) -> tuple[int, Mask] | None:
    """Turn a thing into the stuff around it."""
    if not draft.things:
        return None
    mask = draft.ids == random.choice(draft.things)
    draft.ids[mask] = draft.stuff_around(mask)
    return 0, mask


def plant_wrong_class(draft: Draft, random: Random, shapes: Shapes) -> tuple[int, Mask] | None:
    """Give a segment another class."""
    segment = int(random.choice(draft.segments))
    group = THING_IDS if draft.is_thing(segment) else STUFF_IDS
    taken = {draft.categories[segment]} if draft.is_thing(segment) else set(draft.categories.values())
    draft.categories[segment] = int(random.choice(sorted(set(group.values()) - taken)))
    return segment, draft.ids == segment


def plant_merged(draft: Draft, random: Random, shapes: Shapes) -> tuple[int, Mask] | None:
    """Merge two things of one class that are close to each other."""
    for first in random.permutation(draft.things).tolist():
        near = ndimage.binary_dilation(draft.ids == first, iterations=8)
        for second in draft.things:
            same = first != second and draft.categories[first] == draft.categories[second]
            if same and (near & (draft.ids == second)).any():
                draft.ids[draft.ids == second] = first
                return first, draft.ids == first
    return None


def plant_poor_outline(draft: Draft, random: Random, shapes: Shapes) -> tuple[int, Mask] | None:
    """Dilate, erode or shift a thing, more and more until its IoU is low enough."""
    if not draft.things:
        return None
    segment = int(random.choice(draft.things))
    before = draft.ids == segment
    allowed = draft.is_background() | before
    change, angle, goal = str(random.choice(CHANGES)), random.uniform(0, 2 * np.pi), random.uniform(0.5, 0.75)
    for step in range(1, 30):
        after = changed(before, change, step, angle) & allowed
        if not after.any():
            return None
        if iou_of(before, after) < goal:
            draft.ids[before] = draft.stuff_around(before)
            draft.ids[after] = segment
            return segment, after
    return None


CHANGES = ("dilate", "erode", "shift")


def changed(mask: Mask, change: str, step: int, angle: float) -> Mask:
    """Return a mask dilated, eroded or shifted by `step` pixels."""
    if change == "shift":
        shift = (round(step * np.sin(angle)), round(step * np.cos(angle)))
        return np.asarray(ndimage.shift(mask.astype(np.uint8), shift, order=0) > 0)
    operation = ndimage.binary_dilation if change == "dilate" else ndimage.binary_erosion
    return np.asarray(operation(mask, iterations=step))


def plant_surplus(draft: Draft, random: Random, shapes: Shapes) -> tuple[int, Mask] | None:
    """Add a thing in the shape of another one, on stuff."""
    for _ in range(20):
        shape = shapes[int(random.integers(len(shapes)))]
        mask = np.roll(shape, random.integers(0, shape.shape), (0, 1))
        on_stuff = mask & draft.is_background() & (draft.ids > 0)
        if on_stuff.sum() > 0.95 * mask.sum() and all((draft.ids[~on_stuff] == i).any() for i in draft.categories):
            segment = max(draft.categories) + 1
            draft.ids[on_stuff] = segment
            draft.categories[segment] = int(random.choice(list(THING_IDS.values())))
            return segment, on_stuff
    return None


PLANTERS: dict[Kind, Planter] = {
    Kind.MISSING_ANNOTATION: plant_missing,
    Kind.WRONG_CLASS: plant_wrong_class,
    Kind.MERGED_INSTANCES: plant_merged,
    Kind.POOR_OUTLINE: plant_poor_outline,
    Kind.SURPLUS_LABEL: plant_surplus,
}


def plant(truths: list[PanopticMap], random: Random) -> tuple[list[PanopticMap], list[Error]]:
    """Return the annotations with errors, and the errors."""
    planted, errors = list(truths), list[Error]()
    shapes = [truth.ids == s.id for truth in truths[:200] for s in truth.segments if is_thing(s.category_id)]
    each = round(SHARE * number_of_segments(truths) / len(KINDS))
    images = random.permutation(len(truths)).tolist()
    for kind in [Kind.MERGED_INSTANCES, *(kind for kind in KINDS if kind is not Kind.MERGED_INSTANCES)]:
        for image in list(images):
            if sum(error.kind is kind for error in errors) == each:
                break
            draft = Draft.of(truths[image])
            if draft.segments and (found := PLANTERS[kind](draft, random, shapes)):
                planted[image] = draft.finished()
                errors.append(Error(image, kind, *found))
                images.remove(image)
    return planted, errors


def number_of_segments(truths: list[PanopticMap]) -> int:
    """Return the number of segments without crowds."""
    return sum(not segment.is_crowd for truth in truths for segment in truth.segments)


def is_thing(category_id: int) -> bool:
    """Return whether a category is a thing."""
    return CATEGORIES.by_id(category_id).is_thing


def iou_of(first: Mask, second: Mask) -> float:
    """Return the IoU of two masks."""
    return float((first & second).sum() / max((first | second).sum(), 1))


# --- predictions


def noisy_prediction(truth: PanopticMap, random: Random, shapes: Shapes) -> PanopticMap:
    """Return a prediction of the noise model."""
    ids, draft = np.zeros_like(truth.ids), Draft.of(truth)
    stuff = np.where(draft.is_background(), truth.ids, 0)
    fill = ndimage.distance_transform_edt(stuff == 0, return_distances=False, return_indices=True)
    ids = stuff[tuple(fill)]
    scores: dict[int, float] = {segment: random.beta(8, 2) for segment in np.unique(ids).tolist() if segment}
    categories = {segment: draft.categories[segment] for segment in scores}
    for segment in draft.things:
        mask, category = truth.ids == segment, draft.categories[segment]
        missed = (0.2 if mask.sum() < 400 else 0.06) * (3 if category == THING_IDS["star"] else 1)
        if random.random() < missed:
            continue
        confused = random.random() < 0.04
        categories[segment] = int(random.choice(list(THING_IDS.values()))) if confused else category
        scores[segment] = random.beta(4, 3) if confused else random.beta(8, 2)
        ids[wobbled(mask, random)] = segment
    if random.random() < 0.3:
        shape = shapes[int(random.integers(len(shapes)))]
        segment = max(draft.categories) + 1
        names = [*THING_IDS, "star", "star"]
        categories[segment] = THING_IDS[str(random.choice(names))]
        scores[segment] = random.beta(4, 3)
        ids[np.roll(shape, random.integers(0, shape.shape), (0, 1)) & np.isin(ids, np.unique(stuff))] = segment
    segments = segments_of(ids, {**categories, 0: 0})
    return PanopticMap(ids, tuple(replace(segment, score=scores[segment.id]) for segment in segments))


def wobbled(mask: Mask, random: Random) -> Mask:
    """Return a mask whose outline is moved by smooth noise, in proportion to its size; never an empty one."""
    distance = ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask)
    noise = ndimage.gaussian_filter(random.standard_normal(mask.shape), 5)
    moved: Mask = distance + noise / noise.std() * 0.05 * np.sqrt(mask.sum()) > 0
    return moved if moved.any() else mask


def model_predictions(checkpoint: Path, images: list[ImageArray]) -> Iterator[PanopticMap]:
    """Yield the predictions of a checkpoint."""
    predictor = Predictor.of(read_checkpoint(checkpoint), Process.single(), "fp32")
    return predictor.map(enumerate(images), lambda _, prediction: prediction.panoptic, batch_size=8)


# --- lists


def label_error_list(overlaps: list[ImageOverlap]) -> list[Entry]:
    """Return the list of `--label-errors`."""
    usual, matchings = UsualBehavior(CATEGORIES), [match_segments(overlap, CATEGORIES) for overlap in overlaps]
    for overlap, matching in zip(overlaps, matchings, strict=True):
        usual.add(overlap, matching)
    suspects = (
        suspect
        for overlap, matching in zip(overlaps, matchings, strict=True)
        for suspect in find_label_errors(overlap, matching, usual, CATEGORIES)
    )
    entries = []
    for suspect in ranked(suspects, usual, CATEGORIES):
        truth = () if suspect.kind is Kind.MISSING_ANNOTATION else tuple(segment.id for segment in suspect.truth)
        predictions = () if truth else tuple(segment.id for segment in suspect.predictions)
        entries.append(Entry(int(suspect.image_id), truth, predictions, suspect.kind))
    return entries


def loss_list(overlaps: list[ImageOverlap], loss: Callable[..., npt.NDArray[np.float64]]) -> list[Entry]:
    """Return every ground truth segment and every prediction without a match, in descending loss."""
    entries: list[tuple[float, int, Entry]] = []
    for number, overlap in enumerate(overlaps):
        matching = match_segments(overlap, CATEGORIES)
        same = matching.truth_labels[:, None] == matching.labels
        scores = np.array([clipped_score(segment.score) for segment in overlap.predictions])
        union = overlap.truth_pixels[:, None] + overlap.predicted_pixels - overlap.shared
        iou, dice = overlap.shared / union, 2 * overlap.shared / (union + overlap.shared)
        of_truth, of_predictions = loss(same, scores, iou, dice)
        for row, segment in enumerate(overlap.truth):
            if not segment.is_crowd:
                entries.append((of_truth[row], number, Entry(number, (segment.id,), ())))
        for column in matching.wrong.tolist():
            entry = Entry(number, (), (overlap.predictions[column].id,))
            entries.append((of_predictions[column], number, entry))
    return [entry for *_, entry in sorted(entries, key=lambda entry: -entry[0])]


def overlap_loss(same: Any, scores: Any, iou: Any, dice: Any) -> Any:
    """Return 1 - IoU x score of the best prediction of a segment's class; for predictions, score x (1 - best IoU)."""
    of_truth = 1 - (same * iou * scores).max(axis=1, initial=0)
    return of_truth, scores * (1 - (same * iou).max(axis=0, initial=0))


def training_loss(same: Any, scores: Any, iou: Any, dice: Any) -> Any:
    """Return cross-entropy + Dice of the prediction with the largest IoU; for predictions, those of `no object`."""
    if not iou.shape[1]:
        return np.full(iou.shape[0], -np.log(0.01) + 1), scores
    rows, best = np.arange(iou.shape[0]), iou.argmax(axis=1)
    right = np.where(same[rows, best], scores[best], (1 - scores[best]) / (len(CATEGORIES) - 1))
    return -np.log(np.clip(right, 0.01, 1)) + 1 - dice[rows, best], -np.log(np.clip(1 - scores, 0.01, 1)) + 1


# --- scores


def measure(entries: list[Entry], errors: list[Error], predictions: list[PanopticMap], budget: int) -> dict[str, Any]:
    """Return precision at `FIRST` and recall within `budget` entries, in percent, overall and by kind."""
    error_of = {error.image: error for error in errors}
    found: dict[int, Kind | None] = {}
    correct = []
    for entry in entries[:budget]:
        error = error_of.get(entry.image)
        hit = error is not None and points_at(entry, error, predictions[entry.image])
        correct.append(hit)
        if hit:
            found.setdefault(entry.image, entry.kind)
    recalls = {
        kind.value: 100 * sum(error.image in found for error in errors if error.kind is kind) / max(total, 1)
        for kind, total in Counter(error.kind for error in errors).items()
    }
    named = sum(found[error.image] is error.kind for error in errors if error.image in found)
    return {
        "precision": 100 * sum(correct[:FIRST]) / FIRST,
        "recall": 100 * len(found) / len(errors),
        "recall_by_kind": {kind.value: recalls[kind.value] for kind in KINDS if kind.value in recalls},
        "named": 100 * named / max(len(found), 1),
        "entries": len(entries),
    }


def points_at(entry: Entry, error: Error, prediction: PanopticMap) -> bool:
    """Return whether an entry is about this error of its image."""
    return error.segment in entry.truth or any(
        iou_of(prediction.ids == segment, error.mask) > 0.5 for segment in entry.predictions
    )


def run(images: int, seed: int, checkpoint: Path | None) -> dict[str, Any]:
    """Plant errors, and measure the three lists."""
    options = SceneOptions(seed=1000 + seed)  # not the scenes of `panformer demo`
    scenes = [generate_scene(options, "val", index) for index in range(images)]
    clean, random = [truth for _, truth in scenes], np.random.default_rng(seed)
    if checkpoint:
        predictions = list(model_predictions(checkpoint, [image for image, _ in scenes]))
    else:
        shapes = [truth.ids == s.id for truth in clean[:200] for s in truth.segments if is_thing(s.category_id)]
        predictions = [noisy_prediction(truth, random, shapes) for truth in clean]
    return {"seed": seed, "images": images, **measure_lists(clean, predictions, random)}


def measure_lists(clean: list[PanopticMap], predictions: list[PanopticMap], random: Random) -> dict[str, Any]:
    """Plant errors in correct annotations, and measure the three lists."""
    truths, errors = plant(clean, random)
    overlaps = [compare(*pair, number) for number, pair in enumerate(zip(predictions, truths, strict=True))]
    segments = number_of_segments(truths)
    budget = round(RECALL_AT * segments)
    lists = {
        "--label-errors": label_error_list(overlaps),
        "1 - IoU x score": loss_list(overlaps, overlap_loss),
        "cross-entropy + Dice": loss_list(overlaps, training_loss),
    }
    results = {name: measure(entries, errors, predictions, budget) for name, entries in lists.items()}
    return {"segments": segments, "errors": len(errors), "lists": results}


def main() -> None:
    """Parse the options, measure, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, nargs="?", help="model to predict with [the noise model]")
    parser.add_argument("--images", type=int, default=1000, metavar="N", help="scenes [1000]")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of scenes and errors [0]")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    arguments = parser.parse_args()
    result = run(arguments.images, arguments.seed, arguments.checkpoint)
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    columns = ("", f"precision of the first {FIRST}, %", "recall in the first 10 %, %", *(k.title for k in KINDS))
    rows = [
        (name, row["precision"], row["recall"], *row["recall_by_kind"].values())
        for name, row in result["lists"].items()
    ]
    title = f"{result['errors']} errors in {result['segments']} segments of {result['images']} images"
    print_table(title, columns, rows)
    named = result["lists"]["--label-errors"]["named"]
    print(f"--label-errors names the right kind for {named:.0f} % of the errors that it finds")


if __name__ == "__main__":
    main()
