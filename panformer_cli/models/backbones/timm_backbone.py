"""Any timm model with feature maps at strides 8, 16 and 32 as a backbone."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from panformer_cli.errors import PanformerError
from panformer_cli.models.backbones.backbone import Backbone
from panformer_cli.models.backbones.feature_layout import FeatureLayout
from panformer_cli.models.backbones.padding import ceil_div, pad_or_crop
from panformer_cli.models.backbones.same_padding import use_traceable_padding
from panformer_cli.models.backbones.timm_import import timm


class TimmBackbone(Backbone):
    """A feature extractor of timm. Images are padded with zeros on the right and at the bottom where it needs that.

    Args:
        name: see `Backbone`.
        architecture: timm's name of the model, without a tag.
        layout: how to get the feature maps.
        drop_path: stochastic depth rate of the last block, 0..1.

    Raises:
        PanformerError: the model has no stochastic depth, but `drop_path` is not 0.
    """

    def __init__(self, name: str, architecture: str, layout: FeatureLayout, drop_path: float) -> None:
        body = _features(name, architecture, layout, drop_path)
        use_traceable_padding(body)
        super().__init__(name, body, body.feature_info.channels())
        self.architecture = architecture
        self.layout = layout
        self.renormalize: nn.Module = nn.Identity()

    def forward(self, images: Tensor) -> list[Tensor]:
        images = self.renormalize(images)
        height, width = images.shape[-2:]
        multiple = self.layout.multiple
        if multiple > 1:
            whole = (ceil_div(height, multiple) * multiple, ceil_div(width, multiple) * multiple)
            images = pad_or_crop(images, whole)
        features: list[Tensor] = self.body(images)
        if self.layout.channels_last:
            features = [feature.permute(0, 3, 1, 2).contiguous() for feature in self.normalized(features)]
        if multiple > self.strides[0]:  # cells that are padding only
            features = [
                pad_or_crop(feature, (ceil_div(height, stride), ceil_div(width, stride)))
                for feature, stride in zip(features, self.strides, strict=True)
            ]
        return features

    def normalized(self, features: list[Tensor]) -> list[Tensor]:
        """Return channels-last feature maps after the norms of a subclass; here there are none."""
        return features


def _features(name: str, architecture: str, layout: FeatureLayout, drop_path: float) -> Any:
    from timm.layers.drop import DropPath  # after `timm_import`

    options: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
    obstacle = f"model.drop_path is {drop_path}, but the backbone {name} has no stochastic depth; set it to 0"
    try:
        body: Any = timm.create_model(
            architecture, features_only=True, out_indices=layout.indices, **layout.options, **options
        )
    except TypeError as error:
        if "drop_path_rate" not in str(error):
            raise
        raise PanformerError(obstacle) from error
    if drop_path and not any(isinstance(module, DropPath) for module in body.modules()):
        raise PanformerError(obstacle)
    return body
