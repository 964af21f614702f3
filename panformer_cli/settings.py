"""Settings of data and training, and what the settings of every model family have in common.

A model family adds its own sizes and thresholds (`models/<family>/settings.py`); `recipe.Recipe` puts them together.
Each class checks its values and reports all problems at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from panformer_cli.errors import RecipeError


@dataclass(frozen=True)
class ModelSettings:
    """What every model family can be asked for; a family's own class adds its sizes."""

    family: str = ""
    """The model family, a key of `models.families.FAMILIES`."""
    backbone: str = "resnet50"
    """Features at strides 8, 16 and 32: a name of `models.backbones.known.BACKBONES`, or `timm/<model>` for any timm
    model that has them."""
    backbone_weights: str = "imagenet"
    """`imagenet` (downloaded through timm), `none` (random), or a file."""
    frozen_stages: int | None = None
    """ResNet: how many of stem, stage 1, stage 2, ... are not trained. Other backbones: 0. Null: as published, 2
    for ResNets."""
    frozen_batch_norm: bool = True
    """BatchNorm of the backbone keeps its running statistics, and its affine weights are not trained."""
    drop_path: float = 0.0
    """Stochastic depth rate of the last backbone block, 0..1; earlier blocks get linearly less."""

    starting_only: ClassVar[tuple[str, ...]] = ("backbone_weights",)
    """Fields that only matter when a run starts: a resumed run may change them."""


@dataclass(frozen=True)
class InferenceSettings:
    """What turns a model's output into segments; a family's own class adds its thresholds."""

    grid: ClassVar[dict[str, tuple[float, ...]]] = {}
    """The fields that `evaluate tune` searches, with the values it tries."""


@dataclass(frozen=True)
class DataSettings:
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
class TrainSettings:
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


def raise_together(problems: list[str]) -> None:
    """One error that lists every problem; nothing where there is none."""
    if problems:
        raise RecipeError("\n".join(problems))
