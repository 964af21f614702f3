"""What the files of a saved folder say, and which folders are refused, without tensors and transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from panformer_cli.data import ade20k_classes, cityscapes_labels
from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.coco_categories import COCO
from panformer_cli.errors import CheckpointError
from panformer_cli.models.families import read_saved_folder
from panformer_cli.models.hugging_face.architectures import ARCHITECTURES

CITYSCAPES = [row.name for row in cityscapes_labels.CATEGORIES.categories]
ADE20K = [row.name for row in ade20k_classes.CATEGORIES.categories]
COCO_NAMES = [row.name for row in COCO.categories]
SQUASHED = {"size": {"height": 384, "width": 384}}


def write(folder: Path, names: list[str] | None = None, tensors: tuple[str, ...] = ("a",), **config: Any) -> Path:
    """Write a folder with a config and a file of tensors."""
    folder.mkdir(exist_ok=True)
    content = {"model_type": "mask2former", **config}
    if names is not None:
        content["id2label"] = {str(label): name for label, name in enumerate(names)}
    (folder / "config.json").write_text(json.dumps(content))
    save_file({name: torch.zeros(1) for name in tensors}, folder / "model.safetensors")
    return folder


def write_processor(folder: Path, **content: Any) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps(content))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_folder_of_coco(name: str, tmp_path: Path) -> None:
    names = [f"LABEL_{label}" for label in range(250 if name == "detr" else 133)]
    saved = read_saved_folder(write(tmp_path, names, model_type=name, image_size=1280))
    assert saved.model.architecture == name
    assert saved.categories == COCO
    assert len(saved.model.labels) == len(names)
    assert saved.inference.score_threshold == (0.85 if name == "detr" else 0.8)
    assert saved.inference.overlap_threshold == 0.8
    sides = (saved.data.short_side, saved.data.long_side)
    assert sides == ((1280, 1280) if name.startswith("eomt") else (800, 1333))
    assert any("instances" in note for note in saved.notes) == (name == "maskformer")
    assert any("of the task panoptic" in note for note in saved.notes) == (name == "oneformer")


@pytest.mark.parametrize(
    ("name", "names", "processor", "sides"),
    [
        ("mask2former", COCO_NAMES, SQUASHED, (800, 1333)),
        ("mask2former", ADE20K, SQUASHED, (640, 2560)),
        ("mask2former", CITYSCAPES, SQUASHED, (1024, 2048)),
        ("oneformer", ADE20K, None, (512, 2048)),
        ("oneformer", ADE20K, {"size": {"shortest_edge": 1280, "longest_edge": 5120}}, (1280, 5120)),
        ("oneformer", CITYSCAPES, None, (1024, 2048)),
        ("maskformer", COCO_NAMES, {"size": 512, "max_size": 900}, (512, 900)),
        ("maskformer", ["bolt", "nut"], None, (800, 1333)),
        ("eomt", COCO_NAMES, {"size": {"shortest_edge": 800, "longest_edge": 1333}}, (640, 640)),
    ],
)
def test_sides_of_the_input(
    name: str, names: list[str], processor: dict[str, Any] | None, sides: tuple[int, int], tmp_path: Path
) -> None:
    write(tmp_path, names, model_type=name)
    if processor is not None:
        write_processor(tmp_path, **processor)
    data = read_saved_folder(tmp_path).data
    assert (data.short_side, data.long_side) == sides


def test_mean_and_deviation_are_read(tmp_path: Path) -> None:
    write_processor(write(tmp_path, ["a"]), image_mean=[0.5, 0.4, 0.3], image_std=[0.1, 0.2, 0.3])
    model = read_saved_folder(tmp_path).model
    assert (model.image_mean, model.image_std) == ((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))


def test_labels_for_other_data(tmp_path: Path) -> None:
    table = CategoryTable(COCO.categories[:3])
    saved = read_saved_folder(write(tmp_path, ["person", "Car", "spaceship"]), table)
    assert saved.model.labels == (1, 3, -1)
    assert saved.categories == table
    assert [note.partition(": ")[2].partition(" ")[0] for note in saved.notes] == ["no", "1"]
    assert read_saved_folder(tmp_path, table, {"spaceship": 2}).model.labels == (-1, -1, 2)


def test_without_names_transformers_has_two_labels(tmp_path: Path) -> None:
    saved = read_saved_folder(write(tmp_path))
    assert [row.name for row in saved.categories.categories] == ["LABEL_0", "LABEL_1"]
    assert len(read_saved_folder(write(tmp_path, num_labels=133)).model.labels) == 133


def test_code_of_the_repository_is_ignored(tmp_path: Path) -> None:
    write(tmp_path, ["a"], auto_map={"AutoModel": "modeling.Evil"})
    (tmp_path / "modeling.py").write_text("raise SystemExit")
    assert read_saved_folder(tmp_path).model.architecture == "mask2former"


@pytest.mark.parametrize(
    "name", ["mask2former-ade-semantic", f"models--owner--cityscapes_semantic_eomt/snapshots/{'0' * 40}"]
)
def test_a_name_with_semantic_is_noted(name: str, tmp_path: Path) -> None:
    """For a model from the Hub, that of the repository: its folder in the cache has the name of the commit."""
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    write(tmp_path / name, ADE20K)
    assert any("semantic segmentation" in note for note in read_saved_folder(tmp_path / name).notes)


def test_shards(tmp_path: Path) -> None:
    write(tmp_path, ["a"])
    (tmp_path / "model.safetensors").rename(tmp_path / "model-1.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    read_saved_folder(tmp_path)
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"lists model-2.safetensors, which is not in the folder"):
        read_saved_folder(tmp_path)
    shutil.copy(tmp_path / "model-1.safetensors", tmp_path.parent / "outside.safetensors")
    index.write_text(json.dumps({"weight_map": {"a": "../outside.safetensors"}}))
    with pytest.raises(CheckpointError, match="expected names of safetensors files in the same folder"):
        read_saved_folder(tmp_path)
    index.write_text("{}")
    with pytest.raises(CheckpointError, match="no weight_map"):
        read_saved_folder(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"model_type": "videomt"},
            "'videomt', which is not supported; expected one of maskformer, mask2former, oneformer",
        ),
        ({"model_type": None}, "the model type is None"),
        ({"id2label": ["a", "b"]}, "id2label is"),
        ({"id2label": {"1": "a", "2": "b"}}, "id2label has the labels '1', '2'"),
        ({"num_labels": "many"}, "num_labels is 'many'"),
        ({"model_type": "eomt", "image_size": [640, 640]}, "image_size is \\[640, 640\\]"),
        ({"model_type": "eomt", "image_size": 8}, "data.short_side is 8"),
        ({"backbone_config": {"model_type": "dinat"}}, "needs the package natten"),
    ],
)
def test_configs_that_are_refused(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_saved_folder(write(tmp_path, **config))


def test_folders_that_are_refused(tmp_path: Path) -> None:
    def message() -> str:
        with pytest.raises(CheckpointError) as caught:
            read_saved_folder(tmp_path)
        assert str(tmp_path) in str(caught.value)
        return str(caught.value)

    with pytest.raises(CheckpointError, match="no such folder"):
        read_saved_folder(tmp_path / "none")
    assert "it has no config.json" in message()
    write(tmp_path, ["a"])
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-2])
    assert "corrupt or truncated" in message()
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    assert "model.safetensors: the file is a Git LFS pointer" in message()
    torch.save({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    assert "the file was written by torch.save, not as safetensors; it was not loaded" in message()
    (tmp_path / "model.safetensors").unlink()
    assert "it has no weights; expected model.safetensors" in message()
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    assert "it has its weights only as pytorch_model.bin" in message()
    write(tmp_path, ["a"], ("network.a", "network.b"))
    assert "original EoMT repository" in message()
    (tmp_path / "config.json").write_text('{"model_type": ')
    assert "not valid JSON" in message()
    (tmp_path / "config.json").write_text("[]")
    assert "expected an object" in message()
    write(tmp_path, ["a"])
    (tmp_path / "preprocessor_config.json").write_text("{")
    assert "not valid JSON" in message()
