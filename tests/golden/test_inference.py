"""Inference, compared with recordings of the reference implementation: every stage of the network, and merging.

README.md describes the recordings: synthetic weights and synthetic images.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from panformer_cli.data.categories import CategoryTable
from panformer_cli.data.coco.coco_categories import COCO
from panformer_cli.data.structures import PanopticMap
from panformer_cli.models.layers.common import inverse_sigmoid
from panformer_cli.models.panoptic_segformer.encoder import resize_padding_mask
from panformer_cli.models.panoptic_segformer.location_decoder import LocationOutput
from panformer_cli.models.panoptic_segformer.mask_decoder import MaskOutput
from panformer_cli.models.panoptic_segformer.model import PanopticSegFormer
from panformer_cli.models.panoptic_segformer.output import InferenceOutput
from panformer_cli.models.panoptic_segformer.postprocessing import Candidates, candidates_of, merge_masks
from panformer_cli.models.panoptic_segformer.query_selection import gather_queries, select_top
from panformer_cli.models.panoptic_segformer.settings import MergingSettings
from tests.golden.conftest import recordings_folder, variants_recorded
from tests.golden.recordings import Array, FidelityTable, Recording, relative
from tests.golden.release import STUFF, THINGS, filled_model

pytestmark = pytest.mark.slow

CLOSE = 1e-4
"""Tolerance: largest difference / largest value."""

STAGES = {
    "backbone C3, C4, C5": ["backbone.0", "backbone.1", "backbone.2"],
    "neck": [f"neck.{level}" for level in range(4)],
    "position encoding": ["pos_embed"],
    "encoder, 6 layers": [*(f"encoder.{layer}" for layer in range(6)), "memory"],
    "location decoder, queries of 6 layers": ["hs"],
    "initial reference": ["init_reference"],
    "boxes of 6 layers": ["bbox_preds", "inter_references", "head_reference"],
    "class logits of 6 layers": [f"cls_scores.{layer}" for layer in range(6)],
}
MASK_STAGES = {
    "{kind} queries of the mask decoder": ["query_in", *(f"inter_query.{block}" for block in range(6))],
    "{kind} masks of the blocks": [f"inter_mask.{block}" for block in range(6)],
    "{kind} masks of the tail before the ReLU": ["mask_prerelu"],
    "{kind} masks of the tail": ["mask"],
}


@dataclass
class Evaluation:
    """A forward pass over a recorded input, with its intermediate tensors by their names in the recording."""

    name: str
    recording: Recording
    output: InferenceOutput
    location: LocationOutput
    stages: dict[str, Tensor] = field(default_factory=dict)

    def candidates(self, image: int, prefix: str) -> Candidates:
        """Return the candidates of an image; `prefix` is that of its arrays, such as `a.`."""
        height, width, _ = self.recording.notes[f"{prefix}meta"]["ori_shape"]
        return candidates_of(self.output, image, (height, width), THINGS)


def record_location(model: PanopticSegFormer) -> list[LocationOutput]:
    """Return a list to which every run of the model appends the output of the location decoder."""
    outputs: list[LocationOutput] = []
    model.location_decoder.register_forward_hook(lambda _, __, output: outputs.append(output))
    return outputs


def record_stages(model: PanopticSegFormer, stages: dict[str, Tensor]) -> None:
    """Fill `stages` on every run of the model."""

    def keep(module: nn.Module, name: str) -> None:
        def hook(_: nn.Module, __: Any, result: Any) -> None:
            if isinstance(result, list):
                stages.update({f"{name}.{number}": tensor for number, tensor in enumerate(result)})
            else:
                stages[name] = result

        module.register_forward_hook(hook)

    keep(model.backbone, "backbone")
    keep(model.neck, "neck")
    for number, layer in enumerate(model.encoder.layers):
        keep(layer, f"encoder.{number}")
    for number, layer in enumerate(model.location_decoder.layers):
        keep(layer, f"hs.{number}")
    keep(model.location_decoder.reference_points, "reference_logits")


def decode_every_mask(model: PanopticSegFormer, location: LocationOutput, stages: dict[str, Tensor]) -> None:
    """Run both mask decoders again on the same memory, as in training, with the masks of their blocks."""
    shapes = [(side[-2], side[-1]) for side in (stages[f"neck.{level}"].shape for level in range(3))]
    memory = stages["encoder.5"][:, : sum(height * width for height, width in shapes)]
    content, position = model.stuff_queries.content_and_position()
    thing_queries = gather_queries(location.queries, select_top(location.class_logits[-1], 100).queries)
    stuff_queries = content.expand(len(memory), -1, -1)
    parts = (
        ("things", model.thing_mask_decoder, thing_queries, None),
        ("stuff", model.stuff_mask_decoder, stuff_queries, position),
    )
    for kind, decoder, queries, shift in parts:
        decoded: MaskOutput = decoder(queries, shift, memory, shapes, every_mask=True)
        *blocks, tail = [masks.flatten(2) for masks in decoded.masks]
        stages[f"{kind}.query_in"], stages[f"{kind}.mask"] = queries, tail
        stages.update({f"{kind}.inter_mask.{block}": masks for block, masks in enumerate(blocks)})
        stages.update({f"{kind}.inter_query.{block}": x for block, x in enumerate(decoded.queries)})
        last = decoded.queries[-1] if shift is None else decoded.queries[-1] + shift
        stages[f"{kind}.mask_prerelu"] = before_relu(decoder.tail, last, memory, shapes)


def before_relu(tail: Any, queries: Tensor, memory: Tensor, shapes: list[tuple[int, int]]) -> Tensor:
    """Return the tail's mask without its last ReLU, by a plain implementation (docs/model.md, "Mask decoders")."""
    q, k = (x.unflatten(-1, (tail.heads, -1)).transpose(1, 2) for x in (tail.q(queries), tail.k(memory)))
    logits = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
    levels = logits.split([height * width for height, width in shapes], dim=-1)
    channels = []
    for linear, logits, shape in zip(tail.mask_head.levels, levels, shapes, strict=True):
        mixed = linear(logits.permute(0, 2, 3, 1)).relu()  # (B, Q, length, heads)
        grid = mixed.transpose(2, 3).flatten(0, 1).unflatten(-1, shape)
        channels.append(nn.functional.interpolate(grid, shapes[0], mode="bilinear", align_corners=False))
    all_channels = torch.cat(channels, dim=1).flatten(2).transpose(1, 2)  # (B Q, length, 24)
    mask: Tensor = tail.mask_head.output(all_channels).squeeze(-1)
    unflattened: Tensor = mask.unflatten(0, queries.shape[:2])
    return unflattened


