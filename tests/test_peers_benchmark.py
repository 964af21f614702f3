"""benchmarks/peers.py: the recipes of the families, and the candidates of random outputs."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from tests.conftest import REPOSITORY

SCRIPT = REPOSITORY / "benchmarks" / "peers.py"
FAMILIES = ("panoptic_segformer", "knet", "maskformer", "mask2former", "oneformer", "eomt", "detr")


@pytest.fixture(scope="module")
def peers() -> ModuleType:
    spec = importlib.util.spec_from_file_location("peers_benchmark", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("family", "masks"), [("mask2former", "mask_logits"), ("knet", "masks")])
def test_thirty_queries_are_candidates_with_masks_on_a_fifth_of_the_image(
    family: str, masks: str, peers: ModuleType
) -> None:
    generator = torch.Generator().manual_seed(0)
    classes = torch.randn(1, 100, 133 + (family != "knet"), generator=generator)
    logits = torch.randn(1, 100, 20, 30, generator=generator)
    peers.add_candidates(family, SimpleNamespace(class_logits=classes, **{masks: logits}))
    scores = classes.sigmoid() if family == "knet" else classes.softmax(2)[..., :-1]
    best, labels = scores.max(2)
    assert (best[0] > 0.99).nonzero().flatten().tolist() == list(range(30))
    assert labels[0, :30].tolist() == list(range(30))
    assert (logits > 0).float().mean((2, 3)) == pytest.approx(torch.full((1, 100), 0.2), abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_recipes_keep_the_size_of_the_image(family: str, peers: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs transformers (pip install 'panformer[hf]')")
    assert family in peers.FAMILIES
    recipe = peers.recipe_of(family, (256, 320), tmp_path)
    assert (recipe.data.short_side, recipe.data.long_side) == (256, 320)
    assert (recipe.model.family in ("panoptic_segformer", "knet")) == (family in peers.NATIVE)
