"""A config.json cannot make transformers ask the Hub for a backbone, run code or fetch kernels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from panformer_cli.errors import CheckpointError
from panformer_cli.models.families import check_saved_config, read_saved_folder
from panformer_cli.models.hugging_face.local_config import local_config
from tests.saved_models import save_tiny

PATH = Path("config.json")
REMOTE = ["owner/name", "hf-hub:owner/name", "hf_hub:owner/name", "local-dir:/folder", "./folder", "", 3]
CODE: dict[str, Any] = {"auto_map": {"AutoBackbone": "owner/code--file.Class"}, "attn_implementation": "owner/kernel"}


@pytest.mark.parametrize("name", REMOTE)
@pytest.mark.parametrize(
    "rest",
    [
        {"model_type": "mask2former"},
        {"model_type": "detr", "use_timm_backbone": False, "backbone_config": None},
        {"model_type": "timm_backbone"},
    ],
    ids=lambda rest: str(rest["model_type"]),
)
def test_a_backbone_elsewhere_is_refused(name: Any, rest: dict[str, Any], tmp_path: Path) -> None:
    """Before anything else of the model is downloaded, and at any depth."""
    config = {**rest, "backbone": name}
    if rest["model_type"] == "timm_backbone":
        config = {"model_type": "maskformer", "decoder_config": {"backbone_config": config}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"config.json: the backbone is .*expected a backbone_config"):
        check_saved_config(tmp_path)


def test_names_of_timm() -> None:
    """A name alone is described as transformers does it when the Hub has no repository of this name."""
    published = {"model_type": "detr", "backbone": "resnet50", "use_timm_backbone": True, "backbone_config": None}
    assert local_config(published, PATH) == published
    described = {"model_type": "timm_backbone", "backbone": "resnet50", "out_indices": [1, 2, 3, 4]}
    saved_later = {**published, "backbone_kwargs": {"out_indices": [1, 2, 3, 4]}}
    expected = {**published, "backbone": None, "backbone_kwargs": None, "backbone_config": described}
    assert local_config(saved_later, PATH) == expected
    unused = {"model_type": "mask2former", "backbone": "owner/name", "backbone_config": {"model_type": "swin"}}
    assert local_config(unused, PATH) == unused
    with pytest.raises(CheckpointError, match="backbone_kwargs is 'x'; expected an object"):
        local_config({**published, "backbone_kwargs": "x"}, PATH)


def test_code_and_kernels_are_left_out() -> None:
    inner: dict[str, Any] = {"model_type": "swin", "depths": [1, 2]}
    config = {"model_type": "mask2former", "parts": [inner | CODE], "backbone_config": inner | CODE, **CODE}
    assert local_config(config, PATH) == {"model_type": "mask2former", "parts": [inner], "backbone_config": inner}


@pytest.mark.slow
def test_a_network_is_loaded_without_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers would ask on the terminal whether to run the code, and fetch the kernel from the Hub."""
    huggingface_hub = pytest.importorskip(
        "huggingface_hub", reason="needs huggingface_hub (pip install 'panformer[hub]')"
    )
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_exists", lambda *_: pytest.fail("the Hub was asked"))
    folder = save_tiny(tmp_path / "model", "mask2former")
    config = json.loads((folder / "config.json").read_text())
    changed = {**config, **CODE, "backbone": "owner/name", "backbone_config": {**config["backbone_config"], **CODE}}
    (folder / "config.json").write_text(json.dumps(changed))
    assert not read_saved_folder(folder).load().training