def evaluate(name: str, variant: str, recording: Recording, images: Tensor, padding: Tensor) -> Evaluation:
    model = filled_model(variant, train=False)
    stages, locations = dict[str, Tensor](), record_location(model)
    record_stages(model, stages)
    with torch.no_grad():
        output = model.infer(images, padding)
        (location,) = locations
        shapes = [tuple(stages[f"neck.{level}"].shape[-2:]) for level in range(4)]
        masks = [resize_padding_mask(padding, (height, width)) for height, width in shapes]
        stages["pos_embed"] = model.encoder.position(masks)
        decode_every_mask(model, location, stages)
    stages["memory_mask"] = torch.cat([mask.flatten(1) for mask in masks], dim=1).int()
    stages["memory"] = stages["encoder.5"]
    stages["hs"] = torch.stack([stages.pop(f"hs.{layer}").transpose(0, 1) for layer in range(6)])
    stages["init_reference"] = stages.pop("reference_logits").sigmoid()
    stages["bbox_preds"] = stages["inter_references"] = location.boxes
    stages["head_reference"] = inverse_sigmoid(location.boxes[4])
    stages.update({f"cls_scores.{layer}": logits for layer, logits in enumerate(location.class_logits)})
    return Evaluation(name, recording, output, location, stages)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize by every image of every `eval_<variant>` in the folder of recordings."""
    if "single" in metafunc.fixturenames:
        folder = recordings_folder(metafunc.config)
        rounds = []
        for variant in variants_recorded(metafunc.config, "eval_{}"):
            notes = Recording(folder, f"eval_{variant}").notes
            rounds += [(variant, name.removesuffix(".meta")) for name in notes if name.endswith(".meta")]
        metafunc.parametrize("single", rounds, indirect=True, scope="module", ids="-".join)


@pytest.fixture(scope="module")
def single(request: pytest.FixtureRequest, recordings: Path, inputs: dict[str, Tensor]) -> tuple[Evaluation, str]:
    """Return the evaluation of a single image, and the prefix of its arrays."""
    variant, image = request.param
    images = inputs[image][None]
    padding = torch.zeros(1, *images.shape[-2:], dtype=torch.bool)
    recording = Recording(recordings, f"eval_{variant}")
    return evaluate(variant, variant, recording, images, padding), f"{image}."


def measure_stages(fidelity: FidelityTable, evaluation: Evaluation, prefix: str) -> None:
    recording = evaluation.recording
    masks = recording.arrays[f"{prefix}memory_mask"].reshape(-1)
    assert (evaluation.stages["memory_mask"].numpy().reshape(-1) == masks).all()
    for stage, names in STAGES.items():
        found = {name: recording.distance(prefix + name, evaluation.stages[name]) for name in names}
        fidelity.measure(stage, evaluation.name, found, CLOSE)


def measure_masks(fidelity: FidelityTable, evaluation: Evaluation, image: int, prefix: str) -> None:
    recording = evaluation.recording
    for kind, blocks in (("things", 4), ("stuff", 6)):
        for stage, names in MASK_STAGES.items():
            own = [f"{kind}.{name}" for name in names if not name[-1].isdecimal() or int(name[-1]) < blocks]
            found = {name: recording.distance(prefix + name, evaluation.stages[name][image]) for name in own}
            fidelity.measure(stage.format(kind=kind.removesuffix("s")), evaluation.name, found, CLOSE)
    scores = evaluation.output.stuff_scores[image]
    fidelity.measure("stuff scores", evaluation.name, recording.distance(f"{prefix}stuff_scores", scores), CLOSE)


def test_every_stage_of_the_network(single: tuple[Evaluation, str], fidelity: FidelityTable) -> None:
    evaluation, prefix = single
    measure_stages(fidelity, evaluation, prefix)
    measure_masks(fidelity, evaluation, 0, prefix)


@dataclass
class Merging:
    """The merging of one image, with its recording.

    Attributes:
        order: our candidate for each of the 153 recorded ones. Near ties among the 100 things can be swapped.
    """

    evaluation: Evaluation
    candidates: Candidates
    prefix: str
    order: Array

    @classmethod
    def of(cls, evaluation: Evaluation, image: int, prefix: str) -> Merging:
        top = select_top(evaluation.location.class_logits[-1], 100)
        queries, labels = top.queries[image].tolist(), evaluation.output.labels[image].tolist()
        index = {pair: number for number, pair in enumerate(zip(queries, labels, strict=True))}
        arrays = evaluation.recording.arrays
        recorded = arrays[f"{prefix}det.bbox_index"].tolist(), arrays[f"{prefix}det.labels"].tolist()
        things = [index[pair] for pair in zip(*recorded, strict=True)]  # a KeyError means a different query or class
        assert len(set(things)) == len(things) == 100
        order = np.array([*things, *range(100, 100 + STUFF)])
        return cls(evaluation, evaluation.candidates(image, prefix), prefix, order)

    def recorded(self, name: str) -> Array:
        array: Array = self.evaluation.recording.arrays[self.prefix + name]
        return array

    def measure(self, fidelity: FidelityTable, stage: str, difference: float, limit: float) -> None:
        fidelity.measure(stage, self.evaluation.name, difference, limit)


def measure_detections(fidelity: FidelityTable, merging: Merging) -> None:
    theirs, order, candidates = merging.recorded("det.bboxes"), merging.order[:100], merging.candidates
    boxes = np.abs(candidates.boxes[order] - theirs[:, :4]).max()
    scores = np.abs(candidates.class_scores[order] - theirs[:, 4]).max()
    merging.measure(fidelity, "100 detections: boxes, pixels", float(boxes), 1e-2)
    merging.measure(fidelity, "100 detections: class scores", float(scores), CLOSE)


def measure_masks_and_scores(fidelity: FidelityTable, merging: Merging) -> None:
    order, candidates = merging.order, merging.candidates
    masks = np.stack([candidates.enlarged(index) for index in order])
    distance = merging.evaluation.recording.distance(f"{merging.prefix}masks_ori", torch.from_numpy(masks))
    merging.measure(fidelity, "masks at the original image size", distance, CLOSE)
    areas, theirs = (masks > 0.5).sum((1, 2)), merging.recorded("post.mask_area")
    merging.measure(fidelity, "mask areas", relative(areas, theirs), 1e-3)
    scores, theirs = candidates.scores()[order], merging.recorded("post.scores_presort")
    assert (theirs > 0.25).sum() >= 3
    merging.measure(fidelity, "scores", float(np.abs(scores - theirs).max()), CLOSE)


def measure_instances(fidelity: FidelityTable, merging: Merging) -> None:
    """Compare the results with a score above 0, by score. The order of those with score 0 is arbitrary."""
    candidates, theirs = merging.candidates, merging.recorded("result.bboxes")
    scores = candidates.scores()[:100]
    order = np.argsort(-scores)[: int((theirs[:, 4] > 0).sum())]
    count = len(order)
    assert count >= 3
    assert int((scores > 0).sum()) == count
    assert candidates.labels[order].tolist() == merging.recorded("result.labels")[:count].tolist()
    boxes = np.abs(candidates.boxes[order] - theirs[:count, :4]).max()
    merging.measure(fidelity, "instances: boxes, pixels", float(boxes), 1e-2)
    merging.measure(fidelity, "instances: scores", float(np.abs(scores[order] - theirs[:count, 4]).max()), CLOSE)
    binary = np.stack([candidates.binary(int(index)) for index in order])
    areas = merging.recorded("result.segm_areas")[:count]
    assert np.abs(binary.sum((1, 2)) - areas).max() <= 1e-3 * areas.max()
    if f"{merging.prefix}result.segm_packbits" in merging.evaluation.recording:
        packed = merging.recorded("result.segm_packbits")[:count]
        masks = np.unpackbits(packed, axis=1)[:, : binary[0].size].reshape(binary.shape).astype(bool)
        merging.measure(fidelity, "instances: share of differing pixels", float((binary != masks).mean()), 1e-3)


def category_and_instance(panoptic: PanopticMap, categories: CategoryTable) -> Array:
    """Return the category id, and for things their number in order of acceptance, (2, H, W)."""
    maps = np.zeros((2, *panoptic.ids.shape), dtype=np.int64)
    things = 0
    for segment in sorted(panoptic.segments, key=lambda segment: segment.id):
        here = panoptic.ids == segment.id
        maps[0][here] = segment.category_id
        if categories.by_id(segment.category_id).is_thing:
            things += 1
            maps[1][here] = things
    return maps


def measure_map(fidelity: FidelityTable, merging: Merging, recipe: MergingSettings) -> None:
    panoptic = merge_masks(merging.candidates, COCO, recipe)
    ours, theirs = category_and_instance(panoptic, COCO), merging.recorded("panoptic")
    segments = {tuple(pair) for pair in theirs.reshape(2, -1).T.tolist()} - {(0, 0)}
    assert len(segments) >= 3
    assert {tuple(pair) for pair in ours.reshape(2, -1).T.tolist()} - {(0, 0)} == segments
    merging.measure(fidelity, "panoptic map: share of differing pixels", float((ours != theirs).any(0).mean()), 1e-3)
    accepted = [row for row in merging.recorded("post.merge_log") if row[4] == 2]
    scores = merging.recorded("post.scores_presort")
    assert [COCO.label(segment.category_id) for segment in panoptic.segments] == [row[1] for row in accepted]
    for segment, (index, *_) in zip(panoptic.segments, accepted, strict=True):
        assert segment.score == pytest.approx(float(scores[index]), abs=CLOSE)


def measure_merging(fidelity: FidelityTable, merging: Merging, recipe: MergingSettings) -> None:
    measure_detections(fidelity, merging)
    measure_masks_and_scores(fidelity, merging)
    measure_instances(fidelity, merging)
    measure_map(fidelity, merging, recipe)


def thresholds(recording: Recording) -> MergingSettings:
    score, same_score, thing_overlap, stuff_overlap = recording.notes["thresholds"]
    assert score == same_score
    return MergingSettings(score_threshold=score, thing_overlap=thing_overlap, stuff_overlap=stuff_overlap)


def test_from_masks_to_results(single: tuple[Evaluation, str], fidelity: FidelityTable) -> None:
    evaluation, prefix = single
    measure_merging(fidelity, Merging.of(evaluation, 0, prefix), thresholds(evaluation.recording))


def test_the_model_optimized_for_inference(
    recordings: Path, inputs: dict[str, Tensor], fidelity: FidelityTable
) -> None:
    """As `evaluate` and `predict` run it: BatchNorm folded, channels last, fused attention, masks in chunks."""
    images = inputs["a"][None].contiguous(memory_format=torch.channels_last)
    model = filled_model("r50", train=False)
    model.optimize_for_inference()
    locations = record_location(model)
    with torch.inference_mode():
        output = model.infer(images, torch.zeros(1, *images.shape[-2:], dtype=torch.bool))
    recording = Recording(recordings, "eval_r50")
    evaluation = Evaluation("r50, as evaluated", recording, output, locations[0])
    masks = {"a.things.mask": output.masks, "a.stuff.mask": output.stuff_masks}
    found = {name: recording.distance(name, mask.flatten(2)) for name, mask in masks.items()}
    found["a.bbox_preds"] = recording.distance("a.bbox_preds", locations[0].boxes)
    fidelity.measure("boxes of 6 layers and masks of the tail", evaluation.name, found, CLOSE)
    measure_merging(fidelity, Merging.of(evaluation, 0, "a."), thresholds(recording))


def test_a_padded_batch_of_two(recordings: Path, inputs: dict[str, Tensor], fidelity: FidelityTable) -> None:
    images, padding = torch.zeros(2, 3, 192, 268), torch.ones(2, 192, 268, dtype=torch.bool)
    for number, name in enumerate(("a", "b_small")):
        height, width = inputs[name].shape[-2:]
        images[number, :, :height, :width] = inputs[name]
        padding[number, :height, :width] = False
    recording = Recording(recordings, "eval_r50_batch2")
    evaluation = evaluate("r50, padded batch of 2", "r50", recording, images, padding)
    assert evaluation.stages["memory_mask"].any()
    measure_stages(fidelity, evaluation, "")
    for image, prefix in enumerate(("a.", "b.")):
        measure_masks(fidelity, evaluation, image, prefix)
        measure_merging(fidelity, Merging.of(evaluation, image, prefix), MergingSettings())
