"""Networks that transformers saved are loaded completely, in float32, and behave as the original projects evaluate."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from panformer_cli.data.coco.coco_categories import COCO
from panformer_cli.engine.benchmarking.random_model import random_model
from panformer_cli.engine.combined.choose import with_options
from panformer_cli.engine.combined.options import InferenceOptions, View
from panformer_cli.engine.inference import Predictor
from panformer_cli.errors import CheckpointError, PanformerError, RecipeError
from panformer_cli.models.families import FAMILIES, read_saved_folder
from panformer_cli.models.hugging_face.architectures import ARCHITECTURES, ArchitectureName
from panformer_cli.models.hugging_face.folder import HuggingFaceFolder
from panformer_cli.models.hugging_face.prediction import QueryPrediction
from panformer_cli.models.hugging_face.settings import HuggingFaceSettings, QueryMergingSettings
from panformer_cli.recipe import Recipe
from panformer_cli.recipe_io import recipe_from_dict, recipe_to_dict
from tests.golden.hf_models import Filling, tiny_network

pytestmark = pytest.mark.slow

Save = Callable[..., HuggingFaceFolder]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Return a function that saves a tiny network with transformers."""

    def saved(name: ArchitectureName, **config: Any) -> HuggingFaceFolder:
        filled(name, **config).save_pretrained(tmp_path / name)
        return read_saved_folder(tmp_path / name)

    return saved


def filled(name: ArchitectureName, **config: Any) -> Any:
    return Filling(class_gain=14.0, mask_gain=2.0).fill(tiny_network(name, **config))


def predictor_of(folder: HuggingFaceFolder, **sides: Any) -> Predictor:
    recipe = Recipe(model=folder.model, inference=folder.inference, data=replace(folder.data, **sides))
    return Predictor(folder.load(), recipe, torch.device("cpu"))


def noise(height: int, width: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_tensor_is_that_of_the_file_and_runs_are_equal(name: ArchitectureName, save: Save) -> None:
    """A batch of images of one size gives what each of them gives alone, and nothing is drawn at random."""
    folder = save(name)
    predictor = predictor_of(folder, **({} if name.startswith("eomt") else {"short_side": 96, "long_side": 128}))
    predictor.model.optimize_for_inference()
    saved, network = filled(name), predictor.model.get_submodule("network")
    for stored, own in zip(
        (*saved.named_parameters(), *saved.named_buffers()),
        (*network.named_parameters(), *network.named_buffers()),
        strict=True,
    ):
        assert stored[0] == own[0]
        assert torch.equal(stored[1], own[1]), stored[0]
    assert not predictor.model.training
    images = [noise(60, 80, 1), noise(60, 80, 2), noise(80, 60, 3)]
    one_by_one = [predictor(image) for image in images]
    for alone, together in zip(one_by_one, predictor.predict_all(images), strict=True):
        rows = [[(s.id, s.category_id) for s in prediction.panoptic.segments] for prediction in (alone, together)]
        assert rows[0] == rows[1]
        assert (alone.panoptic.ids == together.panoptic.ids).mean() > 0.999
        assert together.panoptic.ids.shape in ((60, 80), (80, 60))
    again = predictor(images[0])
    assert np.array_equal(again.panoptic.ids, one_by_one[0].panoptic.ids)
    assert next(iter(predictor.model.stages())) == ("transformer" if name.startswith("eomt") else "backbone")


def test_oneformers_dropout_is_off_and_its_task_matters(save: Save) -> None:
    """Its pixel decoder drops values as long as `config.is_training` is set, even in evaluation mode."""
    folder = save("oneformer", is_training=True, dropout=0.5, text_encoder_width=64)
    assert json.loads((folder.path / "config.json").read_text())["is_training"] is True
    image = noise(64, 64)
    outputs = []
    for task in ("panoptic", "panoptic", "instance"):
        predictor = predictor_of(replace(folder, model=replace(folder.model, task=task)), short_side=64, long_side=64)
        outputs.append(predictor.infer(*predictor.prepare([image])).class_logits)
    assert torch.equal(outputs[0], outputs[1])
    assert (outputs[0] - outputs[2]).abs().max() > 0.1


@pytest.mark.parametrize("name", ["eomt", "eomt_dinov3"])
def test_eomts_masked_attention_is_off(name: ArchitectureName, save: Save) -> None:
    folder = save(name)
    path = folder.path / "model.safetensors"
    tensors = load_file(path)
    image = noise(64, 64)
    predictor = predictor_of(folder)
    expected = predictor.infer(*predictor.prepare([image])).class_logits
    for value in (1.0, 0.5, None):
        changed = {key: tensor for key, tensor in tensors.items() if key != "attn_mask_probs"}
        if value is not None:
            changed["attn_mask_probs"] = torch.full_like(tensors["attn_mask_probs"], value)
        save_file(changed, path, {"format": "pt"})
        predictor = predictor_of(folder)
        assert torch.equal(predictor.infer(*predictor.prepare([image])).class_logits, expected), value


def test_half_precision_is_loaded_as_float32(save: Save) -> None:
    folder = save("eomt")
    path = folder.path / "model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(path).items()}, path, {"format": "pt"})
    config = json.loads((folder.path / "config.json").read_text()) | {"dtype": "float16"}
    (folder.path / "config.json").write_text(json.dumps(config))
    assert {parameter.dtype for parameter in folder.load().parameters()} == {torch.float32}


def test_missing_unexpected_and_other_tensors(save: Save, caplog: pytest.LogCaptureFixture) -> None:
    folder = save("eomt")
    path = folder.path / "model.safetensors"
    tensors = load_file(path)
    ignored = {"criterion.empty_weight": torch.zeros(3)}
    save_file({**tensors, **ignored, "left_over.weight": torch.zeros(3)}, path, {"format": "pt"})
    with caplog.at_level(logging.WARNING, logger="panformer_cli"):
        folder.load()
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "1 tensor that the network does not have: left_over.weight"
    ]
    save_file({n: t for n, t in tensors.items() if not n.startswith("class_predictor")}, path, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"it lacks 2 tensors of the network, such as class_predictor\.bias"):
        folder.load()
    save_file({**tensors, "class_predictor.bias": torch.zeros(7)}, path, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"class_predictor.bias has the shape \[7\], expected \[134\]"):
        folder.load()


