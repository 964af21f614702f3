"""K-Net, the complete model (paper, figure 2; docs/knet.md)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from panformer_cli.data.categories import CategoryTable
from panformer_cli.errors import PanformerError
from panformer_cli.models.backbones.backbone import Backbone
from panformer_cli.models.backbones.padding import ceil_div, pad_or_crop
from panformer_cli.models.base import InferenceOnlyModel
from panformer_cli.models.knet.fusion import SemanticFusion
from panformer_cli.models.knet.initial_kernels import InitialKernels
from panformer_cli.models.knet.kernel_update import KernelStage
from panformer_cli.models.knet.output import KNetOutput
from panformer_cli.models.knet.postprocessing import KernelPrediction, scored_masks
from panformer_cli.models.knet.pyramid import FeaturePyramid
from panformer_cli.models.knet.settings import WinnerSettings
from panformer_cli.wording import counted

PADDED_TO = 32
"""The sides of the padded input are multiples of this, in pixels."""


class KNet(InferenceOnlyModel):
    """Predicts classes and masks of things and stuff by kernels. `build.build` constructs it.

    Args:
        categories: category table of the data set.
    """

    def __init__(
        self,
        backbone: Backbone,
        pyramid: FeaturePyramid,
        fusion: SemanticFusion,
        initial_kernels: InitialKernels,
        updates: Sequence[KernelStage],
        categories: CategoryTable,
    ) -> None:
        super().__init__(categories)
        self.backbone = backbone
        self.pyramid = pyramid
        self.fusion = fusion
        self.initial_kernels = initial_kernels
        self.updates = nn.ModuleList(updates)

    def infer(self, images: Tensor, padding_mask: Tensor) -> KNetOutput:
        """Return classes and masks of all kernels; see `PanopticModel.infer`.

        As published, padding is not masked out: it is part of every normalization and of the sums over masks.
        """
        features = self.backbone(with_whole_cells(images))
        location, semantic = self.fusion(self.pyramid(features))
        kernels, features = self.initial_kernels(location, semantic)
        for update in self.updates:
            kernels, class_logits = update(features, kernels)
        return KNetOutput(class_logits, kernels.masks, padding_mask)

    def postprocess(
        self, output: KNetOutput, index: int, size: tuple[int, int], settings: WinnerSettings
    ) -> KernelPrediction:
        """Return the scored masks of an image for merging; see `PanopticModel.postprocess`."""
        scored = scored_masks(output, index, size, self.categories.num_things)
        return KernelPrediction(scored, self.categories, settings)

    def stages(self) -> dict[str, nn.Module]:
        """Return the main modules; see `PanopticModel.stages`."""
        names = ("backbone", "pyramid", "fusion", "initial_kernels")
        updates = {f"update_{number}": update for number, update in enumerate(self.updates, 1)}
        return {**{name: self.get_submodule(name) for name in names}, **updates}

    def use_mask_layers(self, layers: int) -> None:
        """Keep only the first update stages, each of which predicts masks; see `PanopticModel.use_mask_layers`."""
        most = len(self.updates)
        if layers > most:
            raise PanformerError(
                f"--mask-layers is {layers}, but this model has {counted(most, 'stage')}; expected 1 to {most}"
            )
        self.updates = self.updates[:layers]


def with_whole_cells(images: Tensor) -> Tensor:
    """Return images (B, 3, H, W) with zeros at the right and the bottom up to multiples of `PADDED_TO`."""
    height, width = (ceil_div(side, PADDED_TO) * PADDED_TO for side in images.shape[-2:])
    return pad_or_crop(images, (height, width))
