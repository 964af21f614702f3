"""Checkpoints: saving and loading, and errors for files that are not checkpoints."""

from __future__ import annotations

import errno
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from panformer_cli.data.categories import Category, CategoryTable
from panformer_cli.data.structures import Batch
from panformer_cli.engine.checkpoints.checkpoint import (
    TrainingState,
    TrainProgress,
    fill_model,
    is_finite,
    load_model,
    load_optimizer_state,
    load_weights,
    optimizer_state,
    read_checkpoint,
    read_training_state,
    save_checkpoint,
)
from panformer_cli.engine.runs import RunFolder, find_checkpoint
from panformer_cli.errors import CheckpointError, PanformerError
from panformer_cli.models.backbones.backbone import Backbone
from panformer_cli.models.base import LossCounts, PanopticModel, ParameterGroup, Prediction
from panformer_cli.models.build import build_model
from panformer_cli.models.panoptic_segformer.official.names import own_name
from panformer_cli.models.panoptic_segformer.settings import PanopticSegFormerSettings
from panformer_cli.recipe import Recipe
from panformer_cli.recipe_io import load_recipe, recipe_to_dict
from panformer_cli.reporting import SilentReporter
from panformer_cli.settings import TrainSettings
from tests.release_files import save_as_mmcv, stub_state
from tests.storage.test_plain_json import nested

State = dict[str, torch.Tensor]
CATEGORIES = CategoryTable([Category(7, "ball", True, (1, 2, 3)), Category(2, "box", True), Category(4, "sky", False)])


