"""The losses, compared with a plain implementation of docs/model.md, "Losses", object by object."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import box_convert, generalized_box_iou, sigmoid_focal_loss

from panformer_cli.data.structures import Targets
from panformer_cli.models.base import LossCounts, count_segments
from panformer_cli.models.panoptic_segformer.criterion import PanopticCriterion, thing_share
from panformer_cli.models.panoptic_segformer.location_decoder import LocationOutput
from panformer_cli.models.panoptic_segformer.mask_decoder import MaskOutput
from panformer_cli.models.panoptic_segformer.matcher import ImageTargets, match_locations, match_masks
from panformer_cli.models.panoptic_segformer.output import TrainingOutput
from tests.models.panoptic_segformer.small import naming, targets_of

THINGS, STUFF, QUERIES, LAYERS = 3, 4, 6, 2
CANVAS, SIZE = (48, 64), (44, 60)
FULL = (0, 0, SIZE[1], SIZE[0])
BUSY = targets_of(
    SIZE,
    (1, (4, 4, 30, 40)),
    (5, (0, 30, 60, 44)),
    (0, (20, 2, 58, 20)),
    (1, (40, 20, 60, 44)),
    (3, (0, 0, 60, 8)),
)
QUIET = targets_of(SIZE, (6, (0, 0, 60, 20)), (2, (10, 10, 30, 30)))


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Run:
    """A synthetic forward pass for some targets: its output, and the first matching."""

    def __init__(
        self, targets: list[Targets], canvas: tuple[int, int] = CANVAS, seeds: tuple[int, ...] = (0, 1)
    ) -> None:
        self.targets = targets
        parts = [_image(seed) for seed in seeds[: len(targets)]]
        logits, boxes, thing_masks, stuff_masks, stuff_logits = (
            torch.stack(part, 1) for part in zip(*parts, strict=True)
        )
        location = LocationOutput(logits, boxes, torch.zeros(len(targets), QUERIES, 8))
        self.image_targets = [ImageTargets.of(target, THINGS) for target in targets]
        selected = self.match(location)
        most = max(len(indices) for indices in selected)
        things = MaskOutput(list(thing_masks[:, :, :most]), [])
        self.output = TrainingOutput(
            location, selected, things, MaskOutput(list(stuff_masks), []), stuff_logits, canvas
        )

    def match(self, location: LocationOutput) -> list[Tensor]:
        """Match the queries, and return the matched queries of the last layer."""
        things = [image.things for image in self.image_targets]
        self.matches = match_locations(location.class_logits, location.boxes, things)
        return [match.queries[-1] for match in self.matches]

    def losses(self, counts: LossCounts | None = None) -> dict[str, Tensor]:
        if counts is None:
            things, stuff = count_segments(self.targets, THINGS)
            counts = LossCounts(things / len(self.targets), stuff / len(self.targets))
        return PanopticCriterion(THINGS)(self.output, self.image_targets, self.matches, counts)


def _image(seed: int) -> tuple[Tensor, ...]:
    """Return class logits, boxes, thing masks (two), stuff masks (three) and stuff logits (two) of one image."""
    return (
        noise(LAYERS, QUERIES, THINGS, seed=10 * seed),
        noise(LAYERS, QUERIES, 4, seed=10 * seed + 1).sigmoid(),
        noise(2, QUERIES, 6, 8, seed=10 * seed + 2).relu(),
        noise(3, STUFF, 6, 8, seed=10 * seed + 3).relu(),
        noise(2, STUFF, seed=10 * seed + 4),
    )


def literal_dice(mask: Tensor, target: Tensor) -> Tensor:
    """Return the dice loss of a mask (6, 8) and a target of the size of the image, both at stride 4 on the canvas."""
    canvas = torch.zeros(CANVAS)
    canvas[: SIZE[0], : SIZE[1]] = target.float()
    p = F.interpolate(mask[None, None], size=(12, 16), mode="bilinear", align_corners=False)
    t = F.interpolate(canvas[None, None], size=(12, 16), mode="bilinear", align_corners=False)
    return 1 - 2 * (p * t).sum() / (p.square().sum() + 1e-6 + t.square().sum() + 1e-6)


def literal_losses(run: Run) -> dict[str, Tensor]:
    """Return the losses of one image, computed object by object."""
    (targets,), output = run.targets, run.output
    labels, masks = targets.labels.tolist(), targets.masks
    things = [n for n, label in enumerate(labels) if label < THINGS]
    stuff = sorted({label for label in labels if label >= THINGS})
    things_count, stuff_count = max(len(things), 1), max(len(stuff), 1)
    thing_share = things_count / (things_count + stuff_count)
    scale = torch.tensor([SIZE[1], SIZE[0], SIZE[1], SIZE[0]], dtype=torch.float32)
    losses: dict[str, Tensor] = {}
    for layer in range(LAYERS):
        logits, boxes = output.location.class_logits[layer, 0], output.location.boxes[layer, 0]
        classes, l1, giou = torch.zeros(QUERIES, THINGS), torch.tensor(0.0), torch.tensor(0.0)
        match = run.matches[0]
        for q, n in zip(match.queries[layer].tolist(), match.objects[layer].tolist(), strict=True):
            box = targets.boxes[things[n]]
            classes[q, labels[things[n]]] = 1
            l1 = l1 + (boxes[q] - box_convert(box / scale, "xyxy", "cxcywh")).abs().sum()
            pixels = box_convert(boxes[q], "cxcywh", "xyxy") * scale
            giou = giou + 1 - generalized_box_iou(pixels[None], box[None])[0, 0]
        focal = sigmoid_focal_loss(logits, classes, alpha=0.25, gamma=2.0).sum()
        for term, value, weight in (("class", focal, 2), ("l1", l1, 5), ("giou", giou, 2)):
            losses[f"location_{term}/{layer}"] = weight * value * thing_share / things_count
    matched = literal_second_matching(run)
    for block, mask in enumerate(output.things.masks):
        dice = [literal_dice(mask[0, index], masks[things[n]]) for index, n in matched]
        losses[f"thing_mask/{block}"] = 2 * sum(dice, torch.tensor(0.0)) * thing_share / things_count
    present = torch.tensor([float(THINGS + s in stuff) for s in range(STUFF)])
    for block, logits in enumerate(output.stuff_logits):
        focal = sigmoid_focal_loss(logits[0], present, alpha=0.25, gamma=2.0).sum()
        losses[f"stuff_class/{block}"] = 4 * focal * (1 - thing_share) / stuff_count
    for block, mask in enumerate(output.stuff.masks):
        dice = []
        for label in stuff:
            region = masks[[n for n, other in enumerate(labels) if other == label]].any(0)
            dice.append(literal_dice(mask[0, label - THINGS], region))
        losses[f"stuff_mask/{block}"] = 2 * sum(dice, torch.tensor(0.0)) * (1 - thing_share) / stuff_count
    return losses


def literal_second_matching(run: Run) -> list[tuple[int, int]]:
    """Return pairs (index among the selected queries, object), using the matcher, which has its own tests."""
    chosen, things = run.output.selected[0], run.image_targets[0].things
    on_canvas = torch.zeros(len(things.masks), *CANVAS)
    on_canvas[:, : SIZE[0], : SIZE[1]] = things.masks.float()
    small = F.interpolate(on_canvas[None], size=(6, 8), mode="bilinear", align_corners=False)[0]
    location = run.output.location
    match = match_masks(
        location.class_logits[-1, 0, chosen],
        location.boxes[-1, 0, chosen],
        run.output.things.masks[-1][0, : len(chosen)],
        things,
        small,
    )
    return list(zip(match.queries[0].tolist(), match.objects[0].tolist(), strict=True))


def assert_equal_losses(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        torch.testing.assert_close(
            torch.as_tensor(ours[name]),
            torch.as_tensor(value),
            rtol=1e-4,
            atol=1e-6,
            msg=naming(name),
        )


ALL_TERMS = {f"location_{term}/{layer}" for term in ("class", "l1", "giou") for layer in range(LAYERS)} | {
    "thing_mask/0",
    "thing_mask/1",
    "stuff_mask/0",
    "stuff_mask/1",
    "stuff_mask/2",
    "stuff_class/0",
    "stuff_class/1",
}


@pytest.mark.parametrize("targets", [BUSY, QUIET], ids=["busy", "quiet"])
def test_every_loss_equals_the_plain_implementation(targets: Targets) -> None:
    run = Run([targets])
    losses = run.losses()
    assert set(losses) == ALL_TERMS
    assert all(loss > 1e-3 for loss in losses.values())
    assert_equal_losses(losses, literal_losses(run))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_of_extreme_outputs_in_half_precision_are_those_of_float32(dtype: torch.dtype) -> None:
    """Logits and masks of 200: float16 would overflow in the sums of squares, and so would the focal loss."""
    run, half = Run([BUSY]), Run([BUSY])
    for each, to in ((run, torch.float32), (half, dtype)):
        location, output = each.output.location, each.output
        location.class_logits = (200 * location.class_logits.sign()).to(to)
        location.boxes = location.boxes.to(dtype).to(to)
        output.stuff_logits = (200 * output.stuff_logits.sign()).to(to)
        for masks in (output.things.masks, output.stuff.masks):
            masks[:] = [(200 * mask.round()).to(to) for mask in masks]
        output.selected = each.match(location)
    assert_equal_losses(half.losses(), run.losses())
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in half.losses().values())


def test_counts_by_hand() -> None:
    assert count_segments([BUSY], THINGS) == (3, 2)
    assert count_segments([BUSY, QUIET], THINGS) == (4, 3)
    assert count_segments([targets_of(SIZE)], THINGS) == (0, 0)
    assert count_segments([], THINGS) == (0, 0)


@pytest.mark.parametrize(
    ("things", "stuff", "share"),
    [(3, 1, 0.75), (0, 2, 1 / 3), (4, 0, 0.8), (0, 0, 0.5), (0.5, 1.5, 0.4), (2.5, 7.5, 0.25)],
)
def test_balance_by_hand(things: float, stuff: float, share: float) -> None:
    assert thing_share(LossCounts(things, stuff)) == pytest.approx(share)


def test_losses_use_the_counts_of_the_whole_step() -> None:
    run = Run([BUSY])
    own, step = run.losses(LossCounts(3, 2)), run.losses(LossCounts(4.5, 0.5))
    # things: share 3/5 over 3 becomes 4.5/5.5 over 4.5; stuff: 2/5 over 2 becomes 1/5.5 over 1.
    for name, value in own.items():
        factor = (1 / 5.5) / (1 / 5)
        torch.testing.assert_close(step[name], value * factor, msg=naming(name))
    few, none = run.losses(LossCounts(0.25, 2)), run.losses(LossCounts(1, 2))
    assert_equal_losses(few, none)  # counts are at least one


def test_a_batch_of_two_is_the_mean_of_two_images() -> None:
    counts = LossCounts(2.0, 1.5)
    together = Run([BUSY, QUIET]).losses(counts)
    first, second = Run([BUSY]).losses(counts), Run([QUIET], seeds=(1,)).losses(counts)
    assert_equal_losses(together, {name: (first[name] + second[name]) / 2 for name in first})


def test_a_stuff_class_in_two_segments_is_one_target() -> None:
    split = targets_of(SIZE, (4, (0, 0, 20, 44)), (1, (5, 5, 25, 40)), (4, (20, 0, 60, 44)))
    whole = targets_of(SIZE, (4, FULL), (1, (5, 5, 25, 40)))
    assert count_segments([split], THINGS) == count_segments([whole], THINGS) == (1, 1)
    assert_equal_losses(Run([split]).losses(), Run([whole]).losses())


def test_the_losses_of_a_perfect_output_are_zero() -> None:
    """With one thing and one stuff class that cover the image, and no padding, so that resizing changes nothing."""
    targets = targets_of(SIZE, (2, FULL), (5, FULL))
    run = Run([targets], canvas=SIZE)
    logits, boxes = torch.full((LAYERS, 1, QUERIES, THINGS), -30.0), torch.full((LAYERS, 1, QUERIES, 4), 0.25)
    logits[:, 0, 3, 2] = 30.0
    boxes[:, 0, 3] = torch.tensor([0.5, 0.5, 1.0, 1.0])
    location = LocationOutput(logits, boxes, torch.zeros(1, QUERIES, 8))
    stuff_logits = torch.full((2, 1, STUFF), -30.0)
    stuff_logits[:, 0, 2] = 30.0
    stuff_masks = torch.rand(1, STUFF, 6, 8)
    stuff_masks[0, 2] = 1.0
    run.output = TrainingOutput(
        location,
        run.match(location),
        MaskOutput([torch.ones(1, 1, 6, 8)] * 2, []),
        MaskOutput([stuff_masks] * 3, []),
        stuff_logits,
        SIZE,
    )
    assert run.output.selected[0].tolist() == [3]
    losses = run.losses()
    assert set(losses) == ALL_TERMS
    assert all(abs(float(loss)) < 1e-5 for loss in losses.values()), losses
    # The output is not perfect for other targets.
    run.image_targets = [ImageTargets.of(targets_of(SIZE, (2, FULL), (6, FULL)), THINGS)]
    changed = run.losses()
    assert {name for name, loss in changed.items() if loss > 1e-3} == {name for name in ALL_TERMS if "stuff" in name}


def test_the_second_matching_assigns_masks_to_targets() -> None:
    box = (10, 10, 40, 40)
    targets = targets_of(SIZE, (0, box), (0, box))
    targets.masks[0, :, :24] = True
    targets.masks[1] = False
    targets.masks[1, :, 32:] = True
    run = Run([targets])
    run.output.location.class_logits[:] = 0.0
    run.output.location.boxes[:] = 0.5
    halves = torch.zeros(1, 2, 6, 8)
    halves[0, 0, :, :3] = halves[0, 1, :, 4:] = 1.0
    totals = []
    for masks in (halves, halves.flip(1)):
        run.output.things = MaskOutput([masks, masks], [])
        totals.append(float(run.losses()["thing_mask/1"]))
    assert totals[0] == pytest.approx(totals[1])
    assert totals[0] < 0.5  # it would be 2 for disjoint masks


def test_without_targets_there_are_class_losses_and_all_gradients() -> None:
    run = Run([targets_of(SIZE)])
    leaves = [run.output.location.boxes, run.output.stuff_logits, run.output.location.class_logits]
    leaves += [*run.output.things.masks, *run.output.stuff.masks]
    for leaf in leaves:
        leaf.requires_grad_()
    losses = run.losses()
    assert {name for name, loss in losses.items() if loss > 0} == {n for n in ALL_TERMS if "class" in n}
    gradients = torch.autograd.grad(torch.stack(list(losses.values())).sum(), leaves)  # raises for an unused one
    assert all(gradient.isfinite().all() for gradient in gradients)


class Synchronizations(TorchDispatchMode):
    """Collects the operations that would synchronize with a GPU for their result or its size."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if by_mask or name in ("_local_scalar_dense", "nonzero", "_unique2", "masked_select"):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "synchronize", [lambda x: x[x > 0], lambda x: x.sum().item(), lambda x: x.unique(), torch.nonzero]
)
def test_synchronizing_operations_are_found(synchronize: Any) -> None:
    with Synchronizations() as synchronizations:
        synchronize(torch.ones(3))
    assert len(synchronizations.found) == 1


def test_only_matching_costs_are_copied_from_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for the first matching of all images and layers, then once per image for the second."""
    run, to_cpu, copies = Run([BUSY, QUIET]), Tensor.cpu, list[Tensor]()

    def counted(tensor: Tensor) -> Tensor:
        copies.append(tensor)
        return to_cpu(tensor)

    monkeypatch.setattr(Tensor, "cpu", counted)
    monkeypatch.setattr(Tensor, "tolist", None)
    with Synchronizations() as synchronizations:
        run.match(run.output.location)
        first = len(copies)
        PanopticCriterion(THINGS)(run.output, run.image_targets, run.matches, LossCounts(2.0, 1.5))
    assert synchronizations.found == []
    assert (first, len(copies)) == (1, 3)
