"""Generated scenes that move: what stays the same from frame to frame, and what is hidden."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from panformer_cli.data.scenes.moving import CATEGORIES, MovingOptions, moving_scene
from panformer_cli.data.scenes.options import SceneOptions
from panformer_cli.data.structures import ImageArray, PanopticMap
from panformer_cli.errors import PanformerError

SMALL = SceneOptions(height=64, width=80)


def scene(seed: int, hidden_frames: int = 0, frames: int = 12) -> list[tuple[ImageArray, PanopticMap]]:
    return list(moving_scene(MovingOptions(SMALL, frames=frames, hidden_frames=hidden_frames), seed))


def things(panoptic: PanopticMap) -> dict[int, int]:
    """Return the category of each thing by its id."""
    return {s.id: s.category_id for s in panoptic.segments if CATEGORIES.by_id(s.category_id).is_thing}


@pytest.mark.parametrize("seed", range(4))
def test_objects_move_a_little_and_are_visible_in_every_frame(seed: int) -> None:
    frames = scene(seed)
    assert len(frames) == 12
    assert things(frames[0][1])
    for (_, before), (image, after) in pairwise(frames):
        assert image.shape == (64, 80, 3)
        assert things(before) == things(after)
        assert not np.array_equal(before.ids, after.ids)
        for segment in after.segments:
            assert segment.area == (after.ids == segment.id).sum() >= SMALL.min_visible_pixels


def test_the_image_shows_the_annotation() -> None:
    """An object keeps its colors, so their mean hardly changes while its position does."""
    frames = scene(1)
    for thing in things(frames[0][1]):
        means = [image[panoptic.ids == thing].mean(axis=0) for image, panoptic in frames]
        assert np.ptp(means, axis=0).max() < 25


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_one_object_is_hidden_for_a_moment(seed: int) -> None:
    present = [set(things(panoptic)) for _, panoptic in scene(seed, hidden_frames=4)]
    everything = set.union(*present)
    assert present[0] == present[-1] == everything
    absent = [everything - found for found in present]
    hidden = {thing for missing in absent for thing in missing}
    assert len(hidden) == 1
    assert 1 <= sum(map(bool, absent)) <= 4


def test_equal_arguments_give_equal_frames() -> None:
    for (first, first_map), (second, second_map) in zip(scene(2), scene(2), strict=True):
        assert np.array_equal(first, second)
        assert np.array_equal(first_map.ids, second_map.ids)
    assert not np.array_equal(scene(2)[0][0], scene(3)[0][0])


@pytest.mark.slow
def test_impossible_wishes_are_an_error() -> None:
    with pytest.raises(PanformerError, match="no object can be hidden for 1 to 1 of 2 frames"):
        scene(0, hidden_frames=1, frames=2)