class SmallestModel(PanopticModel):
    """A model of some layers and a backbone without weights. It can be saved and loaded, but not run."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(CATEGORIES)
        self.backbone = cast(Backbone, SimpleNamespace(name=Recipe().model.backbone))
        self.layers = nn.Sequential(*layers)

    def infer(self, images: Tensor, padding_mask: Tensor) -> tuple[Any, ...]:
        raise NotImplementedError

    def forward(self, batch: Batch, counts: LossCounts) -> dict[str, Tensor]:
        raise NotImplementedError

    def postprocess(self, output: Any, index: int, size: tuple[int, int], settings: Any) -> Prediction:
        raise NotImplementedError

    def parameter_groups(self, settings: TrainSettings) -> list[ParameterGroup]:
        raise NotImplementedError

    def class_rows(self) -> dict[str, range]:
        raise NotImplementedError

    def stages(self) -> dict[str, nn.Module]:
        raise NotImplementedError


def random_model(seed: int = 0) -> SmallestModel:
    torch.manual_seed(seed)
    return SmallestModel(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def write(path: Path, state: TrainingState | None = None) -> Path:
    save_checkpoint(
        path, random_model(), Recipe(name="mine"), CATEGORIES, TrainProgress(step=5, best_pq=12.5, seconds=3.0), state
    )
    return path


def rewrite(path: Path, change: Callable[[dict[str, str]], Any]) -> Path:
    """Rewrite the checkpoint with changed metadata."""
    metadata = {
        "format": "panformer 1",
        "recipe": json.dumps(recipe_to_dict(Recipe())),
        "categories": json.dumps(CATEGORIES.to_coco()),
        "progress": "{}",
    }
    change(metadata)
    save_file({"model.weight": torch.zeros(1)}, path, metadata)
    return path


def test_a_saved_checkpoint_loads_unchanged(tmp_path: Path) -> None:
    state = TrainingState({"0.weight.exp_avg": torch.randn(2)}, {"0.cpu": torch.get_rng_state()})
    checkpoint = read_checkpoint(write(tmp_path / "a.safetensors", state))
    assert (checkpoint.recipe, checkpoint.categories) == (Recipe(name="mine"), CATEGORIES)
    assert checkpoint.progress == TrainProgress(step=5, best_pq=12.5, seconds=3.0)
    assert checkpoint.training_state
    back = read_training_state(checkpoint)
    torch.testing.assert_close(back.optimizer, state.optimizer)
    torch.testing.assert_close(back.random, state.random)
    other = random_model(1)
    load_weights(other, checkpoint)
    torch.testing.assert_close(other.state_dict(), random_model().state_dict(), rtol=0, atol=0)


def save_small_model(path: Path) -> tuple[Recipe, PanopticModel]:
    """Save a Panoptic SegFormer, and return what was saved."""
    sizes = PanopticSegFormerSettings(
        backbone="resnet18", frozen_stages=0, embed_dim=64, heads=4, encoder_layers=1, location_layers=1,
        thing_mask_layers=1, stuff_mask_layers=1, thing_queries=5,
    )  # fmt: skip
    recipe = Recipe(model=sizes)
    model = build_model(recipe.model, recipe.inference, CATEGORIES, pretrained=False)
    save_checkpoint(path, model, recipe, CATEGORIES, TrainProgress())
    return recipe, model


@pytest.mark.slow
def test_a_model_is_built_from_the_checkpoint_alone(tmp_path: Path) -> None:
    recipe, model = save_small_model(tmp_path / "a.safetensors")
    loaded = load_model(read_checkpoint(tmp_path / "a.safetensors"))
    assert not loaded.training
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)


@pytest.mark.slow
def test_a_checkpoint_whose_recipe_names_no_family_is_a_panoptic_segformer(tmp_path: Path) -> None:
    """Checkpoints of version 0.1.0 have no model family."""
    path = tmp_path / "a.safetensors"
    recipe, model = save_small_model(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    content = json.loads(metadata["recipe"])
    assert content["model"].pop("family") == "panoptic_segformer"
    save_file(load_file(path), path, {**metadata, "recipe": json.dumps(content)})
    checkpoint = read_checkpoint(path)
    assert checkpoint.recipe == recipe
    torch.testing.assert_close(load_model(checkpoint).state_dict(), model.state_dict(), rtol=0, atol=0)


def test_a_checkpoint_of_an_unknown_family_is_rejected(tmp_path: Path) -> None:
    def change(metadata: dict[str, str]) -> None:
        content = json.loads(metadata["recipe"])
        content["model"]["family"] = "panoptic_deeplab"
        metadata["recipe"] = json.dumps(content)

    path = rewrite(tmp_path / "a.safetensors", change)
    with pytest.raises(PanformerError, match=f"^checkpoint {path}: model.family is 'panoptic_deeplab': expected one"):
        read_checkpoint(path)


def test_a_loaded_optimizer_continues_exactly() -> None:
    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        model(torch.ones(2, 3) * torch.tensor([[1.0], [2.0]])).square().sum().backward()
        optimizer.step()

    model, copy = random_model().layers, random_model(1).layers
    optimizer, fresh = torch.optim.AdamW(model.parameters(), 0.1), torch.optim.AdamW(copy.parameters(), 0.1)
    step(model, optimizer)
    step(copy, fresh)  # its own state, to be overwritten
    copy.load_state_dict(model.state_dict())
    state = {name: value.clone() for name, value in optimizer_state(model, optimizer).items()}
    load_optimizer_state(copy, fresh, state)
    step(model, optimizer)
    step(copy, fresh)
    torch.testing.assert_close(copy.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_weights_without_training_state_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"a\.safetensors has only weights, .*--init-from"):
        read_training_state(read_checkpoint(write(tmp_path / "a.safetensors")))


def run_in_pickle(path: str) -> None:
    Path(path).touch()


class _Trap:
    """A pickle of this creates the file `path` when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return run_in_pickle, (str(self.path),)


@pytest.mark.parametrize("dump", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
@pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])
def test_a_pickle_is_rejected_and_not_run(dump: Callable[[Any, Path], Any], name: str, tmp_path: Path) -> None:
    path, ran = tmp_path / name, tmp_path / "ran"
    dump({"state_dict": _Trap(ran)}, path)
    with pytest.raises(CheckpointError, match="was not loaded[;,] "):
        read_checkpoint(path)
    assert not ran.exists()
    with path.open("rb") as file:
        torch.load(file, weights_only=False) if dump is torch.save else pickle.load(file)
    assert ran.exists(), "the trap does not work, and so proves nothing"


