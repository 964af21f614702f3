"""Settings of data and training, and the settings that all model families share.

A model family adds its own sizes and thresholds in `models/<family>/settings.py`. `recipe.Recipe` combines them. Each
class validates its values and reports all problems at once.

The docstring of each field gives its meaning, its unit and, where values are limited, their range.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from panformer_cli.errors import RecipeError


@dataclass(frozen=True)
class ModelSettings:
    """Model settings that every family has. A family's subclass adds its sizes."""

    family: str = ""
    """Model family: `panoptic_segformer`, the only one so far."""
    backbone: str = "resnet50"
    """Backbone with feature maps at strides 8, 16 and 32: `resnet18`, `resnet50`, `resnet101`, `pvt_v2_b0`,
    `pvt_v2_b2`, `pvt_v2_b5`, `swin_tiny`, `swin_large`, or `timm/<model>` for any other suitable timm model."""
    backbone_weights: str = "imagenet"
    """Initial weights of the backbone: `imagenet` (downloaded by timm), `none` (random), or the path of a file."""
    frozen_stages: int | None = None
    """Number of ResNet stages that are not trained, counted from the stem. Null: 2 for ResNets, as published, and 0 for
    other backbones. Range: 0 to 5 for ResNets; 0 for other backbones."""
    frozen_batch_norm: bool = True
    """Freeze the backbone's BatchNorms: running statistics are used in training too, affine parameters are not
    trained."""
    drop_path: float = 0.0
    """Stochastic depth rate of the last backbone block. It increases linearly from 0 over the blocks. Range: 0 to less
    than 1."""

    starting_only: ClassVar[tuple[str, ...]] = ("backbone_weights",)
    """Fields that only matter when a run starts. A resumed run can change them."""


@dataclass(frozen=True)
class InferenceSettings:
    """Settings for postprocessing a model's output. A family's subclass adds its thresholds."""

    grid: ClassVar[dict[str, tuple[float, ...]]] = {}
    """Fields that `evaluate tune` searches, with the values it tries."""


@dataclass(frozen=True)
class DataSettings:
    """Location of the images, and the transforms applied to them."""

    root: str = ""
    """Data set folder in COCO's layout; see docs/data.md. Usually set with `--set data.root=DIR`."""
    train_split: str = "train2017"
    """Split to train on. Its annotations are `annotations/panoptic_<split>.json` in `root`."""
    val_split: str = "val2017"
    """Split to evaluate on."""
    short_side: int = 800
    """Inference: length of an image's short side after resizing, in pixels, unless `long_side` requires a smaller one.
    Small images are enlarged. Range: 32 or more."""
    long_side: int = 1333
    """Inference and training: maximum length of an image's long side after resizing, in pixels. Range: 32 or more."""
    train_short_sides: tuple[int, ...] = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    """Training: lengths of the short side to choose from at random, in pixels. Range: 32 or more each."""
    flip_probability: float = 0.5
    """Training: probability that an image is flipped horizontally. Range: 0 to 1."""
    crop_probability: float = 0.5
    """Training: probability that an image is resized, cropped at random and resized again (docs/model.md,
    "Augmentation"). Range: 0 to 1."""
    crop_short_sides: tuple[int, ...] = (400, 500, 600)
    """Training: lengths of the short side before a crop to choose from at random, in pixels. Range: 32 or more each."""
    crop_range: tuple[int, int] = (384, 600)
    """Training: minimum and maximum length of a crop's sides, in pixels. Range: 1 or more, in ascending order."""
    skip_bad_images: bool = False
    """Training: skip images that cannot be used, and count and list them. By default the first one stops the run."""
    allow_no_segments: bool = False
    """Training: train on a split in which no image has a segment. By default this is an error."""
    workers: int = 4
    """Number of data loading workers for each training process; 0 loads in the training process. Range: 0 or more."""

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
    """Optimization (docs/model.md, "Optimizer")."""

    epochs: int = 24
    """Number of passes over the training split. Range: 1 or more."""
    max_steps: int | None = None
    """Stop, save and evaluate after this many optimizer steps in total, also counting those before a resume, even if
    `epochs` would take longer. Null: no limit.
    Range: 1 or more."""
    batch_size: int = 8
    """Images per optimizer step, over all processes. With fewer processes than images, gradients are accumulated: the
    step is the same as long as BatchNorm is frozen. Range: a multiple of the number of processes times
    `images_per_forward`."""
    images_per_forward: int = 1
    """Images per forward pass of one process. Images of different sizes are padded, which changes the result slightly;
    the published runs used 1. Range: 1 or more."""
    lr: float = 1.4e-4
    """Learning rate for a step of `batch_size` images. Range: more than 0."""
    weight_decay: float = 1e-4
    """Weight decay of AdamW, applied to all parameters. Range: 0 or more."""
    slow_lr_factor: float = 0.1
    """Factor on the learning rate of the backbone, of `sampling_offsets` and of `reference_points`. Range: 0 or
    more."""
    clip_norm: float = 0.1
    """Maximum L2 norm of the gradient of all parameters together; a longer one is scaled down. Range: more than 0."""
    schedule: Literal["step", "cosine"] = "step"
    """Learning rate schedule. `step`: divided by 10 at each of `drop_epochs`. `cosine`: decays to 0 at the last
    step."""
    drop_epochs: tuple[int, ...] = (18,)
    """Epochs, counted from 0, at whose start the learning rate is divided by 10. Used by the `step` schedule; epochs
    that the run does not reach have no effect. Range: any list, also an empty one."""
    warmup_steps: int = 0
    """Number of optimizer steps over which the learning rate increases linearly at the start. Range: 0 or more."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the forward pass. `bf16` uses autocast; weights, losses and the optimizer stay in fp32."""
    max_bad_steps: int = 5
    """Optimizer steps in a row whose loss or gradient may be NaN or infinite before training counts as diverged. Such
    a step is skipped: it changes no weights, but counts as a step of the schedule. Range: 1 or more."""
    on_divergence: Literal["stop", "rollback"] = "stop"
    """What to do when training diverges. `stop`: end with an error. `rollback`: return to the last checkpoint and
    continue with half the learning rate, at most three times."""
    seed: int = 0
    """Seed of the random weights, of the order of the images and of the augmentation. Range: 0 or more."""
    evaluate_every: int = 1
    """Epochs between evaluations on `data.val_split`. The last epoch is always evaluated. Range: 1 or more."""
    log_every: int = 50
    """Optimizer steps between lines in metrics.jsonl. Range: 1 or more."""

    def __post_init__(self) -> None:
        problems = []
        for name in ("epochs", "batch_size", "images_per_forward", "evaluate_every", "log_every", "max_bad_steps"):
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
    """Raise one RecipeError that lists all problems, if there are any."""
    if problems:
        raise RecipeError("\n".join(problems))
