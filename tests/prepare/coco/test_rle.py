"""The one-pass encoder compared with pycocotools."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from panformer_cli.prepare.coco.rle import encode_segments


@pytest.mark.parametrize("seed", range(40))
def test_equals_pycocotools_on_random_maps(seed: int) -> None:
    rng = np.random.default_rng(seed)
    patches = rng.choice([0, 1, 300, 16777215], size=rng.integers(1, 25, 2))
    ids = np.kron(patches, np.ones(rng.integers(1, 9, 2), dtype=int)).astype(np.int32)
    encoded = encode_segments(ids)
    assert set(encoded) == set(np.unique(ids).tolist()) - {0}
    for segment_id, rle in encoded.items():
        expected = coco_mask.encode(np.asfortranarray(ids == segment_id))
        assert rle == {"size": list(ids.shape), "counts": expected["counts"].decode()}


def test_a_void_map_gives_no_segments() -> None:
    assert encode_segments(np.zeros((3, 4), dtype=np.int32)) == {}


def test_one_segment_covers_the_map() -> None:
    decoded = coco_mask.decode(encode_segments(np.full((3, 4), 9, dtype=np.int32))[9])
    assert decoded.shape == (3, 4) and decoded.all()