def test_a_setting_of_the_wrong_type(save: Save) -> None:
    """The error says which setting, although transformers has that in its second line."""
    folder = save("eomt")
    path = folder.path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"hidden_size": "wide"}))
    with pytest.raises(CheckpointError, match=r"config.json: .*'hidden_size': .*'wide'.*; expected a config of trans"):
        folder.load()


def test_a_network_is_built_with_random_weights(save: Save) -> None:
    """A recipe of the family can be benchmarked without weights; labels are those of the table."""
    folder = save("detr")
    family = FAMILIES["hugging_face"]
    recipe = Recipe(model=folder.model, inference=folder.inference)
    assert recipe_from_dict(recipe_to_dict(recipe), "recipe") == recipe
    model = family.build(folder.model, folder.inference, COCO, "auto")
    assert [*model.infer(torch.zeros(1, 3, 64, 64), torch.zeros(1, 64, 64, dtype=torch.bool))[0].shape] == [1, 20, 251]
    eomt = save("eomt")
    assert family.build(replace(eomt.model, labels=()), eomt.inference, COCO, "auto").categories == COCO
    with pytest.raises(RecipeError, match="model.labels has 2 category ids, but the network has 133 labels"):
        family.build(replace(eomt.model, labels=(1, 2)), eomt.inference, COCO, "auto")
    with pytest.raises(RecipeError, match="model.labels has 12"):
        family.build(replace(eomt.model, labels=(12,) * 133), eomt.inference, COCO, "auto")


@pytest.mark.parametrize("name", ["mask2former", "eomt", "oneformer", "detr"])
def test_random_weights_keep_queries(name: ArchitectureName, tmp_path: Path) -> None:
    """`benchmark` would otherwise time a merging that has nothing to do."""
    tiny_network(name, num_labels=133).config.save_pretrained(tmp_path)
    settings = HuggingFaceSettings(architecture=name, config=str(tmp_path / "config.json"))
    if name == "detr":
        settings = replace(settings, labels=(-1,) * 250)
    recipe = Recipe(model=settings, inference=QueryMergingSettings())
    model = random_model(recipe, COCO)
    predictor = Predictor(model, replace(recipe, data=replace(recipe.data, short_side=128)), torch.device("cpu"))
    prediction = predictor(noise(128, 128))
    assert isinstance(prediction, QueryPrediction)
    assert len(prediction.masks.kept(0.8).queries) >= 10


def test_options_that_the_family_does_not_have(save: Save) -> None:
    predictor = predictor_of(save("eomt"))
    for options in (InferenceOptions(tile=64), InferenceOptions(views=(View(), View(flipped=True)))):
        with pytest.raises(PanformerError, match="hugging_face does not predict scored masks"):
            with_options(predictor, options)
    with pytest.raises(PanformerError, match="--mask-layers"):
        with_options(predictor, InferenceOptions(mask_layers=2))


def test_a_smaller_input_of_eomt_stays_on_its_square(save: Save) -> None:
    predictor = predictor_of(save("eomt"), long_side=64)
    assert predictor.input_size((100, 200)) == (32, 64)
    images, padding_mask = predictor.prepare([noise(100, 200)])
    assert images.shape == (1, 3, 128, 128)
    assert int((~padding_mask).sum()) == 32 * 64
    assert predictor(noise(100, 200)).panoptic.ids.shape == (100, 200)


def test_settings_by_hand() -> None:
    """Without a config, the network is transformers' default for the architecture."""
    assert HuggingFaceSettings().config == ""
    assert QueryMergingSettings().predict_options == {"threshold": ("score_threshold",)}


def test_without_transformers(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save("eomt")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(PanformerError, match=r"pip install 'panformer\[hf\]'"):
        folder.load()
