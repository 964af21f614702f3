"""Settings of data and training, and the settings that all model families share.

A model family adds its own sizes and thresholds in `models/<family>/settings.py`. `recipe.Recipe` combines them. Each
class validates its values and reports all problems at once.

The docstring of each field gives its meaning and its unit. The type of a number has its range (`setting_types`); a
docstring ends with `Range: ...` only if there is more to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from panformer_cli.setting_types import Count, CountOrZero, FilePath, Fraction, FractionBelowOne, Range, Section

LONGEST_SIDE = 16384
"""Maximum length of an image's side in the settings, in pixels."""
CROP_LONG_SIDE = 4200
"""Maximum length of an image's long side before a crop, in pixels."""
Side = Annotated[int, Range(32, LONGEST_SIDE, unit="pixels")]
BackboneNormalization = Literal["imagenet", "pretrained"]
Sides = Annotated[tuple[int, ...], Range(32, LONGEST_SIDE, unit="pixels", values=1)]


@dataclass(frozen=True)
class ModelSettings(Section):
    """Model settings that every family has. A family's subclass adds its sizes."""

    section = "model"

    family: str = ""
    """Model family: `panoptic_segformer`, or `knet`, which is for inference only."""
    backbone: str = "resnet50"
    """Backbone with feature maps at strides 8, 16 and 32: `resnet18`, `resnet50`, `resnet101`, `pvt_v2_b0`,
    `pvt_v2_b2`, `pvt_v2_b5`, `swin_tiny`, `swin_large`, or `timm/<model>` for any other suitable timm model."""
    backbone_weights: FilePath = "imagenet"
    """Initial weights of the backbone: `imagenet` (timm's pretrained weights, downloaded once), `none` (random), or the
    path of a file."""
    backbone_normalization: BackboneNormalization = "imagenet"
    """Mean and standard deviation of the images that the backbone gets: `imagenet`, or `pretrained` for those of timm's
    weights, which differ for some models. It is part of the model, so it also applies to training with other weights,
    to evaluation and to prediction."""
    frozen_stages: CountOrZero | None = None
    """Number of ResNet stages that are not trained, counted from the stem. Null: 2 for ResNets, as published, and 0 for
    other backbones. Range: 0 to 5 for ResNets; 0 for other backbones."""
    frozen_batch_norm: bool = True
    """Freeze the backbone's BatchNorms: running statistics are used in training too, affine parameters are not
    trained."""
    drop_path: FractionBelowOne = 0.0
    """Stochastic depth rate of the last backbone block. It increases linearly from 0 over the blocks."""

    parts: ClassVar[tuple[str, ...]] = ("backbone",)
    """Parts that `train.checkpoint` and `train.compile` can name. The first ones save the most memory per time."""
    starting_only: ClassVar[tuple[str, ...]] = ("backbone_weights",)
    """Fields that only matter when a run starts. A resumed run can change them."""


@dataclass(frozen=True)
class InferenceSettings(Section):
    """Settings for postprocessing a model's output. A family's subclass adds its thresholds."""

    section = "inference"

    grid: ClassVar[dict[str, tuple[float, ...]]] = {}
    """Fields that `evaluate tune` searches, with the values it tries."""

    predict_options: ClassVar[dict[str, tuple[str, ...]]] = {}
    """Fields that the options `threshold` and `overlap` of `predict` set, by option. A family without such a threshold
    leaves the option out."""


