"""A recipe: every setting of a model, its data, its training and its inference, typed and checked.

The defaults are the published R-50 run on COCO (spec, sections 2 to 8). A YAML file states what differs; `recipe_io`
reads it. Nothing but `build_model`, the data pipeline and the engine sees a recipe: layers take plain arguments.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from panformer_cli.errors import RecipeError

BackboneName = Literal[
    "resnet18", "resnet50", "resnet101", "pvt_v2_b0", "pvt_v2_b2", "pvt_v2_b5", "swin_tiny", "swin_large"
]


@dataclass(frozen=True)
class ModelRecipe:
    """Sizes of Panoptic SegFormer."""

    backbone: BackboneName = "resnet50"
    """Features at strides 8, 16 and 32."""
    backbone_weights: str = "imagenet"
    """`imagenet` (downloaded through timm), `none` (random), or a file."""
    frozen_stages: int = 2
    """ResNet: how many of stem, stage 1, stage 2, ... are not trained. Other backbones: 0."""
    frozen_batch_norm: bool = True
    """ResNet: BatchNorm keeps its running statistics, and its affine weights are not trained."""
    drop_path: float = 0.0
    """Stochastic depth rate of the last backbone block, 0..1; earlier blocks get linearly less."""
    embed_dim: int = 256
    """Channels of every token and query (C); a multiple of `heads`, 32 and 4."""
    heads: int = 8
    """Attention heads, in every attention."""
    feedforward_dim: int = 1024
    """Hidden channels of every feed-forward and mask decoder MLP."""
    points: int = 4
    """Sampling points per head and level of deformable attention."""
    encoder_layers: int = 6
    location_layers: int = 6
    thing_mask_layers: int = 4
    """Blocks of the thing mask decoder, the tail not counted."""
    stuff_mask_layers: int = 6
    """Blocks of the stuff mask decoder, the tail not counted."""
    thing_queries: int = 300
    dropout: float = 0.1
    """In the deformable encoder and the location decoder, 0..1; the mask decoders have none."""
    mask_bias: float | None = None
    """Initial bias of the last mask linear; None is torch's default, as published. About +0.5 keeps random masks
    alive."""
    mask_waking_slope: float = 0.0
    """Below zero, the mask decoders' ReLUs pass on gradients that would raise them, times this slope. 0 is as
    published; above 0 a mask that is 0 everywhere still learns. The forward pass does not depend on it."""

    def __post_init__(self) -> None:
        problems = []
        if self.embed_dim < 32 or self.embed_dim % 32 or (self.heads > 0 and self.embed_dim % self.heads):
            problems.append(
                f"model.embed_dim is {self.embed_dim}: expected a multiple of 32 (GroupNorm) and of "
                f"model.heads ({self.heads})"
            )
        counts = ("heads", "points", "thing_queries", "feedforward_dim")
        layers = ("encoder_layers", "location_layers", "thing_mask_layers", "stuff_mask_layers")
        for name in counts + layers:
            if getattr(self, name) < 1:
                problems.append(f"model.{name} is {getattr(self, name)}: expected 1 or more")
        most = 5 if self.backbone.startswith("resnet") else 0
        if not 0 <= self.frozen_stages <= most:
            problems.append(
                f"model.frozen_stages is {self.frozen_stages}: expected 0 to {most} with the backbone {self.backbone}"
            )
        for name in ("dropout", "drop_path", "mask_waking_slope"):
            if not 0 <= getattr(self, name) < 1:
                problems.append(f"model.{name} is {getattr(self, name)}: expected 0 or more and less than 1")
        raise_together(problems)


@dataclass(frozen=True)
class DataRecipe:
    """Where the images are, and what happens to them before the model sees them."""

    root: str = ""
    """A folder in COCO's layout; see docs/data.md. Usually given as `--set data.root=DIR`."""
    train_split: str = "train2017"
    val_split: str = "val2017"
    short_side: int = 800
    """Inference: the short side is at most this, pixels."""
    long_side: int = 1333
    """Inference and training: the long side is at most this, pixels."""
    train_short_sides: tuple[int, ...] = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    """Training: one of these is drawn for the short side, pixels."""
    flip_probability: float = 0.5
    crop_probability: float = 0.5
    """How often an image is resized, cropped at random and resized again (spec, section 8, b)."""
    crop_short_sides: tuple[int, ...] = (400, 500, 600)
    """Short sides drawn before a crop, pixels."""
    crop_range: tuple[int, int] = (384, 600)
    """Smallest and largest side of a crop, pixels."""
    skip_bad_images: bool = False
    """Training: leave out images that cannot be used, count and list them. Otherwise the first one ends the run."""
    workers: int = 4
    """Processes that read and transform images, for each training process; 0 reads in the training process itself."""

    def __post_init__(self) -> None:
        problems = []
        for name in ("short_side", "long_side"):
            if getattr(self, name) < 32:
                problems.append(f"data.{name} is {getattr(self, name)}: expected 32 pixels or more")
        for name in ("train_short_sides", "crop_short_sides"):
            if not getattr(self, name) or min(getattr(self, name)) < 32:
                problems.append(f"data.{name} is {list(getattr(self, name))}: expected sizes of 32 pixels or more")
        for name in ("flip_probability", "crop_probability"):
            if not 0 <= getattr(self, name) <= 1:
                problems.append(f"data.{name} is {getattr(self, name)}: expected 0 to 1")
        if len(self.crop_range) != 2 or not 1 <= self.crop_range[0] <= self.crop_range[1]:
            problems.append(f"data.crop_range is {list(self.crop_range)}: expected [smallest, largest] in pixels")
        if self.workers < 0:
            problems.append(f"data.workers is {self.workers}: expected 0 or more")
        raise_together(problems)


