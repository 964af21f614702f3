"""One stage: kernels are updated by the features of their masks, and predict new masks (docs/knet.md, "Stages").

Letters in shapes: N kernels, K classes.
"""

from __future__ import annotations

from torch import Tensor, nn

from panformer_cli.models.knet.initial_kernels import Kernels, gathered
from panformer_cli.models.layers.autocast import in_float32
from panformer_cli.models.layers.feedforward import FeedForward


class KernelUpdate(nn.Module):
    """Mixes each kernel with the features of its mask, by two gates (paper, section 3.3).

    Args:
        dim: number of channels (C).
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.features = nn.Linear(dim, 2 * dim)
        self.kernels = nn.Linear(dim, 2 * dim)
        self.feature_gate = GateLayer(dim)
        self.kernel_gate = GateLayer(dim)
        self.feature_norm = nn.LayerNorm(dim)
        self.kernel_norm = nn.LayerNorm(dim)
        self.output = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, features: Tensor, kernels: Tensor) -> Tensor:
        """Return the updated kernels, (B, N, C), for the features of their masks and the kernels, both (B, N, C)."""
        feature_gate, feature = self.features(features).chunk(2, dim=-1)
        kernel_gate, kernel = self.kernels(kernels).chunk(2, dim=-1)
        both = feature_gate * kernel_gate
        mixed = self.feature_gate(both) * self.feature_norm(feature) + self.kernel_gate(both) * self.kernel_norm(kernel)
        updated: Tensor = self.norm(self.output(mixed)).relu()
        return updated


class GateLayer(nn.Module):
    """A linear layer, LayerNorm and a sigmoid."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (B, N, C) in 0..1 for (B, N, C)."""
        gate: Tensor = self.norm(self.linear(tokens)).sigmoid()
        return gate


class Branch(nn.Module):
    """A hidden layer with LayerNorm and ReLU, and a linear layer: class logits or mask kernels.

    Args:
        dim: number of channels (C).
        outputs: number of outputs.
    """

    def __init__(self, dim: int, outputs: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(dim, dim, bias=False)
        self.norm = nn.LayerNorm(dim)
        self.output = nn.Linear(dim, outputs)

    def forward(self, kernels: Tensor) -> Tensor:
        """Return (B, N, outputs) for (B, N, C)."""
        output: Tensor = self.output(self.norm(self.hidden(kernels)).relu())
        return output


class KernelStage(nn.Module):
    """Kernel update, self-attention of the kernels and feed-forward, then classes and masks.

    Args:
        dim: number of channels (C).
        heads: number of attention heads.
        feedforward_dim: hidden channels of the feed-forward.
        classes: number of classes (K).
    """

    def __init__(self, dim: int, heads: int, feedforward_dim: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Conv2d(dim, dim, 1)
        self.update = KernelUpdate(dim)
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.attention_norm = nn.LayerNorm(dim)
        self.feedforward = FeedForward(dim, feedforward_dim, dropout=0.0)
        self.feedforward_norm = nn.LayerNorm(dim)
        self.classes = Branch(dim, classes)
        self.mask_kernels = Branch(dim, dim)

    def forward(self, features: Tensor, before: Kernels) -> tuple[Kernels, Tensor]:
        """Return the kernels with new masks, and their class logits, (B, N, K) float32.

        Args:
            features: (B, C, h, w), the same in every stage.
            before: kernels and masks of the stage before.
        """
        own: Tensor = self.features(features)
        with in_float32(own):
            kernels = self.updated(gathered(before.masks, own), before.kernels)
            class_logits = self.classes(kernels)
            mask_kernels = self.mask_kernels(kernels)
        masks = (mask_kernels @ own.flatten(2)).unflatten(2, own.shape[-2:])
        return Kernels(kernels, masks), class_logits

    def updated(self, features: Tensor, kernels: Tensor) -> Tensor:
        """Return the new kernels, (B, N, C), for the features of their masks and the kernels, both (B, N, C)."""
        kernels = self.update(features, kernels)
        attended, _ = self.attention(kernels, kernels, kernels, need_weights=False)
        kernels = self.attention_norm(kernels + attended)
        updated: Tensor = self.feedforward_norm(kernels + self.feedforward(kernels))
        return updated
