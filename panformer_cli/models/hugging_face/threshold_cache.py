"""One image cached for merging at other thresholds, as areas instead of pixels.

At a score threshold some queries are kept, and each pixel goes to one of them, inside or outside its mask. For each
threshold that `evaluate tune` tries, the cache has the pixels that these regions share with the ground truth. That is
enough for any overlap threshold.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.structures import IdMap, PanopticMap, Sample, Segment
from panformer_cli.errors import DataError, PanformerError
from panformer_cli.metrics.image_overlap import ImageOverlap, IntArray, compare
from panformer_cli.models.hugging_face import detr_merging
from panformer_cli.models.hugging_face.merging import Areas, Competition, opened, segment_ids
from panformer_cli.models.hugging_face.prediction import QueryPrediction
from panformer_cli.models.hugging_face.query_masks import Kept
from panformer_cli.models.hugging_face.settings import NO_CATEGORY, QueryMergingSettings
from panformer_cli.storage.files import write_json
from panformer_cli.storage.plain_json import parse as parse_json

_NO_BOX = (0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Round:
    """The regions of the image if the best queries by class score are kept.

    Attributes:
        kept: positions of these queries, ascending.
        inside: of each one, the number of pixels at which its mask is at least one half.
        regions: their overlap with the ground truth. Region 2 p + 1 has the pixels that position p won outside its
            mask, and region 2 p + 2 those inside it.
    """

    kept: tuple[int, ...]
    inside: tuple[int, ...]
    regions: ImageOverlap

    def pixels(self) -> dict[int, int]:
        """Return the number of pixels of each region."""
        return {segment.id: segment.area for segment in self.regions.predictions}


@dataclass(frozen=True)
class ThresholdCache:
    """An image at all score thresholds of `evaluate tune`.

    Attributes:
        scores: class scores of the queries above the lowest threshold, in the order of the queries.
        category_ids: of their labels, or `NO_CATEGORY`.
        groups: of their labels; None for things. All None for DETR, whose regions are segments already.
        paints_outside: as in `merging.segment_ids`.
        rounds: by number of kept queries.
    """

    scores: tuple[float, ...]
    category_ids: tuple[int, ...]
    groups: tuple[int | None, ...]
    paints_outside: bool
    rounds: dict[int, Round]

    def overlap(self, settings: QueryMergingSettings, categories: CategoryTable) -> ImageOverlap:
        """Return the overlap of the merged map with the ground truth. Boxes are 0.

        The score threshold must be one of those of `cache_of`.
        """
        del categories
        found = self.rounds[_number_above(self.scores, settings.score_threshold)]
        pixels = found.pixels()
        areas = [
            Areas(pixels.get(2 * place + 1, 0) + pixels.get(2 * place + 2, 0), inside, pixels.get(2 * place + 2, 0))
            for place, inside in zip(found.kept, found.inside, strict=True)
        ]
        ids = segment_ids(
            areas, [self.groups[place] for place in found.kept], settings.overlap_threshold, self.paints_outside
        )
        segments = [
            (number, found.kept[query])
            for number, query in opened(ids)
            if self.category_ids[found.kept[query]] != NO_CATEGORY
        ]
        return self._merged(found, dict(zip(found.kept, ids, strict=True)), segments)

    def _merged(self, found: Round, id_of_place: dict[int, int], segments: Sequence[tuple[int, int]]) -> ImageOverlap:
        """Return the overlap of segments, given as id and position of the query that opened them."""
        columns = {number: column for column, (number, _) in enumerate(segments)}
        overlap = np.zeros((found.regions.overlap.shape[0], len(segments) + 1), np.int64)
        overlap[:, -1] = found.regions.overlap[:, -1]
        for region, shared in zip(found.regions.predictions, found.regions.overlap.T, strict=False):
            place, is_inside = (region.id - 1) // 2, region.id % 2 == 0
            is_painted = self.paints_outside or is_inside
            overlap[:, columns.get(id_of_place[place], -1) if is_painted else -1] += shared
        predictions = tuple(
            Segment(number, self.category_ids[place], int(area), _NO_BOX, score=self.scores[place])
            for (number, place), area in zip(segments, overlap.sum(axis=0), strict=False)
        )
        return replace(found.regions, predictions=predictions, overlap=overlap)

    def save(self, path: Path) -> None:
        """Write a JSON file atomically."""
        rounds = [
            {"kept": found.kept, "inside": found.inside, "regions": found.regions.to_json()}
            for found in self.rounds.values()
        ]
        content = {
            "scores": self.scores,
            "category_ids": self.category_ids,
            "groups": self.groups,
            "paints_outside": self.paints_outside,
            "rounds": rounds,
        }
        write_json(path, content)

    @classmethod
    def load(cls, path: Path) -> ThresholdCache:
        """Read a file that `save` wrote.

        Raises:
            DataError: the file is corrupt.
        """
        try:
            content = parse_json(path.read_bytes())
            rounds = [
                Round(tuple(row["kept"]), tuple(row["inside"]), ImageOverlap.from_json(row["regions"]))
                for row in content["rounds"]
            ]
            return cls(
                tuple(content["scores"]),
                tuple(content["category_ids"]),
                tuple(content["groups"]),
                bool(content["paints_outside"]),
                {len(found.kept): found for found in rounds},
            )
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise DataError(f"{path} is corrupt: {error}; delete it and run the command again") from error


def cache_of(prediction: QueryPrediction, sample: Sample) -> ThresholdCache:
    """Return an image at the score thresholds of `QueryMergingSettings.grid` and of the prediction's own settings.

    Args:
        prediction: prediction for the image.
        sample: the same image with its ground truth.

    Raises:
        DataError: see `metrics.image_overlap.compare`.
        PanformerError: the settings ask for transformers' post-processing.
    """
    settings, rules = prediction.settings, prediction.rules
    if settings.post_processing != "original":
        raise PanformerError(
            f"inference.post_processing is {settings.post_processing}; only thresholds of the original rules can be "
            "tuned"
        )
    thresholds = (*settings.grid["score_threshold"], settings.score_threshold)
    kept = prediction.masks.kept(min(thresholds))
    scores = tuple(kept.scores.tolist())
    numbers = sorted({_number_above(scores, threshold) for threshold in thresholds})
    is_detr = rules.architecture.rule == "detr"
    found = _detr_rounds(prediction, kept, numbers) if is_detr else _rounds(prediction, kept, numbers)
    rounds = {len(places): Round(tuple(places), tuple(inside), _compared(ids, sample)) for places, inside, ids in found}
    groups = tuple(None if is_detr else rules.groups[label] for label in kept.labels)
    categories = tuple(rules.category_ids[label] for label in kept.labels)
    return ThresholdCache(scores, categories, groups, is_detr or rules.architecture.paints_outside, rounds)


def _rounds(
    prediction: QueryPrediction, kept: Kept, numbers: Sequence[int]
) -> Iterator[tuple[list[int], list[int], IdMap]]:
    """Yield the kept positions, the areas of their masks and the regions, for each number of kept queries."""
    competition, order = Competition(prediction.masks.size), _best_first(kept)
    done = 0
    for number in numbers:
        for place in order[done:number]:
            competition.add(place, kept.scores[place], prediction.masks.enlarged(kept.queries[place]))
        done = number
        places = sorted(order[:number])
        regions = (2 * competition.winner + competition.is_inside + 1).clamp(min=0)
        inside = [areas.inside for areas in competition.areas(places)]
        yield places, inside, regions.numpy().astype(np.int32)


def _detr_rounds(
    prediction: QueryPrediction, kept: Kept, numbers: Sequence[int]
) -> Iterator[tuple[list[int], list[int], IdMap]]:
    """Yield the same for DETR, whose merged segments are the regions; all of their pixels count as inside."""
    order = _best_first(kept)
    for number in numbers:
        places = sorted(order[:number])
        part = Kept(
            [kept.queries[place] for place in places], [kept.labels[place] for place in places], kept.scores[places]
        )
        ids, segments = detr_merging.merge(prediction.masks, part, prediction.rules.groups)
        region_of_id = np.zeros(len(segments) + 1, np.int32)
        region_of_id[[segment.id for segment in segments]] = [2 * places[segment.query] + 2 for segment in segments]
        areas = dict(zip(*np.unique(ids, return_counts=True), strict=True))
        inside = dict.fromkeys(places, 0) | {places[s.query]: int(areas[s.id]) for s in segments}
        yield places, list(inside.values()), region_of_id[ids]


def _best_first(kept: Kept) -> list[int]:
    """Return the positions of the kept queries by descending score."""
    order: list[int] = np.argsort(-kept.scores.numpy(), kind="stable").tolist()
    return order


def _number_above(scores: Sequence[float], threshold: float) -> int:
    """Return how many scores are above a threshold, compared as float32, like in the network's output."""
    return int((np.array(scores, np.float32) > np.float32(threshold)).sum())


def _compared(ids: IdMap, sample: Sample) -> ImageOverlap:
    """Return the overlap of regions with the ground truth; the area of a region is its number of pixels."""
    numbers, areas = _counts(ids)
    listed = tuple(
        Segment(number, 0, area, _NO_BOX)
        for number, area in zip(numbers.tolist(), areas.tolist(), strict=True)
        if number
    )
    return compare(PanopticMap(ids, listed), sample.annotation, sample.image_id, sample.file_name)


def _counts(ids: IdMap) -> tuple[IntArray, IntArray]:
    numbers, areas = np.unique(ids, return_counts=True)
    return numbers.astype(np.int64), areas.astype(np.int64)
