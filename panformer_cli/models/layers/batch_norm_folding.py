"""BatchNorm folded into the convolution before it: the same function in fewer operations, for inference."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batch_norms(root: nn.Module) -> int:
    """Fold every BatchNorm below `root` that follows a convolution, in place; return how many."""
    pairs = [(module, *pair) for module in root.modules() for pair in _pairs(module)]
    for module, (conv_name, conv), (norm_name, norm) in pairs:
        setattr(module, conv_name, fuse_conv_bn_eval(conv, norm))
        setattr(module, norm_name, _activation(norm))
    return len(pairs)


def _activation(norm: nn.BatchNorm2d) -> nn.Module:
    """Return the activation inside timm's BatchNorms; plain ones have none."""
    activation = getattr(norm, "act", None)
    return activation if isinstance(activation, nn.Module) else nn.Identity()


def _pairs(module: nn.Module) -> Iterator[tuple[tuple[str, nn.Conv2d], tuple[str, nn.BatchNorm2d]]]:
    """The children that are a convolution and the BatchNorm after it: neighbours in a row, or `conv1` and `bn1`."""
    children = dict(module.named_children())
    in_a_row = list(children) if isinstance(module, nn.Sequential) else []
    follower = dict(zip(in_a_row, in_a_row[1:], strict=False))
    for name, conv in children.items():
        after = follower.get(name, name.replace("conv", "bn"))
        norm = children.get(after)
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            yield (name, conv), (after, norm)
