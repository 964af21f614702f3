"""Of a preprocessor_config.json, only what describes the network's input is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from panformer_cli.errors import CheckpointError
from panformer_cli.models.hugging_face.preprocessor import Preprocessing, preprocessing_of

PATH = Path("preprocessor_config.json")


@pytest.mark.parametrize(
    ("content", "sides"),
    [
        ({}, None),
        ({"size": {"shortest_edge": 512, "longest_edge": 2048}}, (512, 2048)),
        ({"size": 800, "max_size": 1333}, (800, 1333)),
        ({"size": {"shortest_edge": 640}, "max_size": 2560}, (640, 2560)),
        ({"size": {"height": 384, "width": 384}, "size_divisor": 32, "do_pad": False}, None),
        ({"size": {"shortest_edge": 640, "longest_edge": None}}, None),
        ({"image_processor_type": "MaskFormerImageProcessor", "resample": 3, "do_resize": False}, None),
    ],
)
def test_sides(content: dict[str, Any], sides: tuple[int, int] | None) -> None:
    assert preprocessing_of(content, PATH) == Preprocessing(sides=sides)


def test_colors_without_noise() -> None:
    noisy = {"image_mean": [0.48500001430511475, 0.4560000002384186, 0.4059999883174896], "rescale_factor": 0.003921569}
    assert preprocessing_of(noisy, PATH) == Preprocessing()
    own = preprocessing_of({"image_mean": [0.5, 0.5, 0.5], "image_std": [1, 1, 1]}, PATH)
    assert own == Preprocessing((0.5, 0.5, 0.5), (1.0, 1.0, 1.0))


def test_things_of_oneformer() -> None:
    content = {"metadata": {"0": "wall", "1": "bed", "thing_ids": [1], "class_names": ["wall", "bed"]}}
    assert preprocessing_of(content, PATH).thing_labels == frozenset({1})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"rescale_factor": 1.0}, "rescale_factor is 1.0"),
        ({"rescale_factor": "a"}, "rescale_factor is 'a'"),
        ({"do_normalize": False}, "do_normalize is false"),
        ({"image_mean": [0.5, 0.5]}, "image_mean is"),
        ({"image_mean": [0.5, "a", 0.5]}, "image_mean is"),
        ({"image_std": [0.5, 0, 0.5]}, "image_std is"),
        ({"image_mean": [123.675, 116.28, 103.53]}, f"{PATH}: image_mean is .*for colors of 0 to 1"),
        ({"size": {"shortest_edge": 900, "longest_edge": 800}}, "900 and 800"),
        ({"size": "large", "max_size": 7}, "'large' and 7"),
    ],
)
def test_bad_numbers(content: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        preprocessing_of(content, PATH)
