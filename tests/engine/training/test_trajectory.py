"""Optimizer steps, compared with a plain loop written from docs/model.md: matching, losses, clipping, AdamW.

Only the network is shared. The loop reads the images with PIL, takes GIoU from torchvision, and updates each parameter
with the formulas of AdamW. Both compute in float64: in float32 the last bits differ from the first step on, and AdamW
divides small gradients by their own size, so that the losses differ by 3e-3 after 50 steps.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import generalized_box_iou

from panformer_cli.data.coco.coco_panoptic import CocoPanoptic
from panformer_cli.data.loading import train_loader
from panformer_cli.data.structures import Batch
from panformer_cli.engine.distributed.runtime import Process
from panformer_cli.engine.training.schedule import learning_rate_factor
from panformer_cli.engine.training.step import OptimizerStep
from panformer_cli.models.build import build_model
from panformer_cli.recipe import Recipe
from tests.engine.small import categories_of, small_recipe, small_scenes

STEPS, EPOCH, BATCH, LR, SLOW, DECAY, CLIP, WARMUP, DROPS = 50, 4, 2, 1e-3, 0.1, 1e-2, 0.1, 5, (4, 9)

PORTABLE = Process(0, 1, torch.device("cpu"), sampling="portable")


class PlainImage:
    """An image with its targets, read from the files: all are 64 x 64 pixels, so nothing is resized."""

    def __init__(self, data: Path, annotation: dict[str, Any], labels: dict[int, int], things: int) -> None:
        stem = annotation["file_name"]
        pixels = np.array(Image.open(data / "images" / "train" / stem).convert("RGB"), np.float64)
        mean, deviation = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
        self.pixels = torch.tensor((pixels - mean) / deviation, dtype=torch.float64).permute(2, 0, 1)[None]
        rgb = np.array(Image.open(data / "annotations" / "panoptic_train" / stem), np.int64)
        ids = rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]
        segments = [segment for segment in annotation["segments_info"] if not segment["iscrowd"]]
        masks = {segment["id"]: ids == segment["id"] for segment in segments}
        own = [(labels[segment["category_id"]], masks[segment["id"]]) for segment in segments]
        objects = [(label, mask) for label, mask in own if label < things]
        self.labels = torch.tensor([label for label, _ in objects], dtype=torch.int64)
        self.masks = torch.tensor(np.array([mask for _, mask in objects]).reshape(-1, 64, 64), dtype=torch.float64)
        corners = [np.argwhere(mask) for _, mask in objects]
        boxes = [[*at.min(0)[::-1], *(at.max(0)[::-1] + 1)] for at in corners]
        self.boxes = torch.tensor(np.array(boxes).reshape(-1, 4), dtype=torch.float64)
        of_stuff: dict[int, Any] = {}
        for label, mask in own:
            if label >= things:
                of_stuff[label - things] = of_stuff.get(label - things, False) | mask
        self.stuff = sorted(of_stuff)
        stuff = np.array([of_stuff[label] for label in self.stuff]).reshape(-1, 64, 64)
        self.stuff_masks = torch.tensor(stuff, dtype=torch.float64)


def corners_of(boxes: Tensor) -> Tensor:
    center, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([center - size / 2, center + size / 2], -1)


def focal(logits: Tensor, targets: Tensor) -> Tensor:
    p = logits.sigmoid()
    positive = -0.25 * (1 - p) ** 2 * F.logsigmoid(logits)
    negative = -0.75 * p**2 * F.logsigmoid(-logits)
    return (targets * positive + (1 - targets) * negative).sum()


def resized(masks: Tensor, size: int) -> Tensor:
    return F.interpolate(masks[None], (size, size), mode="bilinear", align_corners=False)[0]


def dice(masks: Tensor, targets: Tensor) -> Tensor:
    """Each mask (n, h, w) with its target (n, 64, 64), at stride 4."""
    if not len(masks):
        return masks.sum()
    size = 2 * masks.shape[-1]
    p, t = resized(masks, size).flatten(1), resized(targets, size).flatten(1)
    return (1 - 2 * (p * t).sum(1) / ((p**2).sum(1) + 1e-6 + (t**2).sum(1) + 1e-6)).sum()


def matched(logits: Tensor, boxes: Tensor, image: PlainImage, weight: float, more: Any = 0) -> tuple[Any, Any]:
    """Return the cheapest pairs of queries and objects, in ascending order of the queries."""
    with torch.no_grad():
        p = logits.sigmoid()
        cost = 0.25 * (1 - p) ** 2 * -(p + 1e-12).log() - 0.75 * p**2 * -(1 - p + 1e-12).log()
        distance = (boxes[:, None] - normalized(image.boxes)).abs().sum(-1)
        overlap = generalized_box_iou(corners_of(boxes) * 64, image.boxes)
        total = weight * cost[:, image.labels] + 5 * distance - 2 * overlap + more
        queries, objects = linear_sum_assignment(total.numpy())
    return queries, objects


def normalized(boxes: Tensor) -> Tensor:
    return torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1) / 64


def losses_of(model: Any, image: PlainImage, things: float, stuff: float) -> Tensor:
    """Return the total loss of an image; `things` and `stuff` are the mean numbers per image of the step."""
    memory = model.encode(image.pixels, torch.zeros(1, 64, 64, dtype=torch.bool))
    location = model.location_decoder(memory)
    of_things = torch.zeros(())
    for logits, boxes in zip(location.class_logits[:, 0], location.boxes[:, 0], strict=True):
        queries, objects = matched(logits, boxes, image, 2)
        targets = torch.zeros_like(logits)
        targets[queries, image.labels[objects]] = 1
        target_boxes = image.boxes[objects]
        overlap = generalized_box_iou(corners_of(boxes[queries]) * 64, target_boxes).diagonal()
        of_things = of_things + 2 * focal(logits, targets) + 2 * (1 - overlap).sum()
        of_things = of_things + 5 * (boxes[queries] - normalized(target_boxes)).abs().sum()
    chosen = torch.as_tensor(queries)  # of the last layer
    things_out, stuff_out, stuff_logits = model.decode_masks(memory, location.queries[:, chosen], every_mask=True)
    tail = things_out.masks[-1][0].detach().flatten(1)
    small = resized(image.masks, things_out.masks[-1].shape[-1]).flatten(1)
    squares = ((tail**2).sum(1) + 1e-3)[:, None] + (small**2).sum(1) + 1e-3
    more = 2 * (1 - 2 * tail @ small.T / squares)
    first, objects = matched(logits[chosen], boxes[chosen], image, 4, more)
    for masks in things_out.masks:
        of_things = of_things + 2 * dice(masks[0, first], image.masks[objects])
    of_stuff = torch.zeros(())
    for masks in stuff_out.masks:
        of_stuff = of_stuff + 2 * dice(masks[0, image.stuff], image.stuff_masks)
    for logits in stuff_logits[:, 0]:
        targets = torch.zeros_like(logits)
        targets[image.stuff] = 1
        of_stuff = of_stuff + 4 * focal(logits, targets)
    return (of_things + of_stuff) / (things + stuff)  # divided by T, times T / (T + S), and likewise for stuff


def plain_losses(recipe: Recipe, data: Path) -> list[float]:
    """Return the loss of each step of the plain loop."""
    categories = categories_of(data)
    torch.manual_seed(recipe.train.seed)
    model: Any = build_model(recipe.model, recipe.inference, categories, sampling="portable").double().train()
    content = json.loads((data / "annotations" / "panoptic_train.json").read_text())
    rows = sorted(content["categories"], key=lambda row: (not row["isthing"], row["id"]))
    labels, num_things = {row["id"]: at for at, row in enumerate(rows)}, sum(row["isthing"] for row in rows)
    images = [PlainImage(data, annotation, labels, num_things) for annotation in content["annotations"]]
    parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
    first = {name: torch.zeros_like(value) for name, value in parameters.items()}
    second = {name: torch.zeros_like(value) for name, value in parameters.items()}
    result = []
    for step in range(STEPS):
        epoch, at = divmod(step, EPOCH)
        order = np.random.default_rng((recipe.train.seed, epoch, 0)).permutation(len(images))
        batch = [images[index] for index in order[at * BATCH : (at + 1) * BATCH]]
        things = max(1.0, sum(len(image.labels) for image in batch) / BATCH)
        stuff = max(1.0, sum(len(image.stuff) for image in batch) / BATCH)
        model.zero_grad()
        total = 0.0
        for image in batch:
            loss = losses_of(model, image, things, stuff) / BATCH
            loss.backward()
            total += loss.item()
        result.append(total)
        rate = LR * min(1, (step + 1) / (WARMUP + 1)) * 0.1 ** sum(epoch >= drop for drop in DROPS)
        norm = float(sum((value.grad.double() ** 2).sum() for value in parameters.values())) ** 0.5
        with torch.no_grad():
            for name, value in parameters.items():
                slow = any(part in name for part in ("backbone", "sampling_offsets", "reference_points"))
                gradient, lr = value.grad * min(1, CLIP / norm), rate * (SLOW if slow else 1)
                first[name] = 0.9 * first[name] + 0.1 * gradient
                second[name] = 0.999 * second[name] + 0.001 * gradient**2
                mean, square = first[name] / (1 - 0.9 ** (step + 1)), second[name] / (1 - 0.999 ** (step + 1))
                value -= lr * DECAY * value + lr * mean / (square.sqrt() + 1e-8)
    return result


def in_float64(batches: list[Batch]) -> list[Batch]:
    return [replace(batch, images=batch.images.double()) for batch in batches]


@pytest.mark.slow
def test_steps_are_those_of_a_plain_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "float", Tensor.double)  # losses are computed in float32 in bf16 and fp16
    data = small_scenes(tmp_path / "scenes", EPOCH * BATCH, 1)
    settings = {
        "data.flip_probability": 0,
        "model.backbone": "timm/lcnet_035",  # few weights, whose updates would take most of the time
        "model.frozen_batch_norm": "true",
        "train.batch_size": BATCH,
        "train.images_per_forward": 1,
        "train.epochs": 13,
        "train.lr": LR,
        "train.slow_lr_factor": SLOW,
        "train.weight_decay": DECAY,
        "train.clip_norm": CLIP,
        "train.warmup_steps": WARMUP,
        "train.drop_epochs": list(DROPS),
    }
    recipe = small_recipe(data, *(f"{key}={value}" for key, value in settings.items()))
    torch.manual_seed(recipe.train.seed)
    model = build_model(recipe.model, recipe.inference, categories_of(data), sampling="portable").double()
    step = OptimizerStep(PORTABLE, model, recipe.train)
    loader = train_loader(CocoPanoptic(data, "train"), recipe)
    batches = (batch for epoch in range(recipe.train.epochs) for batch in loader.epoch(epoch))
    factors = [learning_rate_factor(recipe.train, number, EPOCH) for number in range(STEPS)]
    losses = [step.take(in_float64(next(batches)), factor).loss for factor in factors]
    np.testing.assert_allclose(losses, plain_losses(recipe, data), rtol=1e-6)