@pytest.mark.parametrize("kept", [100, 2000, -1])
def test_a_truncated_file_is_reported(kept: int, tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"a\.safetensors: the file is corrupt or truncated; download or copy it"):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [b"hello, world", b"\xff" * 64, b"{}"])
def test_other_files_are_rejected(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="is neither a safetensors file nor written by torch.save"):
        read_checkpoint(path)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match="none.safetensors: no such file; give a checkpoint or the folder of a run"
    ):
        read_checkpoint(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="is a folder without best, last or model.safetensors"):
        read_checkpoint(find_checkpoint(tmp_path, SilentReporter()))
    write(RunFolder(tmp_path).last)
    assert read_checkpoint(find_checkpoint(tmp_path, SilentReporter())).progress.step == 5


def test_tensors_of_another_program_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="is not a checkpoint of Panoptic SegFormer or K-Net: its tensors"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("recipe", None),
        ("recipe", "{"),
        ("recipe", "[]"),
        pytest.param("recipe", nested(5000), id="nested"),
        ("recipe", '{"model": {"headz": 8}}'),
        ("categories", "[]"),
        ("categories", "null"),
        ("categories", '[{"id": 1}]'),
        ("progress", '{"stepz": 1}'),
        ("progress", "3"),
    ],
)
def test_corrupt_metadata_is_one_message(key: str, value: str | None, tmp_path: Path) -> None:
    def change(metadata: dict[str, str]) -> None:
        metadata.pop(key)
        if value is not None:
            metadata[key] = value

    path = rewrite(tmp_path / "a.safetensors", change)
    with pytest.raises(PanformerError, match=f"checkpoint {path}: ") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_weights_of_another_model_are_rejected(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(write(tmp_path / "a.safetensors"))
    other = SmallestModel(nn.Linear(3, 5), nn.BatchNorm1d(5))
    with pytest.raises(CheckpointError) as caught:
        load_weights(other, checkpoint)
    message = str(caught.value)
    assert (
        "(recipe mine, 3 categories) does not match this model: unexpected: layers.2.bias, layers.2.weight; " in message
    )
    assert "of another shape: layers.0.weight ([4, 3], expected [5, 3]), layers.0.bias ([4], expected [5])" in message
    assert message.endswith("with the recipe and the categories that it was trained with")


def test_a_checkpoint_with_missing_weights_is_rejected(tmp_path: Path) -> None:
    tensors = load_file(write(tmp_path / "a.safetensors"))
    del tensors["model.layers.0.weight"]
    path = rewrite(tmp_path / "b.safetensors", lambda metadata: None)
    checkpoint = read_checkpoint(path)
    with pytest.raises(CheckpointError, match=r"missing: layers\.0\.weight, layers\.0\.bias, .*; unexpected: weight;"):
        load_weights(random_model(), checkpoint)


def test_equal_checkpoints_are_equal_files(tmp_path: Path) -> None:
    """safetensors writes the metadata in a random order, so it must be sorted."""
    files = {write(tmp_path / f"{number}.safetensors").read_bytes() for number in range(8)}
    assert len(files) == 1


def test_errors_of_the_system_are_reported_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[str] = []

    def full(*_: object) -> None:
        raised.append("I/O error: whatever (os error 28)")
        raise SafetensorError(f"Error while serializing: {raised[0]}")

    monkeypatch.setattr("panformer_cli.storage.tensor_files.save_file", full)
    path = tmp_path / "a.safetensors"
    with pytest.raises(PanformerError, match=f"^cannot write {path}: {os.strerror(errno.ENOSPC)}; free some space"):
        write(path)
    assert raised
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_no_files(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PanformerError, match=r"cannot write .*a\.safetensors: "):
        write(tmp_path / "file" / "a.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# Official files


@pytest.fixture(scope="module")
def r50(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_as_mmcv(stub_state("r50"), tmp_path_factory.mktemp("release") / "panoptic_segformer_r50_2x.pth")


def test_the_description_of_an_official_file(r50: Path) -> None:
    checkpoint = read_checkpoint(r50)
    assert checkpoint.recipe == load_recipe("r50")
    assert (checkpoint.categories.num_things, checkpoint.categories.num_stuff) == (80, 53)
    assert checkpoint.progress == TrainProgress()
    assert not checkpoint.training_state
    with pytest.raises(CheckpointError, match=r"r50_2x\.pth has only weights, so training cannot resume from it"):
        read_training_state(checkpoint)


@pytest.fixture(scope="module")
def r50_weights(r50: Path) -> State:
    """Return the weights of the model that is built from `r50`."""
    return load_model(read_checkpoint(r50)).state_dict()


@pytest.mark.slow
def test_every_official_tensor_is_loaded(r50_weights: State) -> None:
    state = r50_weights
    expected = {
        own_name(name, False): tensor for name, tensor in stub_state("r50").items() if own_name(name, False) is not None
    }
    counters = {name for name in state if name.endswith("num_batches_tracked")}
    assert set(state) - counters == set(expected)
    for name in set(state) - counters:
        assert torch.equal(state[name], expected[name]), name
    assert {int(state[name]) for name in counters} == {0}


OLDER_NAMES = {".things_mask_head.": ".mask_head.", ".stuff_mask_head.": ".mask_head2."}
OLDER_NAMES |= {".cls_thing_branches.": ".cls_branches2."}


def with_older_names(state: State) -> State:
    for new, old in OLDER_NAMES.items():
        state = {name.replace(new, old): tensor for name, tensor in state.items()}
    return state


def without(words: tuple[str, ...], state: State) -> State:
    return {name: tensor for name, tensor in state.items() if not any(word in name for word in words)}


FORMS: dict[str, Callable[[State, Path], Any]] = {
    "plain": torch.save,
    "module": lambda state, path: save_as_mmcv({f"module.{name}": tensor for name, tensor in state.items()}, path),
    "legacy": lambda state, path: save_as_mmcv(state, path, _use_new_zipfile_serialization=False),
    "safetensors": lambda state, path: save_file({name: tensor.contiguous() for name, tensor in state.items()}, path),
    "no counters": lambda state, path: torch.save(without(("num_batches_tracked",), state), path),
    "no unused branches": lambda state, path: torch.save(without(("reg_branches2", "cls_thing_branches"), state), path),
    "older names": lambda state, path: torch.save(with_older_names(state), path),
}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_an_official_file_gives_the_same_model(form: str, r50_weights: State, tmp_path: Path) -> None:
    FORMS[form](stub_state("r50"), tmp_path / "mine.pth")
    weights = load_model(read_checkpoint(tmp_path / "mine.pth")).state_dict()
    assert list(weights) == list(r50_weights)
    assert all(torch.equal(weights[name], r50_weights[name]) for name in weights)


def mismatch(change: Callable[[State], Any], tmp_path: Path) -> str:
    """Return the error message for a changed r50 file."""
    state = stub_state("r50")
    change(state)
    checkpoint = read_checkpoint(save_as_mmcv(state, tmp_path / "r50.pth"))
    with pytest.raises(CheckpointError) as caught:
        load_model(checkpoint)
    message = str(caught.value)
    assert message.startswith(
        f"checkpoint {tmp_path / 'r50.pth'} (recipe r50, 133 categories) does not match this model"
    )
    assert "\n" not in message
    return message


@pytest.mark.slow
def test_mismatched_tensors_are_listed_by_their_official_names(tmp_path: Path) -> None:
    names = ("neck.convs.1.gn.bias", "bbox_head.stuff_mask_head.blocks.5.norm3.weight")

    def change(state: State) -> None:
        for name in names:
            del state[name]
        state["bbox_head.surprise.weight"] = torch.ones(1)
        state["backbone.fc.weight"] = torch.ones(1)
        state["bbox_head.cls_branches.3.bias"] = torch.ones(81)

    message = mismatch(change, tmp_path)
    assert f"missing: {', '.join(names)}; unexpected: bbox_head.surprise.weight, backbone.fc.weight; " in message
    assert "of another shape: bbox_head.cls_branches.3.bias ([81], expected [80]); use" in message


ODD: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sparse": lambda tensor: tensor.to_sparse(),
    "quantised": lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
    "without values": lambda tensor: tensor.to("meta"),
    "complex": lambda tensor: tensor.to(torch.complex64),
    "whole": lambda tensor: tensor.to(torch.int64),
    "boolean": lambda tensor: tensor.to(torch.bool),
}


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("odd", ODD)
def test_tensors_that_are_not_plain_numbers_are_rejected(odd: str, tmp_path: Path) -> None:
    model, checkpoint = random_model(), read_checkpoint(write(tmp_path / "a.safetensors"))
    weights = model.state_dict()
    weights["layers.2.weight"] = ODD[odd](weights["layers.2.weight"])
    with pytest.raises(CheckpointError, match=r"this model: not plain floating-point numbers: layers\.2\.weight; use"):
        fill_model(model, checkpoint, weights)


def test_half_precision_and_whole_counters_are_plain(tmp_path: Path) -> None:
    model, checkpoint = random_model(), read_checkpoint(write(tmp_path / "a.safetensors"))
    weights = model.state_dict()
    half, counter = "layers.2.bias", "layers.1.num_batches_tracked"
    weights |= {half: torch.ones(2, dtype=torch.float16), counter: torch.tensor(9)}
    fill_model(model, checkpoint, weights)
    filled = model.state_dict()
    assert filled[half].dtype == torch.float32
    assert (filled[half].tolist(), int(filled[counter])) == ([1, 1], 9)


@pytest.mark.slow
def test_missing_and_unexpected_blocks_are_listed(tmp_path: Path) -> None:
    def change(state: State) -> None:
        for name in [name for name in state if name.startswith("backbone.layer3.5.")]:
            del state[name]
        state["backbone.layer9.0.conv1.weight"] = torch.ones(1)

    message = mismatch(change, tmp_path)
    assert "this model: missing: backbone.layer3.5.conv1.weight, backbone.layer3.5.bn1.weight, " in message
    assert "unexpected: backbone.layer9.0.conv1.weight; use" in message


@pytest.mark.slow
def test_long_lists_are_shortened(tmp_path: Path) -> None:
    def change(state: State) -> None:
        for name in [name for name in state if name.startswith("bbox_head.transformer.encoder.")]:
            del state[name]

    lost = sum(name.startswith("bbox_head.transformer.encoder.") for name in stub_state("r50"))
    message = mismatch(change, tmp_path)
    assert message.count("bbox_head.transformer.encoder.") == 20
    assert f" and {lost - 20} more; use a complete checkpoint" in message


@pytest.mark.slow
def test_an_official_file_of_another_recipe_is_rejected_with_both_names(r50: Path) -> None:
    swinl = load_recipe("swinl")
    with torch.device("meta"):
        model = build_model(swinl.model, swinl.inference, CATEGORIES, pretrained=False)
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, read_checkpoint(r50))
    assert str(caught.value) == (
        f"checkpoint {r50} is from recipe r50 with the backbone resnet50, but this model has "
        "swin_large; give a checkpoint of the same recipe"
    )


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], True),
        ([1, -2], True),
        ([3e38, 3e38], True),  # the sum overflows
        ([1, float("inf")], False),
        ([float("inf"), float("-inf")], False),
        ([float("nan"), 1], False),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tensors_with_nan_or_infinity_are_found(values: list[float], expected: bool, dtype: torch.dtype) -> None:
    assert is_finite(torch.tensor(values, dtype=dtype)) is expected
