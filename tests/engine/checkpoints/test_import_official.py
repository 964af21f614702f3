"""Importing an official file: an identical model, a self-describing folder, and no overwritten files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.data.coco.coco_categories import COCO
from panformer_cli.engine.checkpoints.checkpoint import TrainProgress, load_model, read_checkpoint, save_checkpoint
from panformer_cli.engine.checkpoints.import_official import import_weights
from panformer_cli.engine.runs import RunFolder, find_checkpoint
from panformer_cli.errors import PanformerError
from panformer_cli.recipe import Recipe
from panformer_cli.recipe_io import load_recipe
from panformer_cli.reporting import SilentReporter
from tests.engine.small import StopAfter
from tests.golden.release import release_keys
from tests.release_files import save_as_mmcv, stub_state


def scattered(shape: list[int], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator) if shape else torch.tensor(41)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write an official r50 file with random weights, 200 MB."""
    generator = torch.Generator().manual_seed(5)
    state = {name: scattered(shape, generator) for name, shape, _ in release_keys("r50")}
    return save_as_mmcv(state, tmp_path_factory.mktemp("release") / "panoptic_segformer_r50_1x.pth")


@pytest.mark.slow
def test_the_imported_model_is_identical(source: Path, tmp_path: Path) -> None:
    reporter = StopAfter()
    written = import_weights(source, tmp_path / "out", None, None, reporter)
    assert written == tmp_path / "out" / "model.safetensors"
    assert {path.name for path in written.parent.iterdir()} == {"model.safetensors", "recipe.yaml"}
    before, after = (load_model(read_checkpoint(path)).state_dict() for path in (source, written))
    assert list(before) == list(after)
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype
        assert torch.equal(tensor, after[name]), name
    drawn = load_file(written)["model.encoder.level_embedding"]
    theirs = torch.load(source, weights_only=True)["state_dict"]["bbox_head.transformer.level_embeds"]
    assert torch.equal(drawn, theirs)
    unused = sum(
        torch.Size(shape).numel()
        for name, shape, _ in release_keys("r50")
        if name.startswith(("bbox_head.reg_branches2.", "bbox_head.cls_thing_branches."))
    )
    parameters = 51_271_900 - unused  # docs/model.md, "Published results"
    assert reporter.messages == [
        f"{source}: recipe r50_1x, 80 things and 53 stuff classes, {parameters / 1e6:.1f} M parameters"
    ]


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_as_mmcv(stub_state("r50"), tmp_path_factory.mktemp("release") / "r50.pth")


@pytest.mark.slow
def test_the_folder_is_self_describing(stub: Path, tmp_path: Path) -> None:
    import_weights(stub, tmp_path, None, None, SilentReporter())
    checkpoint = read_checkpoint(find_checkpoint(tmp_path, SilentReporter()))
    assert checkpoint.path == tmp_path / "model.safetensors"
    assert (checkpoint.recipe, checkpoint.categories) == (load_recipe("r50"), COCO)
    assert checkpoint.progress == TrainProgress()
    assert checkpoint.official is None
    assert load_recipe(str(RunFolder(tmp_path).recipe)) == load_recipe("r50")
    import_weights(stub, tmp_path, "r50_1x", None, SilentReporter())  # again, to overwrite the first import
    assert read_checkpoint(tmp_path / "model.safetensors").recipe.name == "r50_1x"


def annotation(path: Path, things: int, stuff: int) -> Path:
    rows = [
        {"id": 10 + number, "name": f"row {number}", "isthing": int(number < things)}
        for number in range(things + stuff)
    ]
    path.write_text(json.dumps({"images": [], "annotations": [], "categories": rows}))
    return path


