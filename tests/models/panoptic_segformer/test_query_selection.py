"""Selection of (query, class) pairs at inference."""

from __future__ import annotations

import torch

from panformer_cli.models.panoptic_segformer.query_selection import select_top


def test_the_best_pairs_of_query_and_class_are_selected() -> None:
    logits = torch.tensor([[[0.1, 3.0], [-1.0, 0.5], [2.0, 2.5]], [[9.0, -9.0], [-8.0, -7.0], [1.0, 0.0]]])
    top = select_top(logits, 3)
    assert top.queries.tolist() == [[0, 2, 2], [0, 2, 2]]  # query 2 twice
    assert top.labels.tolist() == [[1, 1, 0], [0, 0, 1]]
    torch.testing.assert_close(top.scores, torch.tensor([[3.0, 2.5, 2.0], [9.0, 1.0, 0.0]]).sigmoid())


def test_all_pairs_are_selected_if_there_are_fewer() -> None:
    top = select_top(torch.randn(1, 3, 2), 100)
    pairs = {*zip(top.queries[0].tolist(), top.labels[0].tolist(), strict=True)}
    assert pairs == {(query, label) for query in range(3) for label in range(2)}


def test_without_thing_classes_nothing_is_selected() -> None:
    assert select_top(torch.zeros(2, 3, 0), 100).queries.shape == (2, 0)
