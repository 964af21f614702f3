"""The synthetic weights are those of the recordings."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from tests.golden.release import DATA, VARIANTS, made_up, release_keys


@pytest.mark.slow
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_the_synthetic_weights_are_those_of_the_recordings(train: bool) -> None:
    recorded = json.loads((DATA / "fill_check.json").read_text())[f"r50.{'train' if train else 'eval'}"]
    digest, elements = hashlib.sha256(), 0
    for name, shape, kind in release_keys("r50"):
        if kind == "float32":
            values = made_up(name, tuple(shape), VARIANTS["r50"].salt, train)
            digest.update(values.tobytes())
            elements += values.size
    assert elements == recorded["elements"]
    assert digest.hexdigest() == recorded["sha256"]


def test_a_synthetic_tensor_value_by_value() -> None:
    example = json.loads((DATA / "fill_check.json").read_text())["example"]
    values = made_up(example["key"], (300, 512), example["salt"], train=False)
    assert values.reshape(-1)[:4].tolist() == pytest.approx(example["first4"], abs=0)
    assert values.dtype == np.float32
