"""Selection of the thing queries whose masks are decoded: the best at inference, the matched ones in training."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class TopQueries(NamedTuple):
    """The best (query, class) pairs of each image, descending. A query can appear with several classes.

    Attributes:
        queries: (B, k) int64 query indices.
        labels: (B, k) int64 thing labels.
        scores: (B, k) class scores, 0..1.
    """

    queries: Tensor
    labels: Tensor
    scores: Tensor


def select_top(class_logits: Tensor, top_k: int) -> TopQueries:
    """Return the `top_k` best pairs, or all if there are fewer.

    Args:
        class_logits: (B, Q, things) of the last location layer, before the sigmoid.
        top_k: number of pairs.
    """
    num_things = class_logits.shape[-1]
    scores = class_logits.float().sigmoid().flatten(1)
    top = scores.topk(min(top_k, scores.shape[1]), dim=1)
    return TopQueries(top.indices // max(num_things, 1), top.indices % max(num_things, 1), top.values)


def pad_queries(selected: list[Tensor]) -> Tensor:
    """Return the selected indices of all images, padded with query 0, (B, n) int64.

    Queries do not interact in the thing mask decoder, so the padding changes nothing.
    """
    most = max(len(indices) for indices in selected)
    return torch.stack([nn.functional.pad(indices, (0, most - len(indices))) for indices in selected])


def gather_queries(queries: Tensor, indices: Tensor) -> Tensor:
    """Return the queries (B, n, C) at `indices` (B, n) of (B, Q, C)."""
    return queries.gather(1, indices[..., None].expand(-1, -1, queries.shape[-1]))
