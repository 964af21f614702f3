"""The recorded training steps: images, targets, our forward pass, and conversion of names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from panformer_cli.data.structures import Targets
from panformer_cli.models.base import LossCounts, count_segments
from panformer_cli.models.panoptic_segformer.criterion import PanopticCriterion
from panformer_cli.models.panoptic_segformer.matcher import ImageTargets, Match, match_locations
from panformer_cli.models.panoptic_segformer.model import PanopticSegFormer
from panformer_cli.models.panoptic_segformer.official.names import own_name
from panformer_cli.models.panoptic_segformer.output import TrainingOutput
from panformer_cli.models.panoptic_segformer.query_selection import gather_queries, pad_queries
from tests.golden.recordings import Recording
from tests.golden.release import THINGS

CASES = ("plain", "padded", "no_things", "no_stuff")
LAST = {"cls": ("location_class", 5), "bbox": ("location_l1", 5), "iou": ("location_giou", 5)}
LAST |= {"mask_things": ("thing_mask", 4), "mask_stuff": ("stuff_mask", 6), "cls_stuff": ("stuff_class", 6)}
TINY = 1e-6
"""Gradient norms below this are rounding noise: some cancel exactly, as a key's bias does not change a softmax."""


def own_loss(name: str) -> str | None:
    """Return our name of a recorded loss; None for branches whose losses are multiplied by zero."""
    head, _, tail = name.rpartition(".")
    term = tail.removeprefix("loss_").removesuffix("_f")
    if tail.endswith("_f") and term in ("cls", "bbox", "iou"):
        return None
    ours, last = LAST[term]
    return f"{ours}/{head.removeprefix('d') or last}"


def is_of_location_class(name: str) -> bool:
    """Return whether one of our losses is excluded in recordings named `nocls`."""
    return name.startswith("location_class/")