@dataclass(frozen=True)
class TrainRecipe:
    """Optimisation (spec, section 8)."""

    epochs: int = 24
    max_steps: int | None = None
    """Stop, save and evaluate after this many optimiser steps, whatever `epochs` says."""
    batch_size: int = 8
    """Images per optimiser step, all processes together. With fewer processes than images, gradients are accumulated:
    the step is the same (where BatchNorm is frozen). A multiple of processes x `images_per_forward`."""
    images_per_forward: int = 1
    """Images that one process sends through the model at once. Images of different sizes are padded, which
    changes the result a little; the published runs used 1."""
    lr: float = 1.4e-4
    """Learning rate for `batch_size` images per step."""
    weight_decay: float = 1e-4
    slow_lr_factor: float = 0.1
    """Multiplies the learning rate of the backbone, of `sampling_offsets` and of `reference_points`."""
    clip_norm: float = 0.1
    """Largest L2 norm of the whole gradient."""
    schedule: Literal["step", "cosine"] = "step"
    """`step`: x 0.1 at every epoch of `drop_epochs`. `cosine`: down to 0 at the last step."""
    drop_epochs: tuple[int, ...] = (18,)
    """Epochs, counted from 0, that begin with a learning rate of a tenth."""
    warmup_steps: int = 0
    """The learning rate rises linearly over this many steps."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 runs the forward pass under autocast; weights, losses and the optimiser stay fp32."""
    seed: int = 0
    evaluate_every: int = 1
    """Epochs between evaluations on `data.val_split`; the last epoch is always evaluated."""
    log_every: int = 50
    """Optimiser steps between lines of metrics.jsonl."""

    def __post_init__(self) -> None:
        problems = []
        for name in ("epochs", "batch_size", "images_per_forward", "evaluate_every", "log_every"):
            if getattr(self, name) < 1:
                problems.append(f"train.{name} is {getattr(self, name)}: expected 1 or more")
        for name in ("lr", "clip_norm"):
            if not getattr(self, name) > 0:
                problems.append(f"train.{name} is {getattr(self, name)}: expected more than 0")
        for name in ("weight_decay", "slow_lr_factor", "warmup_steps", "seed"):
            if not getattr(self, name) >= 0:
                problems.append(f"train.{name} is {getattr(self, name)}: expected 0 or more")
        if self.max_steps is not None and self.max_steps < 1:
            problems.append(f"train.max_steps is {self.max_steps}: expected 1 or more, or null for no limit")
        raise_together(problems)


@dataclass(frozen=True)
class InferenceRecipe:
    """Mask-wise merging (spec, section 7)."""

    top_k: int = 100
    """(query, class) pairs whose thing masks are decoded."""
    score_threshold: float = 0.25
    """A segment needs class score x mask quality^2 of at least this."""
    thing_overlap: float = 0.4
    """A thing is dropped when more than this share of its mask is already taken."""
    stuff_overlap: float = 0.2
    """The same for stuff."""

    def __post_init__(self) -> None:
        problems = []
        if self.top_k < 1:
            problems.append(f"inference.top_k is {self.top_k}: expected 1 or more")
        for name in ("score_threshold", "thing_overlap", "stuff_overlap"):
            if not 0 <= getattr(self, name) <= 1:
                problems.append(f"inference.{name} is {getattr(self, name)}: expected 0 to 1")
        raise_together(problems)


@dataclass(frozen=True)
class Recipe:
    """Everything that makes a run."""

    name: str = "custom"
    """Short name; runs go to runs/<name>/."""
    published_pq: float | None = None
    """PQ of the paper on COCO val2017, percent; None where nothing is published."""
    model: ModelRecipe = field(default_factory=ModelRecipe)
    data: DataRecipe = field(default_factory=DataRecipe)
    train: TrainRecipe = field(default_factory=TrainRecipe)
    inference: InferenceRecipe = field(default_factory=InferenceRecipe)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w-][\w.-]*", self.name):
            raise RecipeError(
                f"name is {self.name!r}: expected letters, digits, '.', '-' and '_', since it becomes a folder"
            )


def raise_together(problems: list[str]) -> None:
    """One error that lists every problem; nothing where there is none."""
    if problems:
        raise RecipeError("\n".join(problems))
