"""Merging of masks in MaskFormer, Mask2Former, OneFormer and EoMT: every pixel goes to one query.

The rule is that of the original projects (docs/hugging_face_rules.md). Only one mask at a time has the size of the
image, so memory does not grow with the number of queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from panformer_cli.data.structures import IdMap
from panformer_cli.models.hugging_face.query_masks import Kept, QueryMasks, Size

HALF = 0.5
"""Probability from which a pixel is inside a mask."""


class QuerySegment(NamedTuple):
    """A segment of labels, before they become categories.

    Attributes:
        id: value of its pixels, 1 or more.
        query: position among the kept queries of the one that opened it.
    """

    id: int
    query: int


class LabelMap(NamedTuple):
    """The segment id of each pixel, (H, W), 0 for void, and the segments in the order of their ids."""

    ids: IdMap
    segments: list[QuerySegment]


class Areas(NamedTuple):
    """Numbers of pixels of one query.

    Attributes:
        won: those that it won.
        inside: those at which its mask is at least one half, won or not.
        both: those that it won, at which its mask is at least one half.
    """

    won: int
    inside: int
    both: int


class Competition:
    """Finds the query with the highest class score x mask probability at each pixel; the first one of equals.

    Attributes:
        winner: (H, W) int64, the query that has won each pixel so far; -1 for none.
        is_inside: (H, W) bool, whether the winner's mask is at least one half.
    """

    def __init__(self, size: Size) -> None:
        self.winner = torch.full(size, -1)
        self.is_inside = torch.zeros(size, dtype=torch.bool)
        self._best = torch.full(size, -1.0)
        self._inside: dict[int, int] = {}

    def add(self, query: int, score: Tensor, logits: Tensor) -> None:
        """Let a query compete, in any order.

        Args:
            query: its number, which is not used twice.
            score: () float32 class score.
            logits: (H, W) mask logits.
        """
        probability = logits.sigmoid()
        inside, value = probability >= HALF, score * probability
        wins = (value > self._best) | ((value == self._best) & (self.winner > query))
        self._best = torch.where(wins, value, self._best)
        self.winner = torch.where(wins, query, self.winner)
        self.is_inside = torch.where(wins, inside, self.is_inside)
        self._inside[query] = int(inside.sum())

    def areas(self, queries: Sequence[int]) -> list[Areas]:
        """Return the areas of queries that have competed."""
        length = max(queries, default=0) + 2
        won = torch.bincount(self.winner.flatten() + 1, minlength=length).tolist()
        both = torch.bincount(self.winner[self.is_inside] + 1, minlength=length).tolist()
        return [Areas(won[query + 1], self._inside[query], both[query + 1]) for query in queries]


def segment_ids(
    areas: Sequence[Areas], groups: Sequence[int | None], overlap_threshold: float, paints_outside: bool
) -> list[int]:
    """Return the segment id of each kept query; 0 for a query that is dropped.

    Args:
        areas: of each kept query.
        groups: of each kept query; those of one group share a segment, and None is a segment of its own.
        overlap_threshold: a query that won less than this share of its mask is dropped.
        paints_outside: whether pixels at which the mask is below one half also belong to the segment.
    """
    ids, of_group, last = [], dict[int, int](), 0
    for (won, inside, both), group in zip(areas, groups, strict=True):
        painted = won if paints_outside else both
        if painted == 0 or inside == 0 or won / inside < overlap_threshold:
            ids.append(0)
        elif group is not None and group in of_group:
            ids.append(of_group[group])
        else:
            last += 1
            ids.append(last)
            if group is not None:
                of_group[group] = last
    return ids


def merge(
    masks: QueryMasks, kept: Kept, groups: Sequence[int | None], overlap_threshold: float, paints_outside: bool
) -> LabelMap:
    """Return the map of the kept queries; the arguments are those of `segment_ids`, with `groups` by label."""
    competition = Competition(masks.size)
    for number, query in enumerate(kept.queries):
        competition.add(number, kept.scores[number], masks.enlarged(query))
    areas = competition.areas(range(len(kept.queries)))
    ids = segment_ids(areas, [groups[label] for label in kept.labels], overlap_threshold, paints_outside)
    of_query = torch.tensor([0, *ids])  # the first is for pixels without a winner
    painted = of_query[competition.winner + 1]
    if not paints_outside:
        painted = torch.where(competition.is_inside, painted, 0)
    return LabelMap(painted.numpy().astype(np.int32), opened(ids))


def opened(ids: Sequence[int]) -> list[QuerySegment]:
    """Return the segments from the segment id of each kept query; the first query with an id opened it."""
    first: dict[int, int] = {}
    for query, number in enumerate(ids):
        if number:
            first.setdefault(number, query)
    return [QuerySegment(number, query) for number, query in first.items()]