@dataclass(frozen=True)
class DataSettings(Section):
    """Location of the images, and the transforms applied to them."""

    section = "data"

    root: FilePath = ""
    """Data set folder in COCO's layout; see docs/data.md. Usually set with `--set data.root=DIR`. `~` and `$VARIABLE`
    are expanded."""
    train_split: str = "train2017"
    """Split to train on. Its annotations are `annotations/panoptic_<split>.json` in `root`."""
    val_split: str = "val2017"
    """Split to evaluate on."""
    short_side: Side = 800
    """Inference: length of an image's short side after resizing, in pixels, unless `long_side` requires a smaller one.
    Small images are enlarged."""
    long_side: Side = 1333
    """Inference and training: maximum length of an image's long side after resizing, in pixels."""
    train_short_sides: Sides = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    """Training: lengths of the short side to choose from at random, in pixels."""
    flip_probability: Fraction = 0.5
    """Training: probability that an image is flipped horizontally."""
    crop_probability: Fraction = 0.5
    """Training: probability that an image is resized, cropped at random and resized again (docs/model.md,
    "Augmentation")."""
    crop_short_sides: Sides = (400, 500, 600)
    """Training: lengths of the short side before a crop to choose from at random, in pixels."""
    crop_range: Annotated[tuple[int, int], Range(1, LONGEST_SIDE, unit="pixels")] = (384, 600)
    """Training: minimum and maximum length of a crop's sides, in pixels. Range: in ascending order."""
    scale_jitter: Annotated[tuple[float, float], Range(0, 10, above=True)] | None = None
    """Training: minimum and maximum of a random factor on the size of an image after the transforms above
    (large-scale jitter, usually [0.1, 2.0]). An image that gets larger is cropped to its size without this factor.
    Null: off. Range: in ascending order."""
    color_jitter: Annotated[tuple[float, float, float, float], Range(0, 1)] | None = None
    """Training: strengths of random changes of brightness, contrast, saturation and hue, such as [0.4, 0.4, 0.4, 0.1].
    The factors are drawn from 1 - strength to 1 + strength; the hue is shifted by up to its strength, where 1 is the
    whole color circle. Null: off. Range: hue at most 0.5."""
    copy_paste: Fraction = 0.0
    """Training: probability that things of another training image are pasted into an image."""
    repeat_factor: Fraction = 0.0
    """Training: repeat images with rare classes. A class that is in a fraction f of the training images, less than this
    threshold t, has the factor sqrt(t / f). An image is used as often per epoch as the largest factor of its classes
    says, rounded up or down at random. LVIS uses 0.001. 0: every image is used once."""
    skip_bad_images: bool = False
    """Training: skip training and validation images that cannot be used, and count and list them. By default, the first
    training image stops the run, and a validation image makes the evaluation fail."""
    check_validation: bool = True
    """Training: read all validation images with their annotations before a new run starts, and list those that cannot
    be used. They are an error, or, with `skip_bad_images`, a warning. This takes 5 to 10 s for 1000 images of 640 x
    480 pixels with one worker. Only the first process does it, with up to `workers` workers."""
    allow_no_segments: bool = False
    """Training: train on a split in which no image has a segment. By default this is an error."""
    workers: Annotated[int, Range(0, 1024)] = 4
    """Number of data loading workers for each training process; 0 loads in the training process."""

    def problems(self) -> list[str]:
        """Return one message for each problem that a range cannot express."""
        found = []
        if self.crop_range[0] > self.crop_range[1]:
            found.append(f"data.crop_range is {list(self.crop_range)}: expected [smallest, largest] in pixels")
        if self.scale_jitter is not None and self.scale_jitter[0] > self.scale_jitter[1]:
            found.append(f"data.scale_jitter is {list(self.scale_jitter)}: expected [smallest, largest]")
        if self.color_jitter is not None and self.color_jitter[3] > 0.5:
            found.append(f"data.color_jitter is {list(self.color_jitter)}: expected a hue of at most 0.5")
        return found


