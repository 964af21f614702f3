"""Which timm models can be backbones, and the errors for the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from panformer_cli.cli.main import main
from panformer_cli.errors import PanformerError
from panformer_cli.models.backbones.build import build_backbone
from panformer_cli.models.backbones.feature_layout import EXAMPLES, FeatureLayout, check_backbone_name, feature_layout


def refusal(name: str) -> str:
    with pytest.raises(PanformerError) as caught:
        check_backbone_name(name)
    message = str(caught.value)
    assert message.startswith(f"model.backbone is {name}: the model ")
    assert "\n" not in message
    assert message.count("timm/") > 1
    return message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("timm/vit_base_patch16_224", "has feature maps at strides 16, 16, 16, but 8, 16, 32 are needed; "),
        ("timm/levit_128s", "has feature maps at strides 16, 32, 64, but 8, 16, 32 are needed; "),
        ("timm/botnet26t_256", "does not accept images of any height and width; "),
        ("timm/coat_tiny", "does not accept images of any height and width; "),
        ("timm/inception_v3", "but the sizes 10x19, 5x10, 3x5 are needed at strides 8, 16, 32; "),
        ("timm/convmixer_768_32", "has feature maps at strides 7, 7, 7, but 8, 16, 32 are needed; "),
        ("timm/crossvit_tiny_240", "has feature maps at strides 12, 17, but 8, 16, 32 are needed; "),
    ],
)
def test_an_unsuitable_model(name: str, reason: str) -> None:
    message = refusal(name)
    assert reason in message
    assert "did you mean timm/" in message or message.endswith(", ".join(f"timm/{example}" for example in EXAMPLES))


@pytest.mark.slow
def test_a_model_that_timm_cannot_use_as_a_feature_extractor(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model

    def fail_for_volo(name: str, **options: Any) -> Any:
        if name == "volo_d1_224":
            raise RuntimeError("features_only not implemented")
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", fail_for_volo)
    assert "cannot be used by timm as a feature extractor; " in refusal("timm/volo_d1_224")


@pytest.mark.slow
def test_an_unknown_model_with_similar_ones() -> None:
    message = refusal("timm/convnext_ato")
    assert f"is unknown to timm {timm.__version__}; did you mean timm/convnext_atto" in message


@pytest.mark.slow
def test_an_unknown_tag_with_similar_ones() -> None:
    message = refusal("timm/convnext_atto.d3_in1k")
    assert "has no weights 'd3_in1k' in timm" in message
    assert "timm/convnext_atto.d2_in1k" in message


def test_an_unknown_model_without_similar_ones() -> None:
    assert refusal("timm/qqqqqqqq").endswith(", ".join(f"timm/{example}" for example in EXAMPLES))


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_of_the_error_can_be_used(example: str) -> None:
    check_backbone_name(f"timm/{example}")
    assert timm.is_model_pretrained(example)


@pytest.mark.parametrize("name", ["resnet50", "swin_large", "pvt_v2_b5"])
def test_published_names_need_no_check(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(timm, "create_model")
    check_backbone_name(name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "dpn48b",
        "efficientvit_b0",
        "hgnetv2_b0",
        "legacy_seresnet18",
        "mobilevit_xxs",
        "nf_resnet26",
        "repvit_m0_9",
        "resnest14d",
        "skresnet18",
        "tf_mixnet_s",
    ],
)
def test_models_of_many_families_give_maps_and_train_all_their_weights(name: str) -> None:
    """On the meta device. A weight without a gradient would block distributed training."""
    with torch.device("meta"):
        backbone = build_backbone(f"timm/{name}", 0.0, None, False).train()
        features = backbone(torch.empty(2, 3, 75, 150))
    sizes = [(channels, *size) for channels, size in zip(backbone.channels, [(10, 19), (5, 10), (3, 5)], strict=True)]
    assert [tuple(feature.shape[1:]) for feature in features] == sizes
    torch.stack([feature.square().mean() for feature in features]).sum().backward()
    assert [key for key, parameter in backbone.named_parameters() if parameter.grad is None] == []


@pytest.mark.slow
def test_layouts() -> None:
    assert feature_layout("timm/tf_efficientnet_lite0") == FeatureLayout((2, 3, 4))
    assert feature_layout("timm/convnext_atto") == FeatureLayout((1, 2, 3), multiple=32)
    assert feature_layout("timm/mambaout_femto") == FeatureLayout((1, 2, 3), channels_last=True)


@pytest.mark.slow
def test_training_checks_the_backbone_before_the_data(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["train", "tiny", "--out", str(tmp_path / "run"), "--device", "cpu"]
    overrides = ["--set", f"data.root={tmp_path / 'nowhere'}", "--set", "model.backbone=timm/vit_base_patch16_224"]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, *overrides])
    assert ended.value.code == 2
    assert "has feature maps at strides 16, 16, 16" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()
