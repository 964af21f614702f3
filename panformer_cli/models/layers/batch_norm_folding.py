"""Fold BatchNorms into the convolutions before them: the same function with fewer operations, for inference."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batch_norms(root: nn.Module) -> int:
    """Fold every BatchNorm in `root` that follows a convolution, in place. Return how many were folded."""
    pairs = [(module, *pair) for module in root.modules() for pair in _pairs(module)]
    for module, (conv_name, conv), (norm_name, norm) in pairs:
        setattr(module, conv_name, fuse_conv_bn_eval(conv, norm))
        setattr(module, norm_name, _activation(norm))
    return len(pairs)


def _activation(norm: nn.BatchNorm2d) -> nn.Module:
    """Return the activation inside timm's BatchNorms. Plain BatchNorms have none."""
    activation = getattr(norm, "act", None)
    return activation if isinstance(activation, nn.Module) else nn.Identity()


def _pairs(module: nn.Module) -> Iterator[tuple[tuple[str, nn.Conv2d], tuple[str, nn.BatchNorm2d]]]:
    """Yield the children that are a convolution and the BatchNorm after it, with their names.

    They are neighbors in an `nn.Sequential`, or have names such as `conv1` and `bn1` and are created in this order.
    The order matters because some timm models (DPN) normalize before they convolve.
    """
    children = dict(module.named_children())
    names = list(children)
    for index, name in enumerate(names):
        later = names[index + 1 :]
        after = later[0] if later and isinstance(module, nn.Sequential) else name.replace("conv", "bn")
        conv, norm = children[name], children[after] if after in later else None
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            yield (name, conv), (after, norm)