@dataclass
class TrainingCase:
    """One recorded image of training, and our forward pass over it."""

    name: str
    variant: str
    recording: Recording
    model: PanopticSegFormer
    images: Tensor
    padding: Tensor
    targets: Targets

    @classmethod
    def of(
        cls,
        name: str,
        variant: str,
        recording: Recording,
        model: PanopticSegFormer,
        inputs: dict[str, Tensor],
        canvas: tuple[int, int] | None = None,
    ) -> TrainingCase:
        """Return a recorded case; `canvas` replaces the recorded height and width of the canvas."""
        note, arrays = recording.notes[f"{name}.case"], recording.arrays
        (height, width, _), canvas = note["img_shape"], canvas or tuple(note["batch_input_shape"])
        images, padding = torch.zeros(1, 3, *canvas), torch.ones(1, *canvas, dtype=torch.bool)
        images[0, :, :height, :width] = inputs[note["input"].split(".")[0]]
        padding[0, :height, :width] = False
        labels = torch.from_numpy(arrays[f"{name}.gt.labels"]).long()
        bits = np.unpackbits(arrays[f"{name}.gt.masks_packbits"], axis=-1)
        masks = bits[:, : height * width].reshape(len(labels), height, width).astype(bool)
        targets = Targets(labels, torch.from_numpy(arrays[f"{name}.gt.boxes"]), torch.from_numpy(masks))
        return cls(name, variant, recording, model, images, padding, targets)

    @property
    def column(self) -> str:
        """The column in the table. Only R-50 is in the project's own recordings."""
        return self.name if self.variant == "r50" else f"{self.variant} {self.name}"

    @property
    def is_swin(self) -> bool:
        return self.variant == "swinl"

    @property
    def drops_stuff_classes(self) -> bool:
        """Whether the reference implementation drops the stuff class losses: without things (docs/fidelity.md)."""
        return not bool((self.targets.labels < THINGS).any())

    @cached_property
    def image_targets(self) -> ImageTargets:
        return ImageTargets.of(self.targets, THINGS)

    @cached_property
    def forward(self) -> tuple[TrainingOutput, Match]:
        """The output and the first matching, as in `PanopticSegFormer.forward`."""
        model = self.model
        memory = model.encode(self.images, self.padding)
        location = model.location_decoder(memory)
        (match,) = match_locations(location.class_logits, location.boxes, [self.image_targets.things])
        selected = [match.queries[-1]]
        queries = gather_queries(location.queries, pad_queries(selected))
        things, stuff, stuff_logits = model.decode_masks(memory, queries, every_mask=True)
        canvas = (self.images.shape[-2], self.images.shape[-1])
        return TrainingOutput(location, selected, things, stuff, stuff_logits, canvas), match

    @property
    def counts(self) -> LossCounts:
        return LossCounts(*count_segments([self.targets], THINGS))

    def losses(self, counts: LossCounts) -> dict[str, Tensor]:
        """Return the losses, without those that the reference implementation drops."""
        output, match = self.forward
        return self.without_dropped(PanopticCriterion(THINGS)(output, [self.image_targets], [match], counts))

    def without_dropped(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the losses that the reference implementation has too."""
        dropped = "stuff_class/" if self.drops_stuff_classes else "none"
        return {name: loss for name, loss in losses.items() if not name.startswith(dropped)}

    def gradients(self, without_class_losses: bool) -> dict[str, Tensor | None]:
        """Return the gradients, by our names."""
        losses = self.losses(self.counts)
        kept = [x for name, x in losses.items() if not (without_class_losses and is_of_location_class(name))]
        self.model.zero_grad()
        torch.stack(kept).sum().backward(retain_graph=True)
        gradients = {name: parameter.grad for name, parameter in self.model.named_parameters()}
        self.model.zero_grad()
        return gradients


def recorded_by_own_name(
    notes: dict[str, float | None], is_swin: bool = False
) -> Iterator[tuple[str, str, float | None]]:
    """Yield recorded name, our name and value. The values of unused branches must be 0."""
    for name, value in notes.items():
        ours = own_name(name, is_swin)
        if ours is None:
            assert not value, name
        else:
            yield name, ours, value


def norm_of(gradient: Tensor | None) -> float:
    return 0.0 if gradient is None else float(gradient.double().norm())


def loss_differences(recorded: dict[str, float], ours: dict[str, Tensor]) -> dict[str, float]:
    """Return the relative difference of every recorded loss. Losses that we do not have must be 0."""
    differences = {}
    for name, theirs in recorded.items():
        own = own_loss(name)
        if own is None or own not in ours:
            assert theirs == 0, name
        else:
            differences[name] = abs(ours[own].item() - theirs) / max(abs(theirs), 1e-3)
    assert len(differences) == len(ours)
    return differences


def norm_differences(
    recorded: dict[str, float | None], gradients: dict[str, Tensor | None], is_swin: bool = False
) -> dict[str, float]:
    """Return the relative difference of the gradient norm of every parameter. A missing gradient counts as zero."""
    differences = {}
    for name, ours, norm in recorded_by_own_name(recorded, is_swin):
        theirs, own = norm or 0.0, norm_of(gradients[ours])
        differences[name] = abs(own - theirs) / theirs if theirs > TINY else max(0.0, own - TINY)
    assert len(differences) >= 400
    return differences


KINK = 0.1
"""The largest observed effect of rounding at one edge on a gradient of sampling offsets. Bugs have larger effects."""


def but_for_a_kink(differences: dict[str, float], limit: float) -> dict[str, float]:
    """Return the differences without the sampling offsets of one layer, if only those are above the limit.

    The gradient of bilinear sampling jumps where a sampling location crosses the edge of a cell. Of millions of
    locations one can be so close to an edge that rounding decides. Then one value of a layer's `sampling_offsets.bias`
    and one row of its weight differ, and all others agree to 1e-8. It depends on CPU, threads and libraries.
    """
    above = {name for name, difference in differences.items() if difference > limit}
    layers = {name.rpartition(".")[0] for name in above}
    is_small = all(differences[name] < KINK for name in above)
    if is_small and len(layers) == 1 and layers.pop().endswith("sampling_offsets"):
        return {name: difference for name, difference in differences.items() if name not in above}
    return differences


def sample_differences(
    recording: Recording, prefix: str, gradients: dict[str, Tensor | None], is_swin: bool = False
) -> dict[str, float]:
    """Return the largest difference / the largest recorded value, for samples of the gradient of every parameter."""
    positions: dict[str, list[int]] = recording.notes[f"{prefix}grad_sample_offset_stride"]
    samples = recording.arrays[f"{prefix}grad_samples"]
    norms = recording.notes[f"{prefix}grad_norms"]
    differences = {}
    for name, (offset, stride) in positions.items():
        ours = own_name(name, is_swin)
        gradient = None if ours is None else gradients[ours]
        if gradient is None or (norms[name] or 0.0) <= TINY:
            continue
        mine = gradient.reshape(-1)[::stride].numpy()
        theirs = samples[offset : offset + len(mine)]
        # If all samples happen to be tiny, the noise is compared with a typical value.
        usual = norms[name] / gradient.numel() ** 0.5
        differences[name] = float(np.abs(mine - theirs).max()) / max(float(np.abs(theirs).max()), usual)
    return differences


def whole_differences(
    recording: Recording, prefix: str, gradients: dict[str, Tensor | None], scale: float = 1.0, is_swin: bool = False
) -> dict[str, float]:
    """Return the differences of gradients that were recorded in full; `scale` is the factor in the recording."""
    differences = {}
    for key in recording.arrays.files:
        name = key.removeprefix(f"{prefix}grad:")
        ours = None if name == key else own_name(name, is_swin)
        gradient = None if ours is None else gradients[ours]
        if gradient is not None and recording.notes[key]["absmax"] > 10 * TINY * scale:
            differences[name] = recording.distance(key, gradient * scale)
    return differences
