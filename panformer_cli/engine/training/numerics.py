"""How torch computes in a run: TF32, deterministic algorithms, and BatchNorm over all GPUs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.errors import RecipeError
from panformer_cli.models.layers.sampling import SamplingName
from panformer_cli.recipe import Recipe
from panformer_cli.reporting import Reporter
from panformer_cli.settings import TrainSettings


@contextmanager
def numerics(settings: TrainSettings, process: Process, reporter: Reporter) -> Iterator[None]:
    """Apply `train.tf32` and `train.deterministic`, and restore torch's state at the end.

    What stays nondeterministic is reported before the start.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = (matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark)
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    attention: AbstractContextManager[None] = nullcontext()
    if settings.tf32 is not None:
        matmul.allow_tf32 = cudnn.allow_tf32 = settings.tf32
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the first matrix product is computed
        cudnn.deterministic, cudnn.benchmark = True, False
        # Otherwise torch would stop at the operations that were reported.
        torch.use_deterministic_algorithms(True, warn_only=process.device.type == "cuda")
        if process.device.type == "cuda":  # with only warnings, fused attention adds in an order that varies
            attention = sdpa_kernel(SDPBackend.MATH)
        problem = nondeterministic(process.device.type, process.sampling)
        if problem:
            reporter.warn(f"train.deterministic: {problem}")
    try:
        with attention:
            yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = before
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)


def nondeterministic(device_type: str, sampling: SamplingName) -> str:
    """Return which computation differs between two runs on this type of device; empty if none is known to."""
    if device_type != "cuda" or sampling == "gather":
        return ""
    return (
        f"on a GPU, the backward pass of deformable attention (--sampling {sampling}) adds in an order that varies, so "
        "two runs differ in the last digits; --sampling gather is slower and deterministic"
    )


def check_sync_batch_norm(recipe: Recipe, process: Process) -> None:
    """Raise RecipeError if `train.sync_batch_norm` is set where it has no meaning."""
    if not recipe.train.sync_batch_norm:
        return
    problem = ""
    if recipe.model.frozen_batch_norm:
        problem = "all BatchNorms are frozen; set model.frozen_batch_norm=false to train them"
    elif process.world_size == 1:
        problem = "there is only one process; use --gpus N with N > 1"
    elif process.device.type != "cuda":
        problem = f"it needs GPUs, and this run uses {process.device.type}"
    if problem:
        raise RecipeError(f"train.sync_batch_norm is true, but {problem}, or omit it")


def synchronize_batch_norms(model: nn.Module) -> None:
    """Replace all BatchNorms that are not frozen by ones that use the images of all processes."""
    from timm.layers import norm_act  # keeps the activation of timm's BatchNorms

    model.train()
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm) and child.training:
                setattr(parent, name, norm_act.convert_sync_batchnorm(child))  # type: ignore[no-untyped-call]