@dataclass(frozen=True)
class TrainSettings(Section):
    """Optimization (docs/model.md, "Optimizer")."""

    section = "train"

    epochs: Annotated[int, Range(1, 1_000_000)] = 24
    """Number of passes over the training split."""
    max_steps: Count | None = None
    """Stop, save and evaluate after this many optimizer steps in total, also counting those before a resume, even if
    `epochs` would take longer. Null: no limit."""
    batch_size: Annotated[int, Range(1, 1_000_000)] = 8
    """Images per optimizer step, over all processes. With fewer processes than images, gradients are accumulated: the
    step is the same as long as BatchNorm is frozen. Range: a multiple of the number of processes times
    `images_per_forward`."""
    images_per_forward: Annotated[int, Range(1, 1_000_000)] = 1
    """Images per forward pass of one process. Images of different sizes are padded, which changes the result slightly;
    the published runs used 1."""
    lr: Annotated[float, Range(0, 1, above=True)] = 1.4e-4
    """Learning rate for a step of `batch_size` images."""
    weight_decay: Annotated[float, Range(0, 100)] = 1e-4
    """Weight decay of AdamW, applied to all parameters."""
    decay_norms_and_biases: bool = True
    """Whether weight decay also applies to norms, biases, embeddings, tokens and scales, as published. False: only to
    the weight matrices of linear and convolutional layers."""
    slow_lr_factor: Annotated[float, Range(0, 1000)] = 0.1
    """Factor on the learning rate of the backbone, of `sampling_offsets` and of `reference_points`."""
    layer_decay: Annotated[float, Range(0, 1, above=True)] = 1.0
    """Layer-wise learning rate decay of the backbone: the last layer has this factor on its learning rate, the layer
    before it the square, and so on to the stem; `slow_lr_factor` applies too. 1: the same rate for all layers."""
    freeze: tuple[str, ...] = ()
    """Parts of the model that are not trained, such as [backbone, encoder]: their weights and running statistics stay
    as they are. Range: `backbone`, `neck`, `encoder`, `location_decoder`, `thing_mask_decoder`, `stuff_mask_decoder`,
    `stuff_queries`; at least one part must be trained."""
    clip_norm: Annotated[float, Range(0, above=True)] = 0.1
    """Maximum L2 norm of the gradient of all parameters together; a longer one is scaled down."""
    schedule: Literal["step", "cosine", "poly", "one_cycle", "constant"] = "step"
    """Learning rate schedule. `step`: divided by 10 at each of `drop_epochs`. `cosine`: falls as half a cosine. `poly`:
    falls with the power 0.9, almost linearly. `one_cycle`: rises from 1/25 over the first 30 % of the run, then falls
    as half a cosine. `constant`: does not change. docs/training_options.md has the formulas."""
    min_lr_factor: Fraction = 0.0
    """Factor on `lr` to which the schedule falls at the end of the run, and below which `step` does not fall."""
    drop_epochs: Annotated[tuple[int, ...], Range(0)] = (18,)
    """Epochs, counted from 0, at whose start the learning rate is divided by 10. Used by the `step` schedule. An
    empty list keeps the learning rate constant. Range: below `epochs`, each one once."""
    warmup_steps: CountOrZero = 0
    """Number of optimizer steps over which the learning rate increases linearly at the start."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of the forward pass. `bf16` and `fp16` use autocast; weights, losses and the optimizer stay in fp32.
    `fp16` also scales the losses, and needs a GPU; it is for GPUs without `bf16`."""
    checkpoint: tuple[str, ...] = ()
    """Parts of the model whose activations are computed again in the backward pass instead of kept (activation
    checkpointing). This saves memory and takes time; the gradients stay the same. Range: `encoder`, `stuff_masks`,
    `thing_masks`, `location_decoder` and `backbone`."""
    compile: tuple[str, ...] = ()
    """Parts of the model that run through `torch.compile` in training. Results differ slightly, and the first steps
    take longer. Range: as `checkpoint`."""
    tf32: bool | None = None
    """Allow TF32 in matrix products and convolutions of fp32 on GPUs, which is faster and less accurate. Null: torch's
    default, TF32 in convolutions only."""
    deterministic: bool = False
    """Use only deterministic algorithms, so that two runs on the same hardware give the same numbers. Slower on a GPU,
    where deformable attention also needs `--sampling gather`."""
    sync_batch_norm: bool = False
    """Normalize over the images of all GPUs in BatchNorm. Needs `model.frozen_batch_norm: false` and several GPUs."""
    ema_decay: Annotated[float, Range(0, 1, below=True)] | None = None
    """Decay of an exponential moving average of the weights, such as 0.9998. The averaged weights are evaluated, saved
    in the best checkpoint, and used by `predict` and `evaluate`; training continues from the others. In the first
    steps the decay is lower. Null: no average."""
    max_bad_steps: Count = 5
    """Optimizer steps in a row whose loss or gradient may be NaN or infinite before training counts as diverged. Such
    a step is skipped: it changes no weights, but counts as a step of the schedule."""
    on_divergence: Literal["stop", "rollback"] = "stop"
    """What to do when training diverges. `stop`: end with an error. `rollback`: return to the last checkpoint and
    continue with half the learning rate, at most three times."""
    seed: Annotated[int, Range(0, 10**18)] = 0
    """Seed of the random weights, of the order of the images and of the augmentation."""
    evaluate_every: Count = 1
    """Epochs between evaluations on `data.val_split`. The last epoch is always evaluated."""
    save_minutes: Annotated[float, Range(0, above=True)] = 10.0
    """Minutes between writes of `last.safetensors`, the checkpoint from which the run resumes. It is also written
    before and after every evaluation, at the end of each epoch of `train.keep_every`, and when the run is stopped."""
    keep_last: CountOrZero = 0
    """Number of earlier checkpoints to keep as `step-<n>.safetensors` beside `last.safetensors`. A run can resume from
    each of them."""
    keep_every: Count | None = None
    """Also keep the checkpoint of each epoch whose number, counted from 1, is a multiple of this. Null: none."""
    keep_best: CountOrZero = 0
    """Also keep this number of evaluated earlier checkpoints with the highest PQ, for example to average them
    (`panformer weights average RUN --best K`)."""
    early_stopping: Count | None = None
    """Stop after this many evaluations in a row without a higher PQ than before, counted over resumes. Null: off."""
    log_every: Count = 50
    """Optimizer steps between lines in metrics.jsonl."""

    def problems(self) -> list[str]:
        """Return one message for each problem that a range cannot express."""
        if len(set(self.drop_epochs)) == len(self.drop_epochs):
            return []
        return [f"train.drop_epochs is {list(self.drop_epochs)}: expected each epoch once"]