@pytest.mark.slow
def test_categories_come_from_an_annotation(tmp_path: Path) -> None:
    state = stub_state("r50")
    for name, tensor in state.items():
        if name.startswith("bbox_head.cls_branches."):
            state[name] = tensor[:3]
    state["bbox_head.stuff_query.weight"] = state["bbox_head.stuff_query.weight"][:2]
    source = save_as_mmcv(state, tmp_path / "mine.pth")
    table = annotation(tmp_path / "panoptic.json", 3, 2)
    written = import_weights(source, tmp_path / "out", None, table, SilentReporter())
    checkpoint = read_checkpoint(written)
    assert [row.id for row in checkpoint.categories.categories] == [10, 11, 12, 13, 14]
    for recipe in (checkpoint.recipe, load_recipe(str(RunFolder(tmp_path / "out").recipe))):
        assert recipe == replace(load_recipe("r50"), published_pq=None)  # that of COCO
    weights = load_model(checkpoint).state_dict()
    assert len(weights["location_decoder.class_branches.5.weight"]) == 3
    assert len(weights["stuff_queries.embedding.weight"]) == 2


def refused(source: Path, out: Path, categories: Path | None = None) -> str:
    with pytest.raises(PanformerError) as caught:
        import_weights(source, out, None, categories, SilentReporter())
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_panformer_checkpoint_is_not_imported(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    table = CategoryTable([Category(1, "ball", True), Category(2, "sky", False)])
    save_checkpoint(path, torch.nn.Linear(2, 2), Recipe(), table, TrainProgress())
    assert "best.safetensors is already a checkpoint of panformer; use it directly" in refused(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_files_is_not_changed(stub: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert f"--out {tmp_path / 'file'} is a file; expected a new or empty folder" in refused(stub, tmp_path / "file")
    for name in ("recipe.yaml", "last.safetensors", "photo.jpg"):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_text("precious")
        assert f"--out {folder} has other files than an earlier import" in refused(stub, folder)
        assert (folder / name).read_text() == "precious"
        assert [path.name for path in folder.iterdir()] == [name]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "the panoptic JSON {path} is missing; check the path"),
        ("", "the panoptic JSON {path} is empty (0 bytes); restore"),
        ("{", "annotation.json is not valid JSON, or is truncated"),
        ("{}", "annotation.json: the category table is empty; expected a list `categories`"),
        ('{"categories": [{"id": 1}]}', "annotation.json: the category {'id': 1} has no name"),
    ],
)
def test_an_annotation_that_cannot_be_used(content: str | None, expected: str, stub: Path, tmp_path: Path) -> None:
    path = tmp_path / "annotation.json"
    if content is not None:
        path.write_text(content)
    message = refused(stub, tmp_path / "out", path)
    assert expected.replace("{path}", str(path)) in message
    assert ("is not valid JSON" in message) == (content == "{")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_annotation_with_other_counts(stub: Path, tmp_path: Path) -> None:
    table = annotation(tmp_path / "annotation.json", 79, 54)
    expected = "but --categories has 79 things and 54 stuff classes"
    assert expected in refused(stub, tmp_path / "out", table)
    table.write_text(json.dumps(json.loads(table.read_text())["categories"]))  # the category table alone works, too
    assert expected in refused(stub, tmp_path / "out", table)


@pytest.mark.slow
def test_a_file_that_does_not_match_writes_nothing(tmp_path: Path) -> None:
    state = stub_state("r50")
    del state["neck.convs.0.gn.bias"]
    source = save_as_mmcv(state, tmp_path / "r50.pth")
    assert "missing: neck.convs.0.gn.bias; " in refused(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_weights_are_rejected(value: float, tmp_path: Path) -> None:
    name = "bbox_head.stuff_mask_head.blocks.0.norm3.bias"
    values = torch.zeros(256)
    values[-1] = value
    source = save_as_mmcv(stub_state("r50") | {name: values}, tmp_path / "r50.pth")
    expected = f"{source} has non-finite values (NaN or infinity) in 1 tensor; the first is {name}; "
    assert expected in refused(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_corruption_inside_a_tensor_is_detected(tmp_path: Path) -> None:
    name, value = "bbox_head.stuff_mask_head.blocks.0.norm3.bias", 0.123456
    source = save_as_mmcv(stub_state("r50") | {name: torch.full((256,), value)}, tmp_path / "r50.pth")
    load_model(read_checkpoint(source))
    content = source.read_bytes()
    offset = content.index(torch.tensor(value).numpy().tobytes() * 256)
    source.write_bytes(content[:offset] + b"\0" * 1024 + content[offset + 1024 :])
    load_model(read_checkpoint(source))  # loading does not detect the changed values
    assert "r50.pth: the file is corrupt or truncated; download or copy it again" in refused(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
